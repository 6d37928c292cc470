"""Running out of memory, which torch reports in several ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qbench.errors import TrainingError


@contextmanager
def memory_errors(advice: str = "out of memory while training: lower train.batch_size") -> Iterator[None]:
    """Turn running out of memory into a TrainingError that says what to do."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise TrainingError(advice) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise TrainingError(advice) from error
        raise
