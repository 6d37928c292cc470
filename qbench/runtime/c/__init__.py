"""Integer networks as stand-alone C99."""

from qbench.runtime.c.compiled import CompiledNetwork
from qbench.runtime.c.writer import CSource, to_c

__all__ = ["CSource", "CompiledNetwork", "to_c"]
