"""Make files that qbench would never write, with a correct checksum so that only deeper checks can refuse them."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import safetensors.torch
from torch import Tensor

from qbench.artifact import container


def redigest(data: bytes) -> bytes:
    """The same file with its last 32 bytes made the checksum of the rest."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def open_up(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """(qbench JSON, entries of the safetensors header, data with the checksum)."""
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    content = json.loads(entries.pop("__metadata__")["qbench"])
    return content, entries, data[start:]


def close_up(content: Any, entries: Any, body: bytes) -> bytes:
    """A file from such parts, whatever they are by now; lengths and checksum are right."""
    text = content if isinstance(content, str) else json.dumps(content, separators=(",", ":"))
    header = json.dumps({"__metadata__": {"qbench": text}, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return redigest(len(header).to_bytes(8, "little") + header + body)


def edited(data: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with its qbench JSON changed in place by ``edit``."""
    content, entries, body = open_up(data)
    edit(content)
    return close_up(content, entries, body)


def rearranged(data: bytes, edit: Callable[[dict[str, Tensor]], object]) -> bytes:
    """The file with its arrays changed in place by ``edit``."""
    content, _, _ = open_up(data)
    arrays = safetensors.torch.load(data)
    del arrays["~sha256"]
    edit(arrays)
    return container.join(json.dumps(content, separators=(",", ":")), arrays)
