"""Lowering: what integers compute is what the program simulates, and nothing on the way is a float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.integer import Integer
from qbench.methods.linear import Linear
from qbench.program.encodings import Affine, Codebook, Float, Sparse
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.integer import ops
from qbench.program.integer.network import IntegerModule, IntegerProgram
from qbench.program.lower import lower
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.program.transform import fold_batch_norm

from .networks import Network, images, randomised

SHAPE = (3, 8, 8)


def quantized(module: nn.Module, shape: tuple[int, int, int] = SHAPE, **parameters: object) -> Program:
    """A network with 8-bit weights, static 8-bit edges and float biases."""
    method = Linear(**{"act_bits": 8, **parameters})  # type: ignore[arg-type]
    return method.compress(trace(module.eval(), shape), Context(calibration=[images(16, *shape, seed=9)]))


def run(program: Program, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits as simulated, and by integers alone, checked at every operation."""
    with torch.inference_mode():
        return materialize(program)(x), IntegerModule(lower(program), check=True)(x)


def body_of(name: str) -> Callable[[Network, Tensor], Tensor]:
    return BODIES[name]


def _head(net: Network, x: Tensor) -> Tensor:
    out: Tensor = net.narrow(net.flat(net.pool(x)))
    return out


def _excited(net: Network, x: Tensor) -> Tensor:
    y = net.relu(net.first(x))
    return _head(net, y * torch.sigmoid(net.second(nn.functional.adaptive_avg_pool2d(y, 1))))


F = nn.functional
BODIES: dict[str, Callable[[Network, Tensor], Tensor]] = {
    "relu": lambda n, x: n.wide(n.flat(n.relu(n.first(x)))),
    "no activation": lambda n, x: n.wide(n.flat(n.first(x))),
    "relu6": lambda n, x: n.wide(n.flat(F.relu6(n.first(x)))),
    "batch norm": lambda n, x: _head(n, n.relu(n.norm(n.second(n.relu(n.first(x)))))),
    "hard swish": lambda n, x: _head(n, F.hardswish(n.first(x))),
    "silu": lambda n, x: _head(n, F.silu(n.first(x))),
    "gelu": lambda n, x: _head(n, F.gelu(n.first(x))),
    "hard sigmoid": lambda n, x: _head(n, F.hardsigmoid(n.first(x))),
    "curve of codes": lambda n, x: _head(n, F.silu(F.max_pool2d(n.first(x), 2))),
    "relu6 of codes": lambda n, x: _head(n, F.relu6(F.max_pool2d(n.first(x), 2))),
    "relu of codes": lambda n, x: _head(n, n.relu(F.max_pool2d(n.first(x), 2))),
    "squeeze and excitation": _excited,
    "shortcut": lambda n, x: _head(n, n.relu(n.norm(n.second(y := n.relu(n.first(x)))) + y)),
    "shortcut without activation": lambda n, x: _head(n, n.second(y := n.relu(n.first(x))) + y),
    "concat": lambda n, x: _head(n, F.max_pool2d(torch.cat([y := n.first(x), n.second(n.relu(y))], 2), (2, 1))),
    "max pool": lambda n, x: _head(n, F.max_pool2d(n.first(x), 3, 2, 1, ceil_mode=True)),
    "average pool": lambda n, x: _head(n, F.avg_pool2d(n.relu(n.first(x)), 3, 2, 1, ceil_mode=True)),
    "average of what is there": lambda n, x: _head(
        n, F.avg_pool2d(n.relu(n.first(x)), 3, 2, 1, count_include_pad=False)
    ),
    "uneven windows": lambda n, x: _head(n, F.adaptive_avg_pool2d(n.first(x), (3, 5))),
    "convolution last": lambda n, x: n.flat(n.pool(n.first(x))),
    "sum last": lambda n, x: n.wide(n.flat(n.first(x))) + n.narrow(n.flat(n.pool(n.first(x)))),
}


@pytest.mark.parametrize("name", BODIES)
def test_integers_compute_what_is_simulated(name: str) -> None:
    """Sums agree but for the rounding of biases; a code may differ by one where they fall between two."""
    program = quantized(Network(body_of(name)))
    x = images(16, *SHAPE, seed=5)
    simulated, integers = run(program, x)
    assert integers.dtype == torch.float32 and integers.shape == simulated.shape
    with torch.inference_mode():
        exact = materialize(replace(program, edges={}))(x)
    cost_of_quantizing = (simulated - exact).square().mean().sqrt()
    # far below what quantizing costs; and where that is nothing but steps of the last grid, below one of them
    assert float((integers - simulated).square().mean().sqrt()) <= 0.5 * float(cost_of_quantizing) + 1e-6


