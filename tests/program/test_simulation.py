"""Simulated programs: whole sums, one rounding an edge, and every kind of value between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.lower import lower
from qbench.program.materialize import materialize
from qbench.program.simulation import Simulation
from qbench.quant.requantize import bias_scale
from qbench.runtime.integer import IntegerRuntime

CHANNELS, SIDE = 64, 6
CONV: dict[str, Any] = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
STEP = 0.0234375 * 1.1  # no power of two: floats that stand for codes are rounded


def edge(step: float = STEP, zero_point: int = 0, bits: int = 8) -> EdgeSpec:
    # as calibration leaves it: a float32
    return EdgeSpec(bits, 0, (1 << bits) - 1, float(torch.tensor(step, dtype=torch.float32)), zero_point)


def codes(*shape: int, seed: int = 0) -> Affine:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(-127, 128, shape, generator=generator).to(torch.int8)
    scale = torch.rand(shape[0], generator=generator) * 0.01 + 0.003
    return Affine(drawn, scale, torch.zeros(shape[0], dtype=torch.int32), 8, -127, 127, axis=0)


def whole_bias(weight: Affine, step: float, seed: int = 5) -> Affine:
    drawn = torch.randint(-9000, 9000, weight.shape[:1], generator=torch.Generator().manual_seed(seed))
    scale = bias_scale(step, weight.scale)
    return Affine(drawn.to(torch.int32), scale, torch.zeros_like(drawn, dtype=torch.int32), 32, -(2**31), 2**31 - 1, 0)


def images(count: int = 3, seed: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, CHANNELS, SIDE, SIDE, generator=generator) * 255 * STEP


def program(
    nodes: Sequence[Node], tensors: Mapping[str, Encoding], edges: Mapping[str, EdgeSpec], channels: int = CHANNELS
) -> Program:
    return Program((channels, SIDE, SIDE), tuple(nodes), tensors, edges)


def one_layer(**more: Encoding) -> Program:
    """Input, convolution, ReLU, quantized at both ends; the result fills the codes."""
    weight = codes(16, CHANNELS, 3, 3)
    tensors: dict[str, Encoding] = {"conv.weight": weight, "conv.bias": whole_bias(weight, edge().scale or 0.0), **more}
    nodes = [Node("conv", "conv2d", ("input",), CONV), Node("relu", "relu", ("conv",))]
    return program(nodes, tensors, {"input": edge(), "relu": edge(0.31)})


def exact_codes(wanted: Program, batch: Tensor) -> Tensor:
    """The codes of ``one_layer`` by definition: sums in int64, one rounding in float64."""
    weight, bias = wanted.tensors["conv.weight"], wanted.tensors["conv.bias"]
    assert isinstance(weight, Affine) and isinstance(bias, Affine)
    entry, end = wanted.edges["input"], wanted.edges["relu"]
    assert entry.scale is not None and end.scale is not None
    read = (batch.double() / entry.scale).round().clamp(entry.qmin, entry.qmax).long()
    patches = torch.nn.functional.unfold(read.double(), 3, padding=1).long()
    sums = (weight.codes.long().flatten(1) @ patches) + bias.codes.long()[:, None]
    real = sums.double() * (weight.scale.double() * entry.scale)[:, None]
    made = (real.relu() / end.scale).round().clamp(end.qmin, end.qmax)
    return made.view(len(batch), -1, SIDE, SIDE)


def made_codes(module: torch.nn.Module, step: float, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        return (module(batch).double() / step).round()


def test_every_code_is_that_of_exact_sums() -> None:
    layer, batch = one_layer(), images(64)
    step = layer.edges["relu"].scale
    assert step is not None
    exact = exact_codes(layer, batch)
    assert 20 < exact.mean() < 100 and exact.max() == 255  # within the range and beyond it
    assert torch.equal(made_codes(Simulation(layer), step, batch), exact)


def test_decoded_floats_round_some_codes_otherwise() -> None:
    """What the simulation is for: were floats good enough, it should go."""
    layer, batch = one_layer(), images(256)
    step = layer.edges["relu"].scale
    assert step is not None
    apart = made_codes(materialize(layer), step, batch) - exact_codes(layer, batch)
    assert 0 < int(apart.ne(0).sum()) < apart.numel() / 1000 and apart.abs().max() == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_layout_and_threads_move_no_bit(threads: int) -> None:
    layer, batch = one_layer(), images()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = [Simulation(layer, channels_last=layout)(batch) for layout in (True, False)]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], torch.cat([Simulation(layer)(image) for image in torch.split(batch, 1)]))


def test_a_sum_reads_what_codes_stand_for() -> None:
    """Two decoded values of 24 bits, added in float32 and rounded again, are off at every tie and near it."""
    steps = (0.1, 0.3)  # one code of the second is three of the first, but for the rounding of the steps
    nodes = [Node("left", "identity", ("input",)), Node("right", "identity", ("input",))]
    nodes.append(Node("sum", "add", ("left", "right")))
    edges = {"left": edge(steps[0]), "right": edge(steps[1]), "sum": edge(0.8)}
    batch = torch.arange(0.0, 76.8, 0.1).repeat(3).view(1, -1, SIDE, SIDE)
    adder = program(nodes, {}, edges, batch.shape[1])
    left, right, end = (spec.scale or 0.0 for spec in edges.values())
    codes_left = (batch.double() / left).round().clamp(0, 255)
    codes_right = (batch.double() / right).round().clamp(0, 255)
    exact = ((codes_left * left + codes_right * right) / end).round().clamp(0, 255)
    assert torch.equal(made_codes(Simulation(adder), end, batch), exact)


def mixed_values() -> Program:
    """Every way from one edge to the next: without edges, of other widths, by image, with shared values."""
    narrow = {**CONV, "padding": (0, 0)}
    nodes = [
        Node("first", "conv2d", ("input",), CONV),  # no edge: its result is read as it is
        Node("curve", "silu", ("first",)),
        Node("second", "conv2d", ("curve",), narrow),  # float weights on a grid
        Node("norm", "batch_norm", ("second",), {"eps": 1e-5}),
        Node("cut", "relu6", ("norm",)),
        Node("third", "conv2d", ("cut",), narrow),  # a grid per image
        Node("shared", "relu", ("third",)),
        Node("pool", "avg_pool2d", ("shared",), {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0),
                                                 "ceil_mode": False, "count_include_pad": True}),
        Node("both", "concat", ("pool", "pool"), {"dim": 1}),
        Node("gate", "sigmoid", ("both",)),
        Node("product", "mul", ("both", "gate")),
        Node("flat", "flatten", ("product",)),
        Node("fc", "linear", ("flat",)),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Encoding] = {
        "first.weight": codes(8, 3, 3, 3),
        "first.bias": Float(torch.randn(8, generator=generator)),
        "second.weight": Float(torch.randn(8, 8, 3, 3, generator=generator) / 8),
        "norm.weight": Float(torch.ones(8)),
        "norm.bias": Float(torch.ones(8)),
        "norm.running_mean": Float(torch.zeros(8)),
        "norm.running_var": Float(torch.ones(8)),
        "third.weight": codes(8, 8, 3, 3, seed=1),
        "fc.weight": codes(10, 16, seed=2),
        "fc.bias": Float(torch.randn(10, generator=generator)),
    }
    edges = {
        "input": edge(0.01, 128),
        "curve": edge(0.02, 20),
        "cut": EdgeSpec(8, 0, 255, None, None),
        "shared": EdgeSpec(2, 0, 3, None, None, (0.0, 0.25, 1.0, 4.0)),
        "product": edge(0.0001, bits=16),
    }
    return program(nodes, tensors, edges, 3)


def test_all_values_are_those_of_the_decoded_program_but_for_roundings() -> None:
    mixed, batch = mixed_values(), torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    seen: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    simulated, decoded = Simulation(mixed).eval(), materialize(mixed)
    simulated.observe = lambda name, value: seen.update({name: value})
    decoded.observe = lambda name, value: expected.update({name: value})
    logits = simulated(batch)
    assert logits.dtype == torch.float32 and logits.shape == (5, 10)
    torch.testing.assert_close(logits, decoded(batch), rtol=1e-3, atol=1e-3)
    assert list(seen) == list(expected)  # the same nodes are told of, in the same order
    for name in ("first", "second", "cut"):
        torch.testing.assert_close(seen[name].float(), expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["affine with a zero point", "codebook", "sparse"])
def test_whole_weights_of_other_encodings(kind: str) -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (16, CHANNELS, 3, 3)
    zero, step = torch.tensor(0, dtype=torch.int32), torch.tensor(0.0071)
    if kind == "codebook":
        centroids = Affine(torch.tensor([-100, -3, 2, 90], dtype=torch.int8), step, zero, 8, -127, 127)
        weight: Encoding = Codebook(torch.randint(0, 4, shape, generator=generator).to(torch.uint8), centroids, 2)
    elif kind == "sparse":
        mask = torch.rand(shape, generator=generator) < 0.5
        kept = torch.randint(-127, 128, (int(mask.sum()),), generator=generator).to(torch.int8)
        weight = Sparse(mask, Affine(kept, step, zero, 8, -127, 127))
    else:
        drawn = torch.randint(0, 256, shape, generator=generator).to(torch.int16)
        weight = Affine(drawn, step, torch.tensor(131, dtype=torch.int32), 8, 0, 255)
    whole = torch.round(weight.decode() / step).to(torch.int16)
    plain = Affine(whole, step.repeat(16), zero.repeat(16), 16, -255, 255, axis=0)
    layer = one_layer(**{"conv.weight": plain, "conv.bias": whole_bias(plain, edge().scale or 0.0)})
    expected = exact_codes(layer, images())
    end = layer.edges["relu"].scale or 0.0
    assert torch.equal(made_codes(Simulation(layer.with_tensors({"conv.weight": weight})), end, images()), expected)


def test_integers_predict_what_the_simulation_does() -> None:
    """Four layers, a residual sum and global pooling: the same classes, and logits much nearer than decoded floats."""
    attrs = {"output_size": (1, 1)}
    nodes = [
        Node("a", "conv2d", ("input",), CONV),
        Node("b", "relu", ("a",)),
        Node("c", "conv2d", ("b",), CONV),
        Node("d", "add", ("b", "c")),
        Node("e", "relu", ("d",)),
        Node("f", "conv2d", ("e",), CONV),
        Node("g", "adaptive_avg_pool2d", ("f",), attrs),
        Node("h", "flatten", ("g",)),
        Node("i", "linear", ("h",)),
    ]
    edges = {"input": edge(), "b": edge(0.31), "c": edge(0.7, 128), "e": edge(0.73), "f": edge(1.9, 120)}
    edges["g"] = edge(0.21, 110)
    tensors: dict[str, Encoding] = {}
    for layer, reads, size in (("a", "input", (CHANNELS, CHANNELS, 3, 3)), ("c", "b", (CHANNELS, CHANNELS, 3, 3)),
                               ("f", "e", (CHANNELS, CHANNELS, 3, 3)), ("i", "g", (10, CHANNELS))):  # fmt: skip
        weight = codes(*size, seed=ord(layer))
        tensors[f"{layer}.weight"] = weight
        tensors[f"{layer}.bias"] = whole_bias(weight, edges[reads].scale or 0.0, seed=ord(layer))
    network, batch = program(nodes, tensors, edges), images(64)
    reference = IntegerRuntime().prepare(network)(batch)
    assert lower(network).nodes and reference.std(0).min() > 0
    simulated, decoded = Simulation(network)(batch), materialize(network)(batch)

    def apart(logits: Tensor) -> float:
        return float((logits - reference).abs().mean())

    assert torch.equal(simulated.argmax(1), reference.argmax(1))
    assert apart(simulated) < apart(decoded) / 5
