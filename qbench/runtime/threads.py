"""Fewer threads than a run has: networks of some microseconds lose more by waking a second thread than it computes."""

from __future__ import annotations


def check_max_threads(max_threads: int | None) -> None:
    """Raise ValueError unless it is None or at least 1."""
    if max_threads is not None and (isinstance(max_threads, bool) or max_threads < 1):
        raise ValueError(f"max_threads={max_threads}: allowed are null (all threads of the run) and 1 or more")


def at_most(threads: int, max_threads: int | None) -> int:
    """The threads to use of ``threads``."""
    return threads if max_threads is None else min(threads, max_threads)