def test_fused_activations_are_bounds_of_the_codes() -> None:
    """An edge whose grid reaches from -4 to 8: ReLU6 cuts at the codes of 0 and of 6."""
    program = quantized(Network(body_of("relu6")))
    wider = {**program.edges, "relu6": EdgeSpec(8, -128, 127, 12 / 255, -43)}
    first = lower(replace(program, edges=wider)).nodes[0]
    assert isinstance(first.op, ops.Conv2d) and first.op.out is not None
    assert (first.source, first.name) == ("first", "relu6")
    assert (first.op.out.zero_point, first.op.out.qmin, first.op.out.qmax) == (-43, -43, -43 + round(6 / (12 / 255)))
    simulated, integers = run(replace(program, edges=wider), 30 * images(8, *SHAPE))
    torch.testing.assert_close(integers, simulated, rtol=0.0, atol=0.02 * float(simulated.std()))


def test_values_keep_integer_types_from_node_to_node() -> None:
    module = IntegerModule(lower(quantized(Network(_excited))))
    seen: dict[str, torch.dtype] = {}
    module.observe = lambda name, value: seen.update({name: value.dtype})
    module(images(2, *SHAPE))
    last = module.program.nodes[-1].name
    assert seen.pop(last) == torch.int32
    assert seen.pop("sigmoid.input") == torch.int16
    assert set(seen.values()) == {torch.int8} and len(seen) >= 6


class _Halving:
    def __call__(self, *inputs: Tensor) -> Tensor:
        return (inputs[0] / 2).to(torch.int8)


class _Cutting:
    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.clamp(inputs[0], min=-100.0)


@pytest.mark.parametrize("op", [_Halving(), _Cutting()], ids=["a float tensor", "a float scalar"])
def test_the_check_sees_floats_inside_an_operation(op: ops.IntegerOp) -> None:
    program = lower(quantized(Network(body_of("relu"))))
    hidden = replace(program, nodes=(replace(program.nodes[0], op=op), *program.nodes[1:]))
    codes = IntegerModule(program).quantize(images(1, *SHAPE))
    with pytest.raises(RuntimeError, match="between the quantizer and the dequantizer"):
        IntegerModule(hidden, check=True).run(codes)


def test_images_in_any_number() -> None:
    program = quantized(Network(body_of("shortcut")))
    x = images(37, *SHAPE)
    module = IntegerModule(lower(program))
    assert torch.equal(module(x), torch.cat([module(one[None]) for one in x]))


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_weights_with_and_without_zero_points(scheme: str, granularity: str) -> None:
    simulated, integers = run(
        quantized(Network(body_of("batch norm")), scheme=scheme, granularity=granularity), images(8, *SHAPE)
    )
    torch.testing.assert_close(integers, simulated, rtol=0.0, atol=0.02 * float(simulated.std()))


def test_a_grid_of_unsigned_codes_is_moved() -> None:
    program = quantized(Network(body_of("shortcut")))
    unsigned = {
        name: EdgeSpec(8, 0, 255, spec.scale, (spec.zero_point or 0) + 128) for name, spec in program.edges.items()
    }
    x = images(4, *SHAPE)
    moved = IntegerModule(lower(replace(program, edges=unsigned)))
    assert torch.equal(moved(x), IntegerModule(lower(program))(x))


def test_codebooks_and_masks_of_integers_lower_to_the_codes_they_stand_for() -> None:
    """Every other weight is zero, and the rest takes 16 values."""
    program = quantized(Network(body_of("relu")), weight_bits=4)
    weight = program.tensors["first.weight"]
    assert isinstance(weight, Affine)
    grid = torch.arange(-8, 8, dtype=torch.int8)
    zero = torch.tensor(0, dtype=torch.int32)
    scale = torch.tensor(0.03)
    table = Affine(grid, scale, zero, 8, -128, 127)
    indices = (weight.codes.to(torch.int16) + 8).to(torch.uint8)
    mask = torch.arange(weight.codes.numel()).reshape(weight.shape) % 2 == 0
    plain = Affine(weight.codes, scale, zero, 4, -8, 7)
    masked = Affine(weight.codes * mask, scale, zero, 4, -8, 7)
    channels = Affine(
        grid.expand(4, 16).contiguous(), scale.expand(4).contiguous(), zero.expand(4).contiguous(), 8, -128, 127, 0
    )
    same = {
        "codebook": (plain, Codebook(indices, table, 4)),
        "codebook per channel": (plain, Codebook(indices, channels, 4, 0)),
        "mask": (masked, Sparse(mask, Affine(weight.codes[mask], scale, zero, 4, -8, 7))),
        "mask of a codebook": (masked, Sparse(mask, Codebook(indices[mask], table, 4))),
    }
    x = images(4, *SHAPE)
    for name, (one, other) in same.items():
        logits = [IntegerModule(lower(program.with_tensors({"first.weight": each})))(x) for each in (one, other)]
        assert torch.equal(*logits), name


