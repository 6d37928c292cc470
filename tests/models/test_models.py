"""Every shipped network: its published count, its output, its graph, its seed."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from qbench.errors import ConfigError
from qbench.models.build import build_model
from qbench.models.counts import count_parameters
from qbench.models.dotted import import_dotted

COUNTS = [
    ("small.small_cnn", {}, (1, 28, 28), 10, 20_410),
    ("small.cnn_282k", {}, (3, 32, 32), 10, 282_250),
    ("small.mlp", {}, (1, 28, 28), 10, 101_770),
    ("mobilenet.mobilenet", {}, (3, 32, 32), 10, 3_217_226),
    ("mobilenet.mobilenet", {"stem": "imagenet"}, (3, 224, 224), 1000, 4_231_976),
    ("mobilenet.mobilenet_v2", {}, (3, 32, 32), 10, 2_236_682),
    ("mobilenet.mobilenet_v2", {"stem": "imagenet"}, (3, 224, 224), 1000, 3_504_872),
    ("vgg.vgg16", {}, (3, 32, 32), 10, 14_724_042),
    ("vgg.vgg16", {}, (3, 224, 224), 10, 14_724_042),
    ("vgg.vgg16_plain", {}, (3, 32, 32), 10, 14_781_642),
    ("vgg.vgg16_imagenet", {}, (3, 224, 224), 1000, 138_357_544),
    ("resnet.resnet18", {}, (3, 32, 32), 10, 11_173_962),
    ("resnet.resnet18", {"stem": "imagenet"}, (3, 224, 224), 1000, 11_689_512),
    ("resnet.resnet20", {}, (3, 32, 32), 10, 272_474),
    ("resnet.resnet50", {}, (3, 32, 32), 10, 23_520_842),
    ("resnet.resnet50", {"stem": "imagenet"}, (3, 224, 224), 1000, 25_557_032),
]
# Cheap forms of every builder, run with real weights.
SMALL = [
    ("small.small_cnn", {}, (1, 28, 28)),
    ("small.cnn_282k", {"hidden": 8}, (3, 32, 32)),
    ("small.mlp", {}, (3, 9, 8)),
    ("mobilenet.mobilenet", {"width_multiplier": 0.1}, (3, 32, 32)),
    ("mobilenet.mobilenet", {"width_multiplier": 0.1, "stem": "imagenet"}, (1, 40, 32)),
    ("mobilenet.mobilenet_v2", {"width_multiplier": 0.1}, (3, 32, 32)),
    ("mobilenet.mobilenet_v2", {"width_multiplier": 0.1, "stem": "imagenet"}, (4, 32, 40)),
    ("vgg.vgg16", {"width_multiplier": 0.1}, (3, 32, 32)),
    ("vgg.vgg16", {"width_multiplier": 0.1}, (1, 64, 40)),
    ("vgg.vgg16_plain", {"width_multiplier": 0.1, "dropout": 0.5}, (3, 64, 40)),
    ("resnet.resnet20", {}, (1, 32, 40)),
    ("resnet.resnet18", {"stem": "imagenet"}, (2, 32, 32)),
]
NOT_RUN = ("vgg.vgg16_imagenet", "resnet.resnet50")  # large, and made of the same parts as their siblings
MODULES = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Flatten, nn.Identity, nn.Dropout),
)
FUNCTIONS = (operator.add, operator.iadd, torch.add, torch.flatten, functional.adaptive_avg_pool2d)


def label(value: object) -> str | None:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={option}" for key, option in value.items()) or "default"
    return "x".join(map(str, value)) if isinstance(value, tuple) else None


def build(
    name: str, params: Mapping[str, Any], image: tuple[int, int, int], classes: int = 10, seed: int = 0
) -> nn.Module:
    return build_model(f"qbench.models.{name}", params, *image, classes, seed)


def on_meta(name: str, params: Mapping[str, Any], image: tuple[int, int, int], classes: int) -> nn.Module:
    """The network without memory for its weights: shapes only, so that 138 million parameters cost nothing."""
    builder: Any = import_dotted(f"qbench.models.{name}", "test")
    with torch.device("meta"):
        model: nn.Module = builder(*image, classes, **params)
    return model


@pytest.mark.parametrize(("name", "params", "image", "classes", "count"), COUNTS, ids=label)
def test_has_the_published_number_of_parameters_and_outputs(
    name: str, params: dict[str, Any], image: tuple[int, int, int], classes: int, count: int
) -> None:
    model = on_meta(name, params, image, classes)
    assert count_parameters(model) == count
    assert model.eval()(torch.empty(3, *image, device="meta")).shape == (3, classes)


def test_count_skips_frozen_parameters_and_counts_shared_ones_once() -> None:
    shared = nn.Linear(3, 3)  # 12 parameters
    frozen = nn.Linear(3, 2).requires_grad_(False)
    assert count_parameters(nn.Sequential(shared, shared, nn.BatchNorm1d(3), frozen)) == 12 + 6


@pytest.mark.parametrize(("name", "params", "image"), SMALL, ids=label)
def test_trains_on_any_image_and_gives_finite_logits(
    name: str, params: dict[str, Any], image: tuple[int, int, int]
) -> None:
    model = build(name, params, image, classes=7)
    assert model.training
    torch.manual_seed(0)
    logits = model(torch.randn(4, *image))
    assert logits.shape == (4, 7)
    assert logits.isfinite().all()
    functional.cross_entropy(logits, torch.arange(4)).backward()
    without_gradient = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert not without_gradient


@pytest.mark.parametrize(
    ("name", "params", "image", "classes"),
    [(*row[:3], 10) for row in SMALL] + [(*row[:4],) for row in COUNTS if row[0] in NOT_RUN],
    ids=label,
)
def test_traces_into_the_closed_op_set(
    name: str, params: dict[str, Any], image: tuple[int, int, int], classes: int
) -> None:
    traced = torch.fx.symbolic_trace(on_meta(name, params, image, classes))
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.op == "call_module":
            assert isinstance(modules[node.target], MODULES), node.target
        elif node.op == "call_function":
            assert node.target in FUNCTIONS, node.target
        else:
            assert node.op in ("placeholder", "output"), node


@pytest.mark.parametrize(
    ("name", "classes"),
    [("mobilenet.mobilenet", 10), ("mobilenet.mobilenet_v2", 10), ("vgg.vgg16", 10), ("vgg.vgg16_plain", 10)],
)
def test_width_multiplier_scales_the_network(name: str, classes: int) -> None:
    counts = [
        count_parameters(on_meta(name, {"width_multiplier": width}, (3, 32, 32), classes)) for width in (0.5, 1.0, 1.5)
    ]
    assert counts == sorted(set(counts))


def test_half_width_mobilenet_matches_a_count_by_hand() -> None:
    """Alpha 0.5: 3*3*3*16 stem, then depthwise 9c + pointwise c*d, a weight and a bias for each norm, 512*10+10."""
    channels = [16, 32, 64, 64, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512]
    expected = 3 * 9 * 16 + 2 * 16 + 512 * 10 + 10
    for before, after in itertools.pairwise(channels):
        expected += 9 * before + 2 * before + before * after + 2 * after
    assert count_parameters(on_meta("mobilenet.mobilenet", {"width_multiplier": 0.5}, (3, 32, 32), 10)) == expected


@pytest.mark.parametrize(
    ("name", "shrinkage"), [("mobilenet.mobilenet", 16), ("mobilenet.mobilenet_v2", 8), ("resnet.resnet18", 8)]
)
def test_small_stem_keeps_resolution(name: str, shrinkage: int) -> None:
    """The feature maps before global pooling are 32 / shrinkage wide; the paper's stem leaves a single pixel."""
    sizes = []
    for stem in ("small", "imagenet"):
        model = on_meta(name, {"stem": stem}, (3, 32, 32), 10).eval()
        smallest: list[int] = []
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(
                    lambda _layer, _inputs, output, seen=smallest: seen.append(output.shape[-1])
                )
        model(torch.empty(2, 3, 32, 32, device="meta"))
        sizes.append(min(smallest))
    assert sizes == [32 // shrinkage, 1]


def test_dropout_is_absent_at_zero_and_present_above() -> None:
    drops = [
        sum(isinstance(layer, nn.Dropout) for layer in on_meta(*plain, (3, 32, 32), 10).modules())
        for plain in (("vgg.vgg16_plain", {}), ("vgg.vgg16_plain", {"dropout": 0.5}))
    ]
    assert drops == [0, 2]


def test_signal_survives_sixteen_layers_without_batch_norm() -> None:
    """With fan_in initialisation the last convolution's output is of the input's order of magnitude, not 1/13th of it.

    The fan_out form multiplies the variance by 3/64 and thrice by 1/2, so the standard deviation by 0.077.
    """
    model = build("vgg.vgg16_plain", {}, (3, 32, 32))
    torch.manual_seed(0)
    with torch.no_grad():
        features = model.get_submodule("features")(torch.randn(8, 3, 32, 32))
    assert 0.3 < features.std() < 3.0


@pytest.mark.parametrize(("name", "params", "image"), SMALL[:9:4], ids=label)
def test_weights_follow_from_the_seed_alone(name: str, params: dict[str, Any], image: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    first = build(name, params, image, seed=5).state_dict()
    torch.manual_seed(2)
    again = build(name, params, image, seed=5).state_dict()
    other = build(name, params, image, seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    differing = [key for key in first if not torch.equal(first[key], other[key])]
    assert set(differing) >= {key for key in first if first[key].dim() > 1}


def test_building_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build("small.small_cnn", {}, (1, 28, 28), seed=9)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("name", "image", "minimum"),
    [
        ("small.small_cnn", (1, 3, 28), 4),
        ("small.cnn_282k", (3, 32, 3), 4),
        ("mobilenet.mobilenet", (3, 28, 32), 32),
        ("mobilenet.mobilenet_v2", (3, 31, 32), 32),
        ("vgg.vgg16", (3, 31, 31), 32),
        ("vgg.vgg16_plain", (3, 31, 31), 32),
        ("vgg.vgg16_imagenet", (3, 16, 16), 32),
        ("resnet.resnet18", (3, 8, 8), 32),
        ("resnet.resnet20", (3, 8, 8), 32),
        ("resnet.resnet50", (3, 8, 8), 32),
    ],
    ids=label,
)
def test_refuses_images_that_are_too_small(name: str, image: tuple[int, int, int], minimum: int) -> None:
    short = name.split(".")[1]
    with pytest.raises(
        ConfigError, match=rf"model={short}: images of {image[1]}x{image[2]} .* at least {minimum} pixels"
    ):
        build(name, {}, image)


@pytest.mark.parametrize(
    ("target", "params", "message"),
    [
        ("qbench.models.vgg.vgg16", {"depth": 19}, "model: .*unexpected keyword argument 'depth'.*: width_multiplier$"),
        ("qbench.models.resnet.resnet20", {"stem": "small"}, "model: .*'stem'; its parameters are: none$"),
        ("qbench.models.vgg.vgg61", {}, r"model\._target_=qbench.models.vgg.vgg61: .*did you mean vgg16\?"),
        ("qbench.models.vgg.VGG16_STAGES", {}, "is not a function or class"),
        ("qbench.models.wgg.vgg16", {}, "there is no module 'qbench.models.wgg'"),
        ("vgg16", {}, r"model\._target_=vgg16: not a dotted path"),
        ("qbench.models.small.mlp", {"hidden": "many"}, r"model: qbench.models.small.mlp cannot be built .*many"),
    ],
)
def test_wrong_configuration_is_named(target: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(target, params, 3, 32, 32, 10, 0)
