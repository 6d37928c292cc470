"""The module that runs a program: every op, simulated edges, memory."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qbench.program.encodings import Affine, Float
from qbench.program.graph import OPS, EdgeSpec, Node, Program
from qbench.program.materialize import materialize, simulate_edge
from qbench.program.trace import trace
from qbench.quant.affine import choose_qparams, dequantize, quantize

from .networks import Network, images

CONV = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}
POOL = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "ceil_mode": True}
TENSORS = {
    "conv2d": {"weight": images(4, 1, 3, 3), "bias": images(4, seed=1)},
    "linear": {"weight": images(5, 8), "bias": images(5, seed=1)},
    "batch_norm": {
        **{"weight": images(2), "bias": images(2, seed=1)},
        **{"running_mean": images(2, seed=2), "running_var": images(2, seed=3).abs() + 0.1},
    },
}
ATTRS: dict[str, dict[str, Any]] = {
    "conv2d": CONV,
    "batch_norm": {"eps": 0.01},
    "concat": {"dim": -1},
    "max_pool2d": POOL,
    "avg_pool2d": {**POOL, "count_include_pad": False},
    "adaptive_avg_pool2d": {"output_size": (3, 2)},
}


def expected(op: str, x: Tensor) -> Tensor:
    """What PyTorch computes, written out apart from the program's own table."""
    t = TENSORS.get(op, {})
    normed = (
        (x - t["running_mean"].view(-1, 1, 1)) / (t["running_var"].view(-1, 1, 1) + 0.01).sqrt()
        if "running_var" in t
        else x
    )
    results = {
        "conv2d": lambda: F.conv2d(x, t["weight"], t["bias"], (2, 1), (1, 0), (1, 2), 2),
        "linear": lambda: x @ t["weight"].T + t["bias"],
        "batch_norm": lambda: normed * t["weight"].view(-1, 1, 1) + t["bias"].view(-1, 1, 1),
        "relu": lambda: x.clamp(min=0),
        "relu6": lambda: x.clamp(0, 6),
        "hard_swish": lambda: x * (x + 3).clamp(0, 6) / 6,
        "hard_sigmoid": lambda: (x + 3).clamp(0, 6) / 6,
        "sigmoid": lambda: 1 / (1 + (-x).exp()),
        "silu": lambda: x / (1 + (-x).exp()),
        "gelu": lambda: x * (1 + torch.erf(x / 2**0.5)) / 2,
        "add": lambda: 2 * x,
        "mul": lambda: x.square(),
        "concat": lambda: torch.cat([x, x, x], 3),
        "max_pool2d": lambda: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), ceil_mode=True),
        "avg_pool2d": lambda: F.avg_pool2d(x, (3, 2), (2, 1), (1, 0), True, False),
        "adaptive_avg_pool2d": lambda: F.adaptive_avg_pool2d(x, (3, 2)),
        "flatten": lambda: x.reshape(len(x), -1),
        "identity": lambda: x,
    }
    return results[op]()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_every_op(op: str, channels_last: bool) -> None:
    x = images(2, 2, 7, 6) * 4 if op != "linear" else images(2, 8)
    node = Node("n", op, ("input",) * (OPS[op][1] or 3), ATTRS.get(op, {}))
    tensors = {f"n.{role}": Float(tensor) for role, tensor in TENSORS.get(op, {}).items()}
    got = materialize(Program((2, 7, 6), (node,), tensors), channels_last=channels_last and op != "linear")(x)
    # one float32 rounding per step of a short formula; sums of at most 18 terms
    torch.testing.assert_close(got, expected(op, x), rtol=1e-5, atol=1e-5)


def static_edge(name: str, x: Tensor, bits: int = 4) -> tuple[EdgeSpec, Tensor]:
    """An edge that covers ``x``, and what it makes of it by way of integer codes."""
    qmin, qmax = 0, (1 << bits) - 1
    qparams = choose_qparams(x.amin(), x.amax(), qmin, qmax, symmetric=False)
    spec = EdgeSpec(bits, qmin, qmax, float(qparams.scale), int(qparams.zero_point))
    codes = quantize(x, qparams.scale, qparams.zero_point, qmin, qmax)
    return spec, dequantize(codes, qparams.scale, qparams.zero_point)


def test_static_edges_put_values_on_their_grid() -> None:
    x = images(2, 1, 3, 3)
    spec, on_grid = static_edge("input", x)
    assert torch.equal(simulate_edge(x, spec), on_grid)
    assert len(on_grid.unique()) > 2
    far = torch.tensor([[1e9, -1e9]])
    assert simulate_edge(far, spec).tolist() == [[float(on_grid.max()), float(on_grid.min())]]


def test_a_program_quantizes_input_and_nodes() -> None:
    x = images(2, 1, 2, 2)
    on_input, quantized = static_edge("input", x)
    on_relu, rectified = static_edge("relu", F.relu(quantized), bits=2)
    nodes = (Node("relu", "relu", ("input",)), Node("out", "flatten", ("relu",)))
    module = materialize(Program((1, 2, 2), nodes, {}, {"input": on_input, "relu": on_relu}))
    assert torch.equal(module(x), rectified.flatten(1))
    assert not torch.equal(module(x), F.relu(x).flatten(1))