def test_what_nobody_reads_is_dropped() -> None:
    program = quantized(Network(body_of("relu")))
    dead = Node(
        "dead",
        "max_pool2d",
        ("input",),
        {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "ceil_mode": False},
    )
    with_dead = replace(program, nodes=(dead, *program.nodes))
    assert [node.name for node in lower(with_dead).nodes] == [node.name for node in lower(program).nodes]


def linear_program(**changes: object) -> Program:
    """One linear layer on two inputs, in integers; ``changes`` replace fields of its weight."""
    fields: dict[str, object] = {
        "codes": torch.tensor([[3, -4]], dtype=torch.int8),
        "bits": 8,
        "qmin": -128,
        "qmax": 127,
    }
    fields |= {"scale": torch.tensor(0.5), "zero_point": torch.tensor(0, dtype=torch.int32), **changes}
    nodes = (Node("flat", "flatten", ("input",)), Node("fc", "linear", ("flat",)))
    edges = {"input": EdgeSpec(8, -128, 127, 0.25, 4)}
    return Program((1, 1, 2), nodes, {"fc.weight": Affine(**fields)}, edges)  # type: ignore[arg-type]


def test_a_network_by_hand() -> None:
    """Inputs 1 and -0.5 are codes 8 and 2, less 4: 4 and -2; 3 * 4 - 4 * -2 = 20 units of 0.125."""
    program = lower(linear_program())
    module = IntegerModule(program, check=True)
    codes = module.quantize(torch.tensor([[[[1.0, -0.5]]]]))
    assert codes.flatten().tolist() == [8, 2] and codes.dtype == torch.int8
    sums = module.run(codes)
    assert sums.tolist() == [[20]] and sums.dtype == torch.int32
    assert module.dequantize(sums).tolist() == [[2.5]]
    assert program.input_shape == (1, 1, 2) and program.output_scale.tolist() == [0.125]


def test_a_bias_of_the_right_unit_is_taken_as_it_is() -> None:
    program = linear_program()
    big = (1 << 24) + 1  # more than float32 holds
    stored = Affine(
        torch.tensor([big], dtype=torch.int32),
        torch.tensor(0.125),
        torch.tensor(0, dtype=torch.int32),
        32,
        -(1 << 31),
        (1 << 31) - 1,
    )
    nodes = lower(program.with_tensors({"fc.bias": stored})).nodes
    assert isinstance(nodes[-1].op, ops.Linear) and nodes[-1].op.bias.tolist() == [big - 4 * (3 - 4)]
    rounded = lower(program.with_tensors({"fc.bias": Float(torch.tensor([1.07]))})).nodes[-1].op
    assert isinstance(rounded, ops.Linear) and rounded.bias.tolist() == [9 - 4 * (3 - 4)]  # 8.56 units


def _many_inputs() -> Program:
    program = linear_program(codes=torch.full((1, 140_000), 127, dtype=torch.int8))
    return replace(program, input_shape=(1, 1, 140_000))


def _with_edges(**edges: EdgeSpec | None) -> Program:
    program = quantized(Network(body_of("relu")))
    kept = {**program.edges, **edges}
    return replace(program, edges={name: spec for name, spec in kept.items() if spec is not None})


def _ended_with(op: str) -> Program:
    program = linear_program()
    return replace(program, nodes=(*program.nodes, Node("end", op, ("fc",))))


