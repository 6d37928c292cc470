"""How much a network suffers when one layer alone is quantized: the loss that mixed precision distributes its bits by.

loss    KL(float || quantized) of the predictions, mean over calibration images
fisher  sum F dw^2 / 2, its second-order estimate: F the mean squared gradient of each weight, dw its change
sqnr    |dw|^2 / |w|^2, the inverse signal-to-noise ratio of the weights; needs no images
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from qbench.methods.base import Context
from qbench.program.encodings import Encoding
from qbench.program.graph import Node, Program
from qbench.program.materialize import ProgramModule
from qbench.training.trainable import TrainableProgram

KINDS = ("loss", "fisher", "sqnr")
Options = Mapping[str, Sequence[Encoding]]
Sensitivity = dict[str, list[float]]
Values = dict[str, Tensor]


def measure(kind: str, program: Program, options: Options, context: Context, images: int) -> Sensitivity:
    """The sensitivity of every layer to every option.

    Args:
        kind: loss, fisher or sqnr.
        program: The float network.
        options: Layer name -> the encodings its weight may get.
        context: Gives calibration images (not for sqnr) and, for fisher, the seed of the classes drawn.
        images: Most calibration images to use.

    Returns:
        Layer name -> one value >= 0 per option.
    """
    if kind == "sqnr":
        return {layer: [_noise(program.weight(layer), one) for one in own] for layer, own in options.items()}
    chosen = first_images(context, images)
    return (_divergence if kind == "loss" else _fisher)(program, options, context, chosen)


def first_images(context: Context, count: int) -> list[Tensor]:
    """The first ``count`` calibration images, in the batches they come in."""
    batches: list[Tensor] = []
    for batch in context.calibration:
        if count <= 0:
            break
        batches.append(batch[:count])
        count -= len(batch)
    return batches


def _noise(weight: Tensor, encoding: Encoding) -> float:
    signal = float(weight.double().square().sum())
    noise = float((encoding.decode().double() - weight.double()).square().sum())
    return noise / signal if signal > 0 else noise


class _Resumable(ProgramModule):
    """Runs a program node by node, with another weight in one layer where asked."""

    swapped: tuple[str, Tensor] | None = None

    def tensor(self, node: Node, role: str) -> Tensor | None:
        if self.swapped is not None and role == "weight" and self.swapped[0] == node.name:
            return self.swapped[1]
        return super().tensor(node, role)

    def step(self, values: Values, index: int) -> Values:
        """What is still needed after node ``index``, given what was needed before it."""
        node = self.nodes[index]
        made = {**values, node.name: self.compute(node, [values[name] for name in node.inputs])}
        for name in self._dead.get(node.name, ()):
            del made[name]
        return made

    def finish(self, values: Values, index: int) -> Tensor:
        """Log-probabilities [N, K] in float64, from node ``index`` on."""
        for position in range(index, len(self.nodes)):
            values = self.step(values, position)
        return log_softmax(values[self.nodes[-1].name].double(), dim=1)


@torch.no_grad()
def _divergence(program: Program, options: Options, context: Context, batches: list[Tensor]) -> Sensitivity:
    """One layer at a time; what comes before it is computed once."""
    network = _Resumable(program).eval().to(context.device)
    reached: list[Values] = [{Program.INPUT: batch.to(context.device)} for batch in batches]
    wanted = [network.finish(values, 0) for values in reached]
    images = sum(len(batch) for batch in batches)
    found: Sensitivity = {}
    context.progress.begin("sensitivity", len(options))
    for index, node in enumerate(program.nodes):
        if node.name in options:
            found[node.name] = []
            for encoding in options[node.name]:
                network.swapped = (node.name, encoding.decode().to(context.device))
                total = sum(
                    float(kl_div(network.finish(values, index), target, reduction="sum", log_target=True))
                    for values, target in zip(reached, wanted)
                )
                found[node.name].append(max(0.0, total / images))  # rounding can make it -1e-17
            network.swapped = None
            context.progress.advance(1, node.name)
        reached = [network.step(values, index) for values in reached]
    context.progress.end()
    return found


def _fisher(program: Program, options: Options, context: Context, batches: list[Tensor]) -> Sensitivity:
    """F from one gradient per image, of the log-probability of a class drawn from the network's own prediction.

    Source: the Fisher information as the Hessian of KL at zero, e.g. Theis et al., arXiv:1801.05787, sec. 3.1.
    """
    network = TrainableProgram(program, fold=False).eval().to(context.device)
    layers = [node for node in program.layers() if node.name in options]
    weights = [weight for node in layers if (weight := network.tensor(node, "weight")) is not None]
    squares = [torch.zeros_like(weight) for weight in weights]
    generator = torch.Generator().manual_seed(context.seed)
    images = torch.cat(batches)
    context.progress.begin("sensitivity", len(images))
    for image in images.to(context.device):
        logits = network(image[None])
        drawn = torch.multinomial(logits.detach().float().softmax(1).cpu(), 1, generator=generator)[:, 0]
        gradients = torch.autograd.grad(cross_entropy(logits, drawn.to(logits.device)), weights)
        for total, gradient in zip(squares, gradients):
            total += gradient.square()
        context.progress.advance(1)
    context.progress.end()
    found: Sensitivity = {}
    for node, total in zip(layers, squares):
        mean, before = total.cpu().double() / len(images), program.weight(node.name).double()
        changes = [encoding.decode().double() - before for encoding in options[node.name]]
        found[node.name] = [0.5 * float((mean * change.square()).sum()) for change in changes]
    return found
