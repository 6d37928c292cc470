"""The ``.qbench`` file: a program on disk, packed, verifiable, and loaded without executing anything.

    save(program, path)      write atomically        to_bytes(program)         the same, in memory
    load(path)               read and verify         from_bytes(data, name)
    size_report(path)        where the bytes go

``docs/format.md`` specifies the format. Every file that cannot be trusted raises
:class:`~qbench.errors.ArtifactError`, whose message names the file and what is wrong with it.
"""

from qbench.artifact.files import from_bytes, load, save, to_bytes
from qbench.artifact.size import SizeReport, TensorSize, size_report

__all__ = ["SizeReport", "TensorSize", "from_bytes", "load", "save", "size_report", "to_bytes"]