REFUSED: dict[str, tuple[Callable[[], Program], str]] = {
    "float weights": (
        lambda: fold_batch_norm(linear_program().with_tensors({"fc.weight": Float(torch.ones(1, 2))})),
        "^fc: its weights are floats; method=integer",
    ),
    "float centroids": (
        lambda: linear_program().with_tensors(
            {"fc.weight": Codebook(torch.zeros(1, 2, dtype=torch.uint8), Float(torch.ones(2)), 1)}
        ),
        "^fc: its centroids are floats",
    ),
    "16-bit weights": (lambda: linear_program(bits=16), "^fc: its weights have 16 bits, more than 8"),
    "groups": (
        lambda: linear_program(
            scale=torch.ones(1, 2), zero_point=torch.zeros(1, 2, dtype=torch.int32), axis=0, group_size=1
        ),
        "^fc: its weights have several scales per channel",
    ),
    "a scale per input": (
        lambda: linear_program(scale=torch.ones(2), zero_point=torch.zeros(2, dtype=torch.int32), axis=1),
        "^fc: its weights have several scales per channel",
    ),
    "sums beyond int32": (_many_inputs, r"^fc: its sums could reach \d{10}, beyond int32; use fewer weight_bits"),
    "no edge": (lambda: _with_edges(relu=None), "^relu: has no grid; quantize activations statically"),
    "no grid for the images": (lambda: _with_edges(input=None), "^input: has no grid; quantize activations statically"),
    "dynamic edge": (
        lambda: _with_edges(relu=EdgeSpec(8, -128, 127, None, None)),
        "^relu: finds its range while running; integers alone need static ranges",
    ),
    "9-bit edge": (
        lambda: _with_edges(relu=EdgeSpec(9, -256, 255, 0.1, 0)),
        "^relu: has 9 bits; integers alone need act_bits of at most 8",
    ),
    "a factor beyond int32": (
        lambda: _with_edges(relu=EdgeSpec(8, -128, 127, 1e-30, 0)),
        "^first: the factor between two grids is .*, too large for 32-bit integers",
    ),
    "batch norm": (
        lambda: quantized(Network(body_of("batch norm")), fold_batch_norm=False),
        "^norm: is a batch norm that no layer before it can take in",
    ),
    "relu of the logits": (lambda: _ended_with("relu"), "^end: relu as the last node has no integer form"),
    "sigmoid of the logits": (lambda: _ended_with("sigmoid"), "^end: sigmoid as the last node has no integer form"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_integer_form_is_named(case: str) -> None:
    make, message = REFUSED[case]
    program = make()
    with pytest.raises(MethodError, match=message):
        lower(program)


NETWORKS = {
    "mlp": ("qbench.models.small.mlp", (1, 28, 28), {"hidden": 128}),
    "small_cnn": ("qbench.models.small.small_cnn", (1, 28, 28), {}),
    "vgg16": ("qbench.models.vgg.vgg16", (3, 32, 32), {"width_multiplier": 0.1}),
    "mobilenet": ("qbench.models.mobilenet.mobilenet", (3, 32, 32), {"width_multiplier": 0.25}),
    "mobilenet_v2": ("qbench.models.mobilenet.mobilenet_v2", (3, 32, 32), {"width_multiplier": 0.25}),
    "resnet18": ("qbench.models.resnet.resnet18", (3, 32, 32), {}),
    "resnet20": ("qbench.models.resnet.resnet20", (3, 32, 32), {}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_lowers(name: str) -> None:
    from qbench.catalog import options
    from qbench.models.build import build_model

    target, shape, changed = NETWORKS[name]
    option = options("model")[name]
    assert option.load()["_target_"] == target
    module = build_model(target, {**option.parameters(), **changed}, *shape, 10, 0)
    baseline = trace(randomised(module).eval(), shape)
    x = images(4, *shape, seed=3)
    program = Integer().compress(baseline, Context(calibration=[x]))
    simulated, integers = run(program, x)
    with torch.inference_mode():
        exact = materialize(baseline)(x)
    added, cost = (float(e.square().mean().sqrt()) for e in (integers - simulated, simulated - exact))
    assert added <= cost  # single codes fall on the other side of a tie, and carry on through the layers
    assert isinstance(lower(program), IntegerProgram)


@pytest.mark.parametrize("name", ["max pool", "average pool", "concat"])
def test_a_pooling_may_have_a_grid_of_its_own(name: str) -> None:
    program = quantized(Network(body_of(name)))
    pooled = next(node.name for node in program.nodes if "pool" in node.op)
    coarse = EdgeSpec(6, 0, 63, 0.11, 20)
    program = replace(program, edges={**program.edges, pooled: coarse})
    names = [node.name for node in lower(program).nodes]
    assert len(set(names)) == len(names)
    simulated, integers = run(program, images(16, *SHAPE, seed=5))
    with torch.inference_mode():
        fine = materialize(replace(program, edges={k: v for k, v in program.edges.items() if k != pooled}))
        cost = (simulated - fine(images(16, *SHAPE, seed=5))).square().mean().sqrt()
    assert float((integers - simulated).square().mean().sqrt()) < 0.3 * float(cost)
