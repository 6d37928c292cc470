"""Names of an artefact's files; files written whole or not at all, and their checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SEAL = "~sha256"  # sorts behind every other key
_SEAL_TEXT = f',\n "{SEAL}": "'.encode()
_END = b'"\n}\n'
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})  # errors of writing alone

ARTIFACT = "model.qbench"  # in the folder of a quantize stage, or of a run
CARD = "model.json"  # in its place, beside the files of another library: see foreign.py


def write_atomic(path: Path, data: bytes | Iterable[bytes], *, durable: bool = True) -> None:
    """Write a file so that a reader (or a crash) sees the old content or the new one, never a part.

    ``data`` may come in pieces.
    ``durable`` waits until the content would survive a power failure; what can be made again need not.
    """
    if not path.parent.is_dir():  # one look over a network instead of two
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as stream:
            stream.writelines([data] if isinstance(data, bytes) else data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sealed_json(content: dict[str, Any]) -> bytes:
    """Indented JSON with sorted keys whose last entry, ``~sha256``, is the digest of every byte before its value."""
    text = json.dumps(content, indent=1, sort_keys=True, default=str, allow_nan=False).encode()
    body = text.removesuffix(b"\n}") + _SEAL_TEXT
    return body + hashlib.sha256(body).hexdigest().encode() + _END


def read_sealed_json(data: bytes, leave_out: Sequence[str] = ()) -> Any:
    """The content of a file that :func:`sealed_json` made, without the seal; that of one without a seal as it is.

    Args:
        data: The file.
        leave_out: Entries that the caller has no use for. They are checked, but may be left out: it saves their time.

    Raises:
        ValueError: The seal does not match, or this is no JSON.
    """
    body, found, rest = data.rpartition(_SEAL_TEXT)
    if found and rest != hashlib.sha256(body + found).hexdigest().encode() + _END:
        raise ValueError("its content does not match its checksum: it was altered or damaged after it was written")
    if found and leave_out:
        return json.loads(_without(body, leave_out))
    content = json.loads(data)
    if isinstance(content, dict):
        if SEAL in content and not found:
            raise ValueError("its checksum is not where it was written: it was altered or damaged")
        content.pop(SEAL, None)
    return content


def _without(body: bytes, leave_out: Sequence[str]) -> bytes:
    """The JSON without these entries: each begins on a line of its own, indented by one, and nothing else does."""
    entries = body.split(b'\n "')
    unwanted = tuple(f'{name}"'.encode() for name in leave_out)
    kept = [entry for entry in entries[1:] if not entry.startswith(unwanted)]
    return b'{"' + b'"'.join(kept).rstrip(b",") + b"}" if kept else b"{}"


def has_no_room(error: BaseException | None) -> OSError | None:
    """The refusal to write behind an error: the disk is full, a quota is used up, the file system is read-only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error
        error = error.__cause__ or error.__context__
    return None
