"""A training checkpoint: one file, replaced atomically, with its own checksum at the end."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from qbench.files import write_atomic

logger = logging.getLogger(__name__)
DIGEST_BYTES = 32


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    write_atomic(path, data + hashlib.sha256(data).digest())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None if there is none. A damaged one is reported and ignored: training starts again.

    Read with ``weights_only``, so that a file can never run code.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    data, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        logger.warning("checkpoint %s is damaged (checksum); training starts from its first epoch", path.name)
        return None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        logger.warning("checkpoint %s cannot be read (%s); training starts from its first epoch", path.name, error)
        return None
    return state
