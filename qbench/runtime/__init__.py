"""Runtimes: what runs an artefact. One file each, one small protocol."""

from qbench.runtime.base import Executable, Runtime, load_runtime

__all__ = ["Executable", "Runtime", "load_runtime"]
