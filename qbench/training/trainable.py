"""A program one can train: its floats as parameters, its weights and edges seen through trainable quantizers.

Fine-tuning runs the same graph as :mod:`qbench.program.materialize` and ends in a program again:

    network = TrainableProgram(baseline, fold=True)
    network.quantize_weight("features.0", some_quantizer)     # what is not named stays float
    network.quantize_edge("features.0", some_edge_quantizer)
    ...train network like any module...
    compressed = network.program()
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d

from qbench.program.encodings import Encoding, Float
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.materialize import ProgramModule
from qbench.program.transform import fold_batch_norm, foldable_norms
from qbench.training.small_maps import fits_small_maps, small_map_conv2d

BATCH_NORM_MOMENTUM = 0.1  # of running statistics, as torch.nn.BatchNorm2d has it by default


class WeightQuantizer(nn.Module):
    """How a layer's latent float weight becomes the weight it computes with. Subclasses own what they learn."""

    def forward(self, latent: Tensor) -> Tensor:
        """The weight to compute with, of the shape of ``latent`` float32, differentiable."""
        raise NotImplementedError

    def unfolded(self, latent: Tensor, factor: Tensor) -> Tensor:
        """quantize(latent * factor) / factor, the divisor 1 where the factor is 0.

        Args:
            latent: float32 [C, ...].
            factor: float32 [C, 1, ...], of the batch norm that is folded into the weight.
        """
        folded: Tensor = self(latent * factor)
        return folded / torch.where(factor == 0, torch.ones_like(factor), factor)

    def encode(self, latent: Tensor) -> Encoding:
        """What is stored in the end; decodes to exactly what ``forward`` gives in evaluation mode."""
        raise NotImplementedError

    def encode_folded(self, latent: Tensor, factor: Tensor) -> Encoding:
        """What is stored of latent * factor, arguments as of ``unfolded``."""
        return self.encode(latent * factor)


