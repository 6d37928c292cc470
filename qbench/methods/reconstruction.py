"""Reconstruction: choose roundings so that each layer, or block of layers, gives the float network's output.

Papers: Nagel et al., "Up or Down? Adaptive Rounding", arXiv:2004.10568 (layers); Li et al., "BRECQ", arXiv:2102.05426
(blocks). The inputs are those the quantized network has so far, the targets the float network's.
Deviations: no Fisher weighting of the output error of blocks; activation steps stay as calibrated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qbench.methods.base import Context
from qbench.methods.learned_rounding import FixedEdge, Given, LearnedRounding
from qbench.program.encodings import Affine, Encoding
from qbench.program.graph import Node, Program
from qbench.program.materialize import materialize, simulate_edge
from qbench.quant.adaround import annealed_beta
from qbench.training.trainable import TrainableProgram

ACTIVATIONS = ("relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "gelu")
FUSED = ("cpu", "cuda")  # where Adam is one kernel


@dataclass(frozen=True)
class Segment:
    """Consecutive nodes of one input that are reconstructed together."""

    nodes: tuple[Node, ...]

    @property
    def source(self) -> str:
        return self.nodes[0].inputs[0]

    @property
    def output(self) -> str:
        return self.nodes[-1].name


@dataclass(frozen=True)
class Search:
    """How roundings are searched.

    Args:
        iterations: Steps of Adam per segment.
        lr: Of Adam.
        batch_size: Calibration images per step.
    """

    iterations: int = 1000
    lr: float = 0.01
    batch_size: int = 32


def layer_segments(program: Program) -> tuple[Segment, ...]:
    """Each layer, with the activation that directly follows and alone reads it."""
    found = []
    for index, node in enumerate(program.nodes):
        if node in program.layers():
            after = program.nodes[index + 1 : index + 2]
            fused = after and after[0].op in ACTIVATIONS and program.consumers(node.name) == after
            found.append(Segment((node, *after) if fused else (node,)))
    return tuple(found)


def block_segments(program: Program, block_layers: int) -> tuple[Segment, ...]:
    """The stretches between points where one value alone is alive, joined until they have ``block_layers`` layers.

    A residual block is never cut, so it may have more.
    """
    found: list[Segment] = []
    current: list[Node] = []
    last_read = {name: i for i, node in enumerate(program.nodes) for name in node.inputs}
    made_at = {node.name: i for i, node in enumerate(program.nodes)}
    layers = {node.name for node in program.layers()}
    for index, node in enumerate(program.nodes):
        current.append(node)
        alive = [n for n, read in last_read.items() if read > index and made_at.get(n, -1) <= index]
        count = sum(n.name in layers for n in current)
        if alive in ([node.name], []) and count >= block_layers:
            found.append(Segment(tuple(current)))
            current = []
    if any(node.name in layers for node in current):
        found.append(Segment(tuple(current)))
    return tuple(found)


def reconstruct(
    quantized: Program, reference: Program, segments: Sequence[Segment], context: Context, search: Search
) -> Program:
    """The quantized program with the roundings of its Affine weights learned, segment by segment.

    Args:
        quantized: Weights rounded to nearest; scales, grids and edges stay as they are.
        reference: The float program of the same graph.
        segments: In execution order, none overlapping.
        context: Calibration images; seeds the order in which they are drawn.
        search: How long and how fast.
    """
    generator = torch.Generator().manual_seed(context.seed)
    walk = _Walk(quantized, reference, context)
    tensors = dict(quantized.tensors)
    context.progress.begin("reconstruction", len(segments))
    for segment in segments:
        inputs, targets = walk.until(segment)
        learned = _learn(segment, inputs, targets, tensors, reference, quantized, search, generator, context.device)
        tensors.update(learned)
        walk.update(learned)
        context.progress.advance(1, segment.output)
    context.progress.end()
    return quantized.with_tensors(tensors)


def _learn(
    segment: Segment,
    inputs: Tensor,
    targets: Tensor,
    tensors: dict[str, Encoding],
    reference: Program,
    quantized: Program,
    search: Search,
    generator: torch.Generator,
    device: torch.device,
) -> dict[str, Encoding]:
    """The encodings of the segment's weights after the search."""
    network = _network(segment, tensors, reference, quantized).to(device)
    layers = [node.name for node in segment.nodes if isinstance(tensors.get(f"{node.name}.weight"), Affine)]
    quantizers = [network.weight_quantizer(layer) for layer in layers]
    learned = [quantizer for quantizer in quantizers if isinstance(quantizer, LearnedRounding)]
    logits = [quantizer.logits for quantizer in learned]
    if not logits:
        return {}
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for parameter in logits:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(logits, lr=search.lr, fused=device.type in FUSED)
    network.train()
    network.frozen_statistics = True
    for iteration in range(search.iterations):
        for quantizer in learned:
            quantizer.beta = annealed_beta(iteration / search.iterations)
        chosen = torch.randint(len(inputs), (min(search.batch_size, len(inputs)),), generator=generator)
        error = network(inputs[chosen].to(device)) - targets[chosen].to(device)
        loss = error.square().sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    network.eval()
    program = network.cpu().program()
    return {f"{layer}.weight": program.tensors[f"{layer}.weight"] for layer in layers}


