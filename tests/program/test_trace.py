"""A traced network computes bit for bit what the module computes, or the offending call is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qbench.errors import MethodError
from qbench.models.build import build_model
from qbench.models.dotted import import_dotted
from qbench.program.encodings import Float
from qbench.program.materialize import materialize
from qbench.program.trace import trace

from .networks import Network, images, randomised

MODELS = {
    "small_cnn": ("small.small_cnn", {}, (1, 12, 12)),
    "cnn_282k": ("small.cnn_282k", {"hidden": 8}, (3, 16, 16)),
    "mlp": ("small.mlp", {"hidden": 16}, (1, 8, 8)),
    "mobilenet": ("mobilenet.mobilenet", {"width_multiplier": 0.1}, (3, 32, 32)),
    "mobilenet_v2": ("mobilenet.mobilenet_v2", {"width_multiplier": 0.1}, (3, 32, 32)),
    "vgg16": ("vgg.vgg16", {"width_multiplier": 0.1}, (3, 32, 32)),
    "vgg16_plain": ("vgg.vgg16_plain", {"width_multiplier": 0.1, "dropout": 0.5}, (3, 32, 32)),
    "resnet20": ("resnet.resnet20", {}, (3, 32, 32)),
    "resnet18": ("resnet.resnet18", {"stem": "imagenet"}, (3, 32, 32)),
    "resnet50": ("resnet.resnet50", {}, (3, 32, 32)),
}
Body = Callable[[Any, Tensor], Tensor]

SUPPORTED: dict[str, Body] = {
    "modules": lambda n, x: n.wide(n.flat(n.drop(n.relu(n.norm(n.first(x)))))),
    "keywords": lambda n, x: n.wide(torch.flatten(input=F.relu(input=n.first(input=x)), start_dim=1)),
    "functional relu, view by size": lambda n, x: n.wide(F.relu(n.first(x)).view(x.size(0), -1)),
    "reshape by shape": lambda n, x: n.wide(n.first(x).relu().reshape(x.shape[0], 256)),
    "view of every batch": lambda n, x: n.wide(n.first(x).contiguous().view(-1, 256)),
    "flatten with both axes": lambda n, x: n.wide(n.first(x).flatten(1, 3)),
    "flatten with negative axes": lambda n, x: n.wide(torch.flatten(n.first(x), -3, -1)),
    "residual +": lambda n, x: n.wide((n.first(x) + n.second(n.first(x))).flatten(1)),
    "residual +=": lambda n, x: n.wide(n.flat(n.relu(n.norm(n.first(x))).add_(n.second(n.first(x))))),
    "torch.add, mul": lambda n, x: n.wide(n.flat(torch.add(n.first(x), other=n.second(n.first(x))) * n.first(x))),
    "a value added to itself": lambda n, x: n.wide(n.flat(n.first(x) + n.first(x))),
    "gate": lambda n, x: n.narrow(n.flat(n.pool(n.first(x) * torch.sigmoid(n.pool(n.first(x)))))),
    "mean method": lambda n, x: n.narrow(n.first(x).mean((2, 3))),
    "mean keywords": lambda n, x: n.narrow(n.first(x).mean(dim=[-1, -2])),
    "mean function": lambda n, x: n.narrow(torch.mean(n.first(x), (2, 3))),
    "mean that keeps axes": lambda n, x: n.narrow(n.first(x).mean([2, 3], True).flatten(1)),
    "mean that keeps axes by keyword": lambda n, x: n.narrow(n.first(x).mean([2, 3], keepdim=True).flatten(1)),
    "cat": lambda n, x: n.narrow(n.flat(n.pool(torch.cat([n.first(x), n.second(n.first(x))], 2)))),
    "cat by keyword": lambda n, x: n.narrow(n.pool(torch.cat(tensors=(n.first(x), n.first(x)), dim=-1)).flatten(1)),
    "max pool": lambda n, x: n.narrow(n.flat(n.pool(F.max_pool2d(n.first(x), 3, 2, 1, 1, True)))),
    "max pool by keyword": lambda n, x: n.narrow(n.flat(n.pool(F.max_pool2d(n.first(x), kernel_size=(2, 3))))),
    "average pool": lambda n, x: n.narrow(n.flat(n.pool(F.avg_pool2d(n.first(x), 3, 2, 1, False, False)))),
    "adaptive pool": lambda n, x: n.narrow(F.adaptive_avg_pool2d(n.first(x), (1, 1)).flatten(1)),
    "relu6": lambda n, x: n.wide(n.flat(F.relu6(n.first(x)))),
    "hardswish": lambda n, x: n.wide(n.flat(F.hardswish(n.first(x)))),
    "hardsigmoid": lambda n, x: n.wide(n.flat(F.hardsigmoid(n.first(x)))),
    "silu": lambda n, x: n.wide(n.flat(F.silu(n.first(x), inplace=True))),
    "gelu": lambda n, x: n.wide(n.flat(F.gelu(n.first(x)))),
    "dropout that is off": lambda n, x: n.wide(F.dropout(n.flat(n.first(x)), 0.5, n.training)),
    "a module used twice": lambda n, x: n.wide(n.flat(n.second(n.second(n.first(x))))),
}

REFUSED: dict[str, tuple[Body, str]] = {
    "branch on a value": (
        lambda n, x: n.wide(n.flat(x)) if x.sum() > 0 else x,
        "^Network: its forward cannot be traced",
    ),
    "loop over a size": (lambda n, x: next(x for _ in range(x.size(0))), "^Network: its forward cannot be traced"),
    "module made in forward": (
        lambda n, x: nn.ReLU()(x),
        "^Network: its forward cannot be traced .*not installed as a",
    ),
    "function": (lambda n, x: torch.exp(n.first(x)), "^exp: exp is outside the op set"),
    "method": (lambda n, x: n.first(x).permute(0, 2, 3, 1), "^permute: Tensor.permute is outside the op set"),
    "constant operand": (lambda n, x: n.first(x) * 2, r"^mul: mul with a constant \(2\) is outside the op set"),
    "slice": (lambda n, x: n.wide(n.flat(n.first(x)[:, :4])), r"^flat: an input \(getitem\) is outside the op set"),
    "dropped slice": (lambda n, x: n.drop(n.first(x)[0]), r"^drop: an input \(getitem\) is outside the op set"),
    "parameter": (lambda n, x: n.first(x) * n.gain, "^gain: a get_attr node is outside the op set"),
    "scaled sum": (
        lambda n, x: torch.add(n.first(x), n.first(x), alpha=2),
        "^add: add with alpha=2 is outside the op set",
    ),
    "tanh gelu": (lambda n, x: F.gelu(n.first(x), approximate="tanh"), "^gelu: gelu with approximate=tanh is outside"),
    "dropout that is always on": (
        lambda n, x: F.dropout(n.first(x)),
        "^dropout: dropout with training=True is outside",
    ),
    "mean over channels": (lambda n, x: n.first(x).mean(1), "^mean: a mean over other axes than height and width"),
    "mean over everything": (lambda n, x: n.first(x).mean(), "^mean: a mean over other axes than height and width"),
    "mean in float64": (
        lambda n, x: n.first(x).mean((2, 3), dtype=torch.float64),
        "^mean: Tensor.mean with dtype=torch",
    ),
    "unknown keyword": (lambda n, x: torch.cat([n.first(x)], axis=1), "^cat: cat with the argument axis is outside"),
    "dilated pool": (lambda n, x: F.max_pool2d(n.first(x), 2, dilation=2), "^max_pool2d: a dilated max pooling"),
    "pool with its own divisor": (lambda n, x: F.avg_pool2d(n.first(x), 2, divisor_override=3), "with its own divisor"),
    "pool of open size": (lambda n, x: F.adaptive_avg_pool2d(n.first(x), (None, 1)), "with an open output size"),
    "reshape to a map": (
        lambda n, x: n.first(x).view(-1, 2, 8, 16),
        r"^view: reshaping \[2, 4, 8, 8\] to \[2, 2, 8, 16\]",
    ),
    "reshape that joins images": (
        lambda n, x: n.first(x).reshape(1, -1),
        r"^reshape: reshaping \[2, 4, 8, 8\] to \[1, 512\]",
    ),
    "in-place change read again": (
        lambda n, x: n.wide(n.flat(_in_place(n, n.first(x)))),
        "^Network: computes something else",
    ),
    "several outputs": (lambda n, x: (x, n.first(x)), "^the output: a value that is not one tensor"),
    "a size as output": (lambda n, x: x.size(0), "^the output: a value that is not one tensor"),
    "nothing": (lambda n, x: x, "^the network: computes nothing"),
}


def _in_place(n: Any, x: Tensor) -> Tensor:
    return n.in_place(x) + n.second(x)  # type: ignore[no-any-return]


def assert_same_function(module: nn.Module, shape: tuple[int, int, int]) -> None:
    program = trace(module, shape)
    x = images(3, *shape, seed=5)
    with torch.no_grad():
        expected = module.eval()(x.clone())  # its first layer may work in place
        assert torch.equal(materialize(program)(x), expected)
    assert expected.abs().max() > 0


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_network_keeps_its_logits(name: str) -> None:
    target, params, shape = MODELS[name]
    module = randomised(build_model(f"qbench.models.{target}", params, *shape, 10, 0))
    assert_same_function(module, shape)


def test_the_largest_network_keeps_its_logits() -> None:
    """VGG-16 has no width; its 138 million weights are filled with constants instead of initialised."""
    with torch.device("meta"):
        module = import_dotted("qbench.models.vgg.vgg16_imagenet", "test")(3, 32, 32, 10)  # type: ignore[operator]
    module.to_empty(device="cpu")
    for index, parameter in enumerate(module.parameters()):
        nn.init.constant_(parameter, 1 / (parameter[0].numel() if parameter.dim() > 1 else 10 + index))
    assert_same_function(module, (3, 32, 32))


def test_no_shipped_network_is_forgotten() -> None:
    shipped = {path.stem for path in (Path(__file__).parents[2] / "configs" / "model").rglob("*.yaml")}
    assert shipped - {"custom", "timm"} == {*MODELS, "vgg16_imagenet"}


@pytest.mark.parametrize("case", SUPPORTED)
def test_supported_calls_keep_the_logits(case: str) -> None:
    assert_same_function(Network(SUPPORTED[case]), (3, 8, 8))


@pytest.mark.parametrize("case", REFUSED)
def test_refused_calls_are_named(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    body, message = REFUSED[case]
    with pytest.raises(MethodError, match=message):
        trace(Network(body), (3, 8, 8))
    assert capfd.readouterr().err == ""


CONVOLUTIONS: dict[str, nn.Conv2d] = {
    "valid": nn.Conv2d(3, 4, 3, padding="valid"),
    "same": nn.Conv2d(3, 4, (3, 5), padding="same"),
    "same, dilated": nn.Conv2d(3, 4, 3, padding="same", dilation=2),
    "same, even kernel with even dilation": nn.Conv2d(3, 4, 2, padding="same", dilation=2),
    "grouped, strided": nn.Conv2d(3, 6, 3, stride=(1, 2), padding=(2, 0), groups=3, bias=False),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_settings(case: str) -> None:
    assert_same_function(nn.Sequential(CONVOLUTIONS[case], nn.Flatten()), (3, 9, 8))


MODULES: dict[str, nn.Module] = {
    "batch norm without slope": randomised(nn.BatchNorm2d(3, affine=False)),
    "batch norm with its own eps": randomised(nn.BatchNorm2d(3, eps=0.1)),
    "max pool": nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
    "average pool": nn.AvgPool2d((3, 2), padding=(1, 0), count_include_pad=False),
    "adaptive pool": nn.AdaptiveAvgPool2d((2, 3)),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(inplace=True),
    "gelu": nn.GELU(),
    "relu6": nn.ReLU6(),
    "identity": nn.Identity(),
    "dropout": nn.Dropout2d(0.9),
}


@pytest.mark.parametrize("case", MODULES)
def test_module_settings(case: str) -> None:
    assert_same_function(nn.Sequential(MODULES[case], nn.Flatten()), (3, 8, 8))


REFUSED_MODULES: dict[str, tuple[nn.Module, str]] = {
    "same padding that differs by side": (nn.Conv2d(3, 4, 2, padding="same"), "differs between the two sides"),
    "reflected padding": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect' is outside"),
    "batch norm without statistics": (nn.BatchNorm2d(3, track_running_stats=False), "without running statistics"),
    "dilated pooling": (nn.MaxPool2d(2, dilation=2), "a dilated max pooling"),
    "pooling with its own divisor": (nn.AvgPool2d(2, divisor_override=3), "with its own divisor"),
    "pooling of open size": (nn.AdaptiveAvgPool2d((None, 2)), "with an open output size"),
    "tanh gelu": (nn.GELU("tanh"), "GELU with approximate=tanh is outside the op set"),
    "unknown module": (nn.Softplus(), "Softplus is outside the op set"),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("case", REFUSED_MODULES)
def test_refused_modules_are_named(case: str) -> None:
    module, message = REFUSED_MODULES[case]
    with pytest.raises(MethodError, match=rf"^odd: .*{message}"):
        trace(_named(module), (3, 8, 8))


def _named(module: nn.Module) -> nn.Module:
    network = nn.Sequential()
    network.add_module("odd", module)
    network.add_module("flat", nn.Flatten())
    return network


def test_names_attributes_and_tensors_of_the_nodes() -> None:
    network = Network(SUPPORTED["modules"])
    program = trace(network, (3, 8, 8))
    assert [(node.name, node.op, node.inputs) for node in program.nodes] == [
        ("first", "conv2d", ("input",)),
        ("norm", "batch_norm", ("first",)),
        ("relu", "relu", ("norm",)),
        ("flat", "flatten", ("relu",)),
        ("wide", "linear", ("flat",)),
    ]
    assert program.nodes[0].attrs == {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    assert program.input_shape == (3, 8, 8)
    assert set(program.tensors) == {
        *("first.weight", "first.bias", "wide.weight", "wide.bias"),
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
    }
    assert all(isinstance(encoding, Float) and encoding.bits == 32 for encoding in program.tensors.values())


def test_a_module_used_twice_becomes_two_nodes() -> None:
    program = trace(Network(SUPPORTED["a module used twice"]), (3, 8, 8))
    assert [node.name for node in program.layers()] == ["first", "second", "second#2", "wide"]
    assert torch.equal(program.weight("second"), program.weight("second#2"))


def test_what_is_not_returned_is_left_out() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.auxiliary = nn.Linear(12, 3), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.main(x.flatten(1))
            self.auxiliary(x.flatten(1))
            return out

    module = TwoHeads()
    program = trace(module, (3, 2, 2))
    assert [node.name for node in program.layers()] == ["main"]
    assert set(program.tensors) == {"main.weight", "main.bias"}
    assert_same_function(module, (3, 2, 2))


def test_a_parameter_with_a_default_is_not_the_input() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor, shift: float = 1.0) -> Tensor:
            return (x + shift).flatten(1)

    with pytest.raises(MethodError, match=r"^add: add with a constant \(shift\) is outside the op set"):
        trace(Shifted(), (3, 2, 2))


def test_a_second_required_parameter_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(MethodError, match=r"^Pair: does not take images of shape \[3, 2, 2\]"):
        trace(Pair(), (3, 2, 2))


def test_images_of_another_shape_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MethodError, match=r"^Network: does not take images of shape \[1, 8, 8\]"):
        trace(Network(SUPPORTED["modules"]), (1, 8, 8))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("case", ["modules", "nothing"])
def test_the_module_is_left_as_it_was(case: str) -> None:
    network = Network(SUPPORTED[case] if case in SUPPORTED else REFUSED[case][0]).train()
    network.norm.eval()  # frozen, as in fine-tuning
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        trace(network, (3, 8, 8))
    except MethodError:
        assert case == "nothing"
    assert [name for name, part in network.named_modules() if not part.training] == ["norm"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_program_does_not_follow_the_module() -> None:
    network = Network(SUPPORTED["modules"])
    program = trace(network, (3, 8, 8))
    before = program.weight("first").clone()
    with torch.no_grad():
        network.first.weight.zero_()
    assert torch.equal(program.weight("first"), before)


def test_the_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    trace(Network(SUPPORTED["modules"]), (3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_diverged_network_can_be_traced() -> None:
    network = Network(SUPPORTED["modules"])
    with torch.no_grad():
        network.first.weight[0, 0, 0, 0] = float("nan")
    program = trace(network, (3, 8, 8))  # methods say which tensor it is
    assert bool(program.weight("first").isnan().any())