class EdgeQuantizer(nn.Module):
    """How the value of an edge is quantized while training; ``spec`` is what the program gets in the end."""

    def forward(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def spec(self) -> EdgeSpec:
        raise NotImplementedError


class TrainableProgram(ProgramModule):
    """Runs a float program with parameters in place of its tensors: float [N, C, H, W] -> logits [N, K].

    Where ``fold`` is set, weights are quantized as they will be stored, with the batch norm behind them merged in:
    with s = gamma / sqrt(running_var + eps), the layer computes batch_norm(conv(x, quantize(w * s) / s)). While
    statistics move this normalizes by those of the batch, as float training does; once they are frozen (and in
    evaluation mode) it equals the folded layer exactly.

    Source: Jacob et al., arXiv:1712.05877, sec. 3.2; the freezing after Krishnamoorthi, arXiv:1806.08342, sec. 3.2.2.

    Args:
        baseline: A float program; not changed.
        fold: Merge batch norms; the graph is that of ``fold_batch_norm(baseline)``.
    """

    def __init__(self, baseline: Program, *, fold: bool = True) -> None:
        super().__init__(fold_batch_norm(baseline) if fold else baseline)
        self._folded = fold_batch_norm(baseline) if fold else baseline
        self._norms = foldable_norms(baseline) if fold else {}
        self.frozen_statistics = False
        self._weights, self._edges = nn.ModuleDict(), nn.ModuleDict()
        for name in self._keys.values():
            delattr(self, name)
        self._keys = {}
        for key, encoding in {**self._folded.tensors, **_raw_tensors(baseline, self._norms)}.items():
            self._add(key, encoding.decode())
        for layer, norm in self._norms.items():
            if f"{layer}.bias" not in baseline.tensors:
                self._drop(f"{layer}.bias")  # a bias that only folding makes
            for role in ("weight", "bias", "running_mean", "running_var"):
                self._add(f"{norm.name}.{role}", baseline.tensors[f"{norm.name}.{role}"].decode())

    def quantize_weight(self, layer: str, quantizer: WeightQuantizer) -> None:
        """From now on the layer computes with what the quantizer makes of its weight."""
        self._weights[_escaped(layer)] = quantizer

    def quantize_edge(self, name: str, quantizer: EdgeQuantizer) -> None:
        """From now on the output of the node (or "input") passes through the quantizer."""
        self._edges[_escaped(name)] = quantizer

    def weight_quantizer(self, layer: str) -> WeightQuantizer | None:
        """The quantizer of a layer's weight, None where it is float."""
        found: WeightQuantizer | None = _of(self._weights, layer)
        return found

    def edge_quantizer(self, name: str) -> EdgeQuantizer | None:
        """The quantizer of an edge, None where it is float."""
        found: EdgeQuantizer | None = _of(self._edges, name)
        return found

    def _add(self, key: str, value: Tensor) -> None:
        name = self._keys.get(key, f"t{len(self._keys)}")
        self._keys[key] = name
        if key.endswith((".running_mean", ".running_var")):
            self.register_buffer(name, value.clone())
        else:
            setattr(self, name, nn.Parameter(value.clone()))

    def _drop(self, key: str) -> None:
        delattr(self, self._keys[key])
        self._keys[key] = ""

    def tensor(self, node: Node, role: str) -> Tensor | None:
        value = self._value(f"{node.name}.{role}")
        quantizer = self.weight_quantizer(node.name)
        if role != "weight" or value is None or quantizer is None:
            return value
        if node.name not in self._norms:
            made: Tensor = quantizer(value)
            return made
        return quantizer.unfolded(value, _on_channels(self.fold_factor(node.name), value))

    def _value(self, key: str) -> Tensor | None:
        name = self._keys.get(key)
        return getattr(self, name) if name else None

    def latent(self, layer: str) -> Tensor:
        """The float weight a quantizer of this layer sees: folded where batch norms are folded. Detached."""
        value = self._value(f"{layer}.weight")
        assert value is not None
        value = value.detach()
        return value * _on_channels(self.fold_factor(layer), value) if layer in self._norms else value

    @property
    def folded_layers(self) -> Collection[str]:
        """The layers that a batch norm is folded into."""
        return self._norms.keys()

    def fold_factor(self, layer: str) -> Tensor:
        """The scale of the batch norm behind a layer, gamma / sqrt(running_var + eps), float32 [C], detached."""
        norm = self._norms[layer]
        eps: Any = norm.attrs["eps"]
        gamma, var = self._value(f"{norm.name}.weight"), self._value(f"{norm.name}.running_var")
        assert gamma is not None and var is not None
        return (gamma / torch.sqrt(var + eps)).detach()

    def _run(self, node: Node, inputs: list[Tensor]) -> Tensor:
        if node.op == "batch_norm":
            return self._edge(node.name, self._normalize(node, inputs[0]))
        value = self._convolve(node, inputs[0]) if node.op == "conv2d" else self.compute(node, inputs)
        if node.name in self._norms:
            value = self._normalize(self._norms[node.name], value)
        return self._edge(node.name, value)

    def _convolve(self, node: Node, x: Tensor) -> Tensor:
        weight, bias = self.tensor(node, "weight"), self.tensor(node, "bias")
        assert weight is not None
        a: Any = node.attrs
        if self.training and fits_small_maps(x, weight, a["stride"], a["padding"], a["dilation"], a["groups"]):
            return small_map_conv2d(x, weight, bias)
        return conv2d(x, weight, bias, a["stride"], a["padding"], a["dilation"], a["groups"])

    def _normalize(self, norm: Node, x: Tensor) -> Tensor:
        eps: Any = norm.attrs["eps"]
        roles = ("running_mean", "running_var", "weight", "bias")
        mean, var, gamma, beta = (self._value(f"{norm.name}.{role}") for role in roles)
        moving = self.training and not self.frozen_statistics
        return batch_norm(x, mean, var, gamma, beta, moving, BATCH_NORM_MOMENTUM, eps)

    def _edge(self, name: str, value: Tensor) -> Tensor:
        if self.observe is not None:
            self.observe(name, value)
        quantizer = self.edge_quantizer(name)
        return value if quantizer is None else quantizer(value)

    @torch.no_grad()
    def program(self) -> Program:
        """What was learned, as a program of the folded (or unfolded) graph, on the CPU."""
        tensors: dict[str, Encoding] = {}
        for key in self._folded.tensors:
            value = self._value(key)
            if value is not None:
                tensors[key] = Float(value.detach().cpu().contiguous())
        for layer, norm in self._norms.items():
            tensors[f"{layer}.weight"] = Float(self.latent(layer).cpu().contiguous())
            tensors[f"{layer}.bias"] = Float(self._folded_bias(layer, norm))
        folded = self._folded
        for node in folded.layers():
            quantizer = self.weight_quantizer(node.name)
            if quantizer is not None:
                tensors[f"{node.name}.weight"] = self._encoded(node.name, quantizer)
        edge_quantizers = {node: self.edge_quantizer(node) for node in (Program.INPUT, *(n.name for n in folded.nodes))}
        edges = {name: quantizer.spec() for name, quantizer in edge_quantizers.items() if quantizer is not None}
        return Program(folded.input_shape, folded.nodes, tensors, edges, folded.provenance)

    def _encoded(self, layer: str, quantizer: WeightQuantizer) -> Encoding:
        if layer not in self._norms:
            return quantizer.encode(self.latent(layer).contiguous())
        weight = self._value(f"{layer}.weight")
        assert weight is not None
        weight = weight.detach().contiguous()
        return quantizer.encode_folded(weight, _on_channels(self.fold_factor(layer), weight))

    def _folded_bias(self, layer: str, norm: Node) -> Tensor:
        mean, beta = self._value(f"{norm.name}.running_mean"), self._value(f"{norm.name}.bias")
        assert mean is not None and beta is not None
        before = self._value(f"{layer}.bias")
        centred = (0.0 if before is None else before.double()) - mean.double()
        return (centred * self.fold_factor(layer).double() + beta.double()).float().cpu()


def _raw_tensors(baseline: Program, norms: dict[str, Node]) -> dict[str, Encoding]:
    """The weights and biases of the layers before folding."""
    names = [f"{layer}.{role}" for layer in norms for role in ("weight", "bias")]
    return {name: baseline.tensors[name] for name in names if name in baseline.tensors}


def _on_channels(values: Tensor, weight: Tensor) -> Tensor:
    return values.view([-1] + [1] * (weight.dim() - 1))


def _escaped(name: str) -> str:
    """A name without dots, which torch keeps for paths."""
    return name.replace(".", "/")


def _of(modules: nn.ModuleDict, name: str) -> Any:
    """The module of that name or None."""
    key = _escaped(name)
    return modules[key] if key in modules else None  # noqa: SIM401, a ModuleDict has no get