def _network(
    segment: Segment, tensors: dict[str, Encoding], reference: Program, quantized: Program
) -> TrainableProgram:
    """The segment as a network of its own: float weights, learned roundings, the edges inside it."""
    names = {node.name for node in segment.nodes}

    def renamed(node: Node) -> Node:
        return replace(node, inputs=tuple(n if n in names else Program.INPUT for n in node.inputs))

    own = {k: v for k, v in reference.tensors.items() if k.rpartition(".")[0] in names}
    nodes = tuple(renamed(node) for node in segment.nodes)
    network = TrainableProgram(Program(reference.input_shape, nodes, own), fold=False)
    for node in segment.nodes:
        encoding = tensors.get(f"{node.name}.weight")
        if isinstance(encoding, Affine):
            network.quantize_weight(node.name, LearnedRounding(encoding, reference.weight(node.name)))
        elif encoding is not None and node in reference.layers():
            own_weight = f"{node.name}.weight"
            network.quantize_weight(node.name, Given(tensors[own_weight]))
        if node.name in quantized.edges and node.name != segment.output:
            network.quantize_edge(node.name, FixedEdge(quantized.edges[node.name]))
    return network


class _Walk:
    """Both networks, node by node over all calibration images, holding the values that are still to be read."""

    def __init__(self, quantized: Program, reference: Program, context: Context) -> None:
        self._programs = (quantized, reference)
        self._modules = tuple(materialize(p).to(context.device) for p in self._programs)
        self._position = 0
        self._device = context.device
        self._chunk = len(context.calibration[0])
        images = torch.cat(list(context.calibration))
        self._values = [{Program.INPUT: self._on_edge(p, Program.INPUT, images)} for p in self._programs]

    def until(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """The segment's input in the quantized network and its output in the float one."""
        start = self._programs[0].nodes.index(segment.nodes[0])
        while self._position < start:
            self._advance(0)
            self._advance(1)
            self._position += 1
        inputs = self._values[0][segment.source]
        ahead = dict(self._values[1])
        for node in segment.nodes:
            ahead[node.name] = self._compute(1, node, ahead)
        return inputs, ahead[segment.output]

    def update(self, learned: dict[str, Encoding]) -> None:
        """Compute with these weights from here on."""
        self._programs = (self._programs[0].with_tensors(learned), self._programs[1])
        self._modules = (materialize(self._programs[0]).to(self._device), self._modules[1])

    def _advance(self, which: int) -> None:
        program, values = self._programs[which], self._values[which]
        node = program.nodes[self._position]
        values[node.name] = self._compute(which, node, values)
        read_later = {name for later in program.nodes[self._position + 1 :] for name in later.inputs}
        for name in [name for name in values if name not in read_later]:
            del values[name]

    @torch.no_grad()
    def _compute(self, which: int, node: Node, values: dict[str, Tensor]) -> Tensor:
        module, program = self._modules[which], self._programs[which]
        parts = []
        for chunk in self._chunks(len(values[node.inputs[0]])):
            inputs = [values[name][chunk].to(self._device) for name in node.inputs]
            parts.append(self._on_edge(program, node.name, module.compute(node, inputs)).cpu())
        return torch.cat(parts)

    def _chunks(self, total: int) -> Iterator[slice]:
        for start in range(0, total, self._chunk):
            yield slice(start, start + self._chunk)

    @staticmethod
    def _on_edge(program: Program, name: str, value: Tensor) -> Tensor:
        spec = program.edges.get(name)
        return value if spec is None else simulate_edge(value, spec)
