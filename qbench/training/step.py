"""The gradients of one batch, computed in one piece or in several, by one process or by several."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from qbench.training.distributed import Ranks
from qbench.training.objective import Batch


def parts_of(count: int, parts: int) -> list[slice]:
    """``count`` images as so many runs of neighbours, whose lengths differ by one at most."""
    return [slice(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


def accumulate_gradients(
    net: nn.Module, batch: Batch, loss_of: Callable[[Batch], Tensor], accumulate: int, ranks: Ranks
) -> Tensor:
    """Leave the gradients of the batch's mean loss in the parameters of ``net``, the same in every process.

    Args:
        net: Of :meth:`Ranks.shared`; its gradients are zero or None.
        batch: The whole batch, the same in every process; at least one image for each part.
        loss_of: Mean loss of a part of it, computed with ``net``.
        accumulate: Parts of this process's share that follow one another.
        ranks: This process and how many there are.

    Returns:
        This process's summand of the batch's mean loss: a scalar.
    """
    parts = parts_of(len(batch), ranks.count * accumulate)
    mine = parts[ranks.rank * accumulate : (ranks.rank + 1) * accumulate]
    total = torch.zeros((), device=batch.images.device)
    for number, part in enumerate(mine, 1):
        weight = (part.stop - part.start) / len(batch)
        with ranks.without_exchange(net) if number < accumulate else nullcontext():
            loss = loss_of(batch.part(part))
            # the exchange takes the mean over processes, not the sum
            (loss * (weight * ranks.count)).backward()
        total += loss.detach() * weight
    return total
