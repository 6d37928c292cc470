import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measure.programs import conv, float_tensor, tiny, vgg16
from torch import nn

from qbench.program.graph import Node, Program
from qbench.program.shapes import pair, shapes

PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


def shape_of(
    node: Node, weight: tuple[int, ...] | None = None, size: tuple[int, int, int] = (4, 11, 9)
) -> tuple[int, ...]:
    tensors = {} if weight is None else {f"{node.name}.weight": float_tensor(*weight)}
    return shapes(Program(size, (node,), tensors))[node.name]


@settings(max_examples=60, deadline=None)
@given(kernel=PAIR, stride=PAIR, padding=PAIR, dilation=PAIR, groups=st.sampled_from([1, 2, 4]))
def test_conv2d_equals_torch(kernel, stride, padding, dilation, groups) -> None:  # type: ignore[no-untyped-def]
    module = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, device="meta")
    node = conv("c", "input", stride=stride, padding=padding, dilation=dilation, groups=groups)
    expected = module(torch.empty(2, 4, 11, 9, device="meta")).shape[1:]
    assert shape_of(node, tuple(module.weight.shape)) == tuple(expected)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    ceil_mode=st.booleans(),
    op=st.sampled_from(["max_pool2d", "avg_pool2d"]),
)
def test_pooling_equals_torch(kernel, stride, padding, ceil_mode, op) -> None:  # type: ignore[no-untyped-def]
    module = {"max_pool2d": nn.MaxPool2d, "avg_pool2d": nn.AvgPool2d}[op](kernel, stride, padding, ceil_mode=ceil_mode)
    node = Node(
        "p", op, ("input",), {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    )
    assert shape_of(node) == tuple(module(torch.zeros(2, 4, 11, 9)).shape[1:])


def test_shapes_of_a_network() -> None:
    expected = {
        "input": (3, 8, 8),
        "conv": (4, 8, 8),
        "relu": (4, 8, 8),
        "pool": (4, 4, 4),
        "flatten": (64,),
        "fc": (10,),
    }
    assert shapes(tiny()) == expected
    assert shapes(vgg16([128, 10]))["flatten"] == (512,)


def test_squeeze_and_excite_broadcasts() -> None:
    nodes = (
        Node("squeeze", "adaptive_avg_pool2d", ("input",), {"output_size": (1, 1)}),
        Node("gate", "hard_sigmoid", ("squeeze",)),
        Node("scaled", "mul", ("gate", "input")),
    )
    found = shapes(Program((4, 6, 5), nodes, {}))
    assert found["squeeze"] == (4, 1, 1)
    assert found["scaled"] == (4, 6, 5)


@pytest.mark.parametrize(("dim", "expected"), [(1, (8, 6, 5)), (-3, (8, 6, 5)), (2, (4, 12, 5)), (-1, (4, 6, 10))])
def test_concat_counts_the_batch_axis(dim: int, expected: tuple[int, ...]) -> None:
    nodes = (Node("a", "relu", ("input",)), Node("both", "concat", ("input", "a"), {"dim": dim}))
    assert shapes(Program((4, 6, 5), nodes, {}))["both"] == expected


def test_batch_norm_keeps_the_shape() -> None:
    tensors = {f"bn.{role}": float_tensor(4) for role in ("weight", "bias", "running_mean", "running_var")}
    assert shapes(Program((4, 6, 5), (Node("bn", "batch_norm", ("input",), {"eps": 1e-5}),), tensors))["bn"] == (
        4,
        6,
        5,
    )


@pytest.mark.parametrize(
    ("node", "weight", "message"),
    [
        pytest.param(conv("c", "input"), (8, 3, 3, 3), r"'c' \(conv2d\): weight takes 3 channels x 1", id="channels"),
        pytest.param(conv("c", "input"), (8, 4, 20, 20), "nothing is left", id="kernel too large"),
        pytest.param(Node("l", "linear", ("input",)), (10, 4), "takes 4 features, the input has 9", id="features"),
        pytest.param(Node("x", "concat", ("input", "input"), {"dim": 0}), None, "along axis 0", id="batch axis"),
    ],
)
def test_what_does_not_fit_names_the_node(node: Node, weight: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shape_of(node, weight)


def test_an_image_operation_on_a_vector_is_refused() -> None:
    pool = Node("p", "max_pool2d", ("f",), {"kernel_size": (2, 2)})
    with pytest.raises(ValueError, match=r"'p'.*expected an input"):
        shapes(Program((4, 6, 5), (Node("f", "flatten", ("input",)), pool), {}))


def test_adding_a_vector_to_an_image_is_refused() -> None:
    nodes = (Node("f", "flatten", ("input",)), Node("sum", "add", ("input", "f")))
    with pytest.raises(ValueError, match=r"'sum'.*number of axes"):
        shapes(Program((4, 6, 5), nodes, {}))


@pytest.mark.parametrize("value", ["same", (1, 2, 3), 1.5, True])
def test_what_is_no_pair_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a pair"):
        pair(value)  # type: ignore[arg-type]
