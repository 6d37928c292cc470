"""Programs for engines, and what their results are compared with: the reference that computes with integers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from program.networks import Network, images, randomised
from program.test_lower import BODIES, quantized
from torch import Tensor, nn

from qbench.catalog import options
from qbench.methods.base import Context
from qbench.methods.integer_biases import edge_read_by
from qbench.models.build import build_model
from qbench.program.encodings import Affine, Sparse
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.integer.network import IntegerModule
from qbench.program.lower import lower
from qbench.program.shapes import shapes
from qbench.program.trace import trace
from qbench.runtime.onnx import OnnxOptions, to_onnx

Engine = Callable[[Program], Callable[[Tensor], Tensor]]

NETWORKS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "mlp": ((1, 28, 28), {}),
    "small_cnn": ((1, 28, 28), {}),
    "resnet20": ((3, 32, 32), {}),
    "mobilenet": ((3, 32, 32), {"width_multiplier": 0.25}),
    "mobilenet_v2": ((3, 32, 32), {"width_multiplier": 0.25}),
}


def body(name: str, **parameters: object) -> Program:
    """One of the small networks of :mod:`program.test_lower`, by default with 8-bit weights and activations."""
    return quantized(Network(BODIES[name]), **parameters)


class _Wide(nn.Module):
    """A convolution with groups, dilation and two strides."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 6, 3, stride=(2, 1), padding=(2, 1), dilation=(2, 1), groups=3)
            self.fc = nn.Linear(6 * 4 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.relu(self.conv(x)).flatten(1))
        return out


def _pooled(pool: Callable[[Tensor], Tensor]) -> Callable[..., Program]:
    """No ReLU, so that padding with zeros is not padding with the lowest code."""
    return partial(quantized, Network(lambda n, x: n.narrow(n.flat(n.pool(pool(n.first(x)))))))


def _with_another_grid(**parameters: object) -> Program:
    """A value that would keep the grid of what it reads, on one of its own."""
    program = body("max pool", **parameters)
    first, pool, *rest = program.nodes
    nodes = (first, Node("same", "identity", ("first",)), replace(pool, inputs=("same",)), *rest)
    return replace(program, nodes=nodes, edges={**program.edges, "same": EdgeSpec(8, 0, 255, 0.02, 100)})


def _sparse(**parameters: object) -> Program:
    program = body("relu", **parameters)
    weight = program.tensors["first.weight"]
    assert isinstance(weight, Affine)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    kept = Affine(weight.codes[mask], weight.scale[0], weight.zero_point[0], weight.bits, weight.qmin, weight.qmax)
    return program.with_tensors({"first.weight": Sparse(mask, kept)})


UNUSUAL: dict[str, Callable[..., Program]] = {
    "groups, dilation, strides": lambda **parameters: quantized(_Wide(), **parameters),
    "padding counts": _pooled(lambda x: nn.functional.avg_pool2d(x, 3, 2, 1)),
    "even windows": _pooled(lambda x: nn.functional.adaptive_avg_pool2d(x, (4, 2))),
    "average of a part at the end": _pooled(lambda x: nn.functional.avg_pool2d(x, 3, 2, ceil_mode=True)),
    "identity with a grid": _with_another_grid,
    "sparse codes": _sparse,
}


def baseline(name: str) -> Program:
    """A network of the model group with random weights."""
    shape, changed = NETWORKS[name]
    option = options("model")[name]
    module = build_model(option.load()["_target_"], {**option.parameters(), **changed}, *shape, 10, 0)
    return trace(randomised(module).eval(), shape)


def compressed(name: str, method: Any) -> Program:
    """The same after a method, calibrated on random images."""
    program: Program = method.compress(baseline(name), Context(calibration=[images(32, *NETWORKS[name][0], seed=3)]))
    return program


def reference(program: Program, x: Tensor) -> Tensor:
    """Logits by integers alone."""
    with torch.inference_mode():
        return IntegerModule(lower(program))(x)


