"""Signal to quantization noise: how far decoded weights are from the ones they stand for."""

from __future__ import annotations

import math

from torch import Tensor

from qbench.program.graph import Program


def sqnr_db(x: Tensor, x_hat: Tensor) -> float:
    """Signal to quantization noise ratio, 10 log10(sum x^2 / sum (x - x_hat)^2), summed in float64.

    Args:
        x: The signal, any shape, not empty.
        x_hat: Its approximation, same shape.

    Returns:
        dB, higher is better. inf where the two are equal (all zero included); -inf where x is all zero and x_hat is
        not, or where only x_hat is infinite; NaN where either holds a NaN or x is infinite.

    Raises:
        ValueError: the shapes differ, or there is no element.
    """
    if x.shape != x_hat.shape or x.numel() == 0:
        raise ValueError(f"tensors of one shape are needed, not {tuple(x.shape)} and {tuple(x_hat.shape)}")
    exact = x.double()
    signal = float(exact.square().sum())
    noise = float((exact - x_hat.double()).square().sum())
    if math.isnan(signal) or math.isnan(noise) or math.isinf(signal):
        return math.nan
    if noise == 0:
        return math.inf
    if signal == 0 or math.isinf(noise):
        return -math.inf
    return 10 * (math.log10(signal) - math.log10(noise))


def weight_sqnr(baseline: Program, compressed: Program) -> dict[str, float]:
    """SQNR of the weights of every layer that both programs hold in the same shape, in dB.

    Folding a batch norm rescales the weights before it, and that is no quantization noise: where ``compressed`` has
    its batch norms folded, pass a ``baseline`` folded the same way. Nothing is folded here.

    Returns:
        Layer name -> dB, in the order of ``compressed``.
    """
    known = {node.name for node in baseline.layers()}
    return {
        node.name: sqnr_db(baseline.weight(node.name), compressed.weight(node.name))
        for node in compressed.layers()
        if node.name in known
        and baseline.tensors[f"{node.name}.weight"].shape == compressed.tensors[f"{node.name}.weight"].shape
    }
