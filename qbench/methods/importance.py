"""How much each weight matters: element weights for methods that minimise a weighted squared error of the weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import unfold

from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.program.graph import Node, Program
from qbench.program.materialize import materialize
from qbench.training.trainable import TrainableProgram

IMPORTANCES = ("activation", "fisher")
FISHER_BATCH = 8


def importance(kind: str, program: Program, layers: Collection[str], context: Context) -> dict[str, Tensor]:
    """Layer -> a number >= 0 for each of its weights, float32, shaped like the weight, on the CPU.

    Args:
        kind: activation (:func:`input_power`) or fisher (:func:`fisher_diagonal`).
        program: A float program.
        layers: The layers asked for.
        context: Its calibration images.

    Raises:
        MethodError: There are no calibration images.
        ValueError: An unknown kind.
    """
    if kind not in IMPORTANCES:
        raise ValueError(f"importance {kind!r}: allowed are {', '.join(IMPORTANCES)}")
    if not context.calibration:
        raise MethodError(f"weighting={kind}", "needs calibration images")
    nodes = [node for node in program.layers() if node.name in layers]
    return input_power(program, nodes, context) if kind == "activation" else fisher_diagonal(program, nodes, context)


def input_power(program: Program, nodes: Collection[Node], context: Context) -> dict[str, Tensor]:
    """E[x^2] of the input x that each weight multiplies, over images and output positions.

    This is the diagonal of the Hessian of the layer's squared output error. The moment is that of the unfolded input: a
    weight at the rim of a kernel meets zero padding more often than one in the middle.

    Source: Nagel et al., arXiv:2004.10568, sec. 3.2 (the Hessian of the layer-wise objective), its diagonal.
    """
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        readers.setdefault(node.inputs[0], []).append(node)
    sums: dict[str, Tensor] = {}

    def observe(name: str, value: Tensor) -> None:
        if name in readers:
            power = value.double().square().sum(0)
            sums[name] = sums[name] + power if name in sums else power

    module = materialize(program).to(context.device)
    module.observe = observe
    with torch.no_grad():
        for batch in context.calibration:
            module(batch.to(context.device))
    count = sum(len(batch) for batch in context.calibration)
    return {
        node.name: _on_weight(node, sums[name] / count, program.weight(node.name).shape)
        for name, found in readers.items()
        for node in found
    }


def _on_weight(node: Node, power: Tensor, shape: torch.Size) -> Tensor:
    """From the input's mean square [C, H, W] (or [C]) to one number per weight."""
    if node.op == "linear":
        return power.cpu().float().expand(shape).contiguous()
    a: Any = node.attrs
    columns = unfold(power[None], tuple(shape[2:]), a["dilation"], a["padding"], a["stride"])[0]  # [C * kh * kw, L]
    taps = columns.mean(1).cpu().float().reshape(a["groups"], 1, *shape[1:])
    return taps.expand(a["groups"], shape[0] // a["groups"], *shape[1:]).reshape(shape).contiguous()


def fisher_diagonal(program: Program, nodes: Collection[Node], context: Context) -> dict[str, Tensor]:
    """Mean squared gradient of the log-likelihood with respect to each weight, labels as the network predicts them.

    The expectation over labels is not sampled: with p = softmax(logits) and a random sign vector z per image, the
    logit gradient u = sqrt(p) z - p <sqrt(p), z> has E[u u^T] = diag(p) - p p^T, the Fisher matrix of the logits. As
    images have independent signs, the square of the gradient summed over a small batch has the same expectation as the
    sum of the images' squares.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", arXiv:1801.05787 (the
        diagonal as importance); Martens, arXiv:1412.1193, sec. 9 (the model's own labels).
    """
    network = TrainableProgram(program, fold=False).to(context.device).eval()
    network.requires_grad_(False)
    weights: dict[str, Tensor] = {}
    for node in nodes:
        weight = network.tensor(node, "weight")
        if weight is not None:
            weights[node.name] = weight.requires_grad_(True)
    sums = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights.values()]
    generator = torch.Generator().manual_seed(context.seed)
    context.progress.begin("fisher", len(context.calibration))
    for batch in context.calibration:
        for images in torch.split(batch, FISHER_BATCH):
            logits = network(images.to(context.device))
            signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
            p = torch.softmax(logits.detach(), dim=1)
            direction = p.sqrt() * signs - p * (p.sqrt() * signs).sum(1, keepdim=True)
            gradients = torch.autograd.grad((logits * direction).sum(), list(weights.values()))
            for total, gradient in zip(sums, gradients):
                total.add_(gradient.square())
        context.progress.advance(1)
    context.progress.end()
    count = sum(len(batch) for batch in context.calibration)
    return {name: (total / count).float().cpu() for name, total in zip(weights, sums)}