def float_twin(program: Program) -> Program:
    """The same weights without quantized activations."""
    return replace(program, edges={})


def agreement_percent(logits: Tensor, expected: Tensor) -> float:
    """Share of images with the same top-1 class."""
    return 100.0 * float((logits.argmax(1) == expected.argmax(1)).double().mean())


def largest_step(program: Program, layer: Node, engine: Engine, x: Tensor) -> float:
    """By how many codes an engine's result of one layer differs from the reference, both reading the same codes.

    Args:
        program: With static edges.
        layer: One of its layers that ends on a grid.
        engine: From a program to what runs it.
        x: Images; what the layer reads is what the reference computes of them.
    """
    single = _single_layer(program, layer)
    read = _read_codes(program, layer, x)
    spec = single.edges[Program.INPUT]
    assert spec.scale is not None and spec.zero_point is not None
    shift = -128 - spec.qmin if (spec.qmin, spec.qmax) != (-128, 127) else 0
    values = (read.float() - (spec.zero_point + shift)) * spec.scale
    values = values.permute(0, 3, 1, 2) if values.dim() == 4 else values[:, :, None, None]
    expected, found = reference(single, values), engine(single)(values.contiguous())
    last = single.edges[single.nodes[-1].name]
    assert last.scale is not None
    assert int(expected.unique().numel()) > 8  # more than a few codes are compared
    return float(((found - expected) / last.scale).abs().max())


def _read_codes(program: Program, layer: Node, x: Tensor) -> Tensor:
    """The codes a layer reads in the reference, images channels last."""
    seen: dict[str, Tensor] = {}
    module = IntegerModule(lower(program))
    module.observe = lambda name, value: seen.update({name: value})
    with torch.inference_mode():
        module(x)
    return seen[layer.inputs[0]]


def _single_layer(program: Program, layer: Node) -> Program:
    """A program of one layer and the activation behind it, between the edge it reads and the one it makes."""
    read = edge_read_by(program, layer.name)
    assert read is not None
    shape = shapes(program)[layer.inputs[0]]
    nodes = [] if len(shape) == 3 else [Node("flat", "flatten", (Program.INPUT,))]
    nodes.append(replace(layer, inputs=(nodes[-1].name if nodes else Program.INPUT,)))
    while nodes[-1].name not in program.edges:
        (reader,) = program.consumers(nodes[-1].name)
        nodes.append(reader)
    roles = [f"{layer.name}.{role}" for role in ("weight", "bias")]
    tensors = {key: program.tensors[key] for key in roles if key in program.tensors}
    edges = {Program.INPUT: read, nodes[-1].name: program.edges[nodes[-1].name]}
    size = shape if len(shape) == 3 else (*shape, 1, 1)
    return Program((size[0], size[1], size[2]), tuple(nodes), tensors, edges)


def layers_on_grids(program: Program) -> list[Node]:
    """Layers whose result, or that of the activation behind them, has an edge."""
    found = []
    for layer in program.layers():
        name = layer.name
        while name not in program.edges and [node.op for node in program.consumers(name)] in (["relu"], ["relu6"]):
            name = program.consumers(name)[0].name
        if name in program.edges:
            found.append(layer)
    return found


def optimized_ops(program: Program, folder: Path, chosen: OnnxOptions) -> Counter[str]:
    """Operators of the graph that ONNX Runtime makes of a program, counted apart from the production code.

    WeightBiasQuantization would make integers of layers whose weights are floats.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    settings.optimized_model_filepath = str(folder / "optimized.onnx")
    settings.add_session_config_entry("session.qdqisint8allowed", "1")
    model = to_onnx(program, chosen).SerializeToString()
    onnxruntime.InferenceSession(
        model, settings, providers=["CPUExecutionProvider"], disabled_optimizers=["WeightBiasQuantization"]
    )
    return Counter(node.op_type for node in onnx.load(str(folder / "optimized.onnx")).graph.node)