def test_dynamic_edges_take_the_range_of_each_image() -> None:
    x = images(3, 2, 4, 4) * torch.tensor([0.01, 1.0, 100.0]).view(3, 1, 1, 1)
    spec = EdgeSpec(4, -8, 7, None, None)
    together = simulate_edge(x, spec)
    for index, image in enumerate(x):
        assert torch.equal(together[index : index + 1], simulate_edge(image[None], spec))
        qparams = choose_qparams(image.amin(), image.amax(), -8, 7, symmetric=False)
        codes = quantize(image, qparams.scale, qparams.zero_point, -8, 7)
        assert torch.equal(together[index], dequantize(codes, qparams.scale, qparams.zero_point))
    assert simulate_edge(images(2, 5), spec).shape == (2, 5)


def test_an_image_of_zeros_stays_zero_on_a_dynamic_edge() -> None:
    assert not simulate_edge(torch.zeros(1, 2, 2, 2), EdgeSpec(8, -128, 127, None, None)).any()


def test_weights_are_decoded() -> None:
    codes = torch.tensor([[1, -2], [3, 4]], dtype=torch.int8)
    weight = Affine(codes, torch.tensor([0.5, 2.0]), torch.zeros(2, dtype=torch.int32), 4, -8, 7, axis=0)
    nodes = (Node("flat", "flatten", ("input",)), Node("fc", "linear", ("flat",)))
    module = materialize(Program((1, 1, 2), nodes, {"fc.weight": weight}))
    assert module(torch.tensor([[[[1.0, 10.0]]]])).tolist() == [[-9.5, 86.0]]


def test_module_is_in_evaluation_mode_without_trainable_parameters() -> None:
    program = trace(Network(lambda n, x: n.wide(n.flat(n.norm(n.first(x))))), (3, 8, 8))
    module = materialize(program)
    assert not module.training and not list(module.parameters())
    assert len(module.state_dict()) == len(program.tensors)


def test_observer_sees_every_value_before_it_is_quantized() -> None:
    nodes = (Node("a", "identity", ("input",)), Node("b", "flatten", ("a",)))
    coarse = EdgeSpec(1, 0, 1, 10.0, 0)
    module = materialize(Program((1, 1, 2), nodes, {}, {"input": coarse, "a": coarse}))
    seen: dict[str, list[float]] = {}
    module.observe = lambda name, value: seen.update({name: value.flatten().tolist()})
    module(torch.tensor([[[[7.0, 1.0]]]]))
    assert seen == {"input": [7.0, 1.0], "a": [10.0, 0.0], "b": [10.0, 0.0]}


def test_values_are_freed_when_their_last_reader_is_done() -> None:
    nodes = (
        Node("a", "relu", ("input",)),
        Node("unread", "relu", ("a",)),
        Node("b", "sigmoid", ("a",)),
        Node("c", "sigmoid", ("b",)),
        Node("sum", "add", ("a", "c")),
        Node("d", "sigmoid", ("sum",)),
        Node("out", "flatten", ("d",)),
    )
    module = materialize(Program((1, 2, 2), nodes, {}), channels_last=True)
    values: dict[str, weakref.ref[Tensor]] = {}
    alive: dict[str, set[str]] = {}

    def observe(name: str, value: Tensor) -> None:
        values[name] = weakref.ref(value)
        alive[name] = {other for other, ref in values.items() if ref() is not None}

    module.observe = observe
    with torch.inference_mode():
        module(torch.rand(1, 1, 2, 2).expand(1, 3, 2, 2))  # not channels_last, so that the input is a copy
    # what a node reads is alive while it runs; "a" waits for the sum, nothing else waits
    assert alive == {
        "input": {"input"},
        "a": {"input", "a"},
        "unread": {"a", "unread"},
        "b": {"a", "b"},
        "c": {"a", "b", "c"},
        "sum": {"a", "c", "sum"},
        "d": {"sum", "d"},
        "out": {"d", "out"},
    }


def test_running_a_program_leaves_it_as_it_was() -> None:
    program = trace(Network(lambda n, x: n.wide(n.flat(n.relu(n.norm(n.first(x)))))), (3, 8, 8))
    program = replace(program, edges={"input": static_edge("input", images(1, 3, 8, 8))[0]})
    before = {name: encoding.decode().clone() for name, encoding in program.tensors.items()}
    x = images(2, 3, 8, 8)
    kept = x.clone()
    materialize(program)(x)
    assert torch.equal(x, kept)
    assert all(torch.equal(encoding.decode(), before[name]) for name, encoding in program.tensors.items())


@pytest.mark.parametrize("channels_last", [False, True])
def test_how_a_tensor_lies_in_memory_is_no_part_of_the_program(channels_last: bool) -> None:
    # what comes out of training is channels_last, what a file gives back is not, and sums depend on it in the last bits
    codes = torch.zeros(4, 3, 3, 3, dtype=torch.int8).contiguous(memory_format=torch.channels_last)
    weight = Affine(codes, torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), 8, -128, 127)
    node = Node("conv", "conv2d", ("input",), {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1})
    module = materialize(Program((3, 8, 8), (node,), {"conv.weight": weight}), channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert all(buffer.is_contiguous(memory_format=layout) for buffer in module.buffers())


def test_a_shared_edge_takes_the_nearest_level_the_lower_of_two() -> None:
    spec = EdgeSpec(2, 0, 3, None, None, (-1.0, 0.0, 0.5, 3.0))
    value = torch.tensor([[-9.0, -0.5, -0.4, 0.25, 0.26, 1.75, 1.76, 9.0]])
    assert simulate_edge(value, spec).tolist() == [[-1.0, -1.0, 0.0, 0.0, 0.5, 0.5, 3.0, 3.0]]
    one = EdgeSpec(1, 0, 0, None, None, (0.5,))
    assert simulate_edge(value, one).unique().tolist() == [0.5]
