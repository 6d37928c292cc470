"""Networks that are not qbench's own: the user's module, and timm's."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from qbench.errors import ConfigError
from qbench.models.build import build_model

SOURCE = """
import torch
from torch import nn

class Everything(nn.Module):
    def __init__(self, channels, height, width, num_classes, hidden=4):
        super().__init__()
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(channels * height * width, hidden)
        self.dense2 = nn.Linear(hidden, num_classes)

    def forward(self, x):
        return self.dense2(self.dense1(self.flatten(x)))

def pooled(num_classes, *, channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))

def fixed(**options):
    return pooled(options.get("num_classes", 99), channels=3)

def wants_more(num_classes, depth):
    return pooled(num_classes, channels=depth)

def text(num_classes):
    return "a network"

def broken(num_classes):
    raise KeyError("lost")

def no_tensor():
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 10))

CONSTANT = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of the user's own with a network module and one that cannot be imported."""
    folder = tmp_path / "users_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(SOURCE)
    (folder / "failing.py").write_text("import no_such_dependency\n")
    (folder / "raising.py").write_text("raise OSError('weights not found')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        monkeypatch.delitem(sys.modules, name)
    return folder.name


def build(target: str | None, image: tuple[int, int, int] = (3, 6, 5), **kwargs: Any) -> nn.Module:
    params = {"target": target, "kwargs": kwargs}
    return build_model("qbench.models.custom.custom", params, *image, 10, 0)


def test_passes_the_facts_its_signature_names(package: str) -> None:
    everything = build(f"{package}.nets.Everything")
    assert everything.get_submodule("dense1").weight.shape == (4, 3 * 6 * 5)
    pooled = build(f"{package}.nets.pooled")
    assert pooled(torch.zeros(2, 3, 6, 5)).shape == (2, 10)


def test_kwargs_are_passed_through_and_win(package: str) -> None:
    assert build(f"{package}.nets.Everything", hidden=7).get_submodule("dense1").weight.shape == (7, 90)
    assert build(f"{package}.nets.fixed", num_classes=10)(torch.zeros(1, 3, 6, 5)).shape == (1, 10)
    with pytest.raises(ConfigError, match=r"\(2, 5\) for 2 images of 3x6x5, not \(2, 10\)"):
        build(f"{package}.nets.Everything", num_classes=5)


def test_weights_follow_from_the_seed(package: str) -> None:
    params = {"target": f"{package}.nets.Everything", "kwargs": {}}
    one, same, other = (
        build_model("qbench.models.custom.custom", params, 1, 4, 4, 3, seed).get_submodule("dense1").weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"model\.target is missing: .*model\.target=my_package\.my_module\.MyNet"),
        ("{}.nets.Everythin", r"model\.target={}\.nets\.Everythin: .*did you mean Everything\?"),
        ("{}.nets.zzz", r"model\.target=.*has no 'zzz'; check the spelling"),
        ("{}.net.Everything", r"model\.target=.*no module '{}\.net'; .*pip install -e FOLDER.*PYTHONPATH"),
        ("no_such_package.Net", r"model\.target=no_such_package\.Net: there is no module 'no_such_package'"),
        ("{}.failing.Net", r"model\.target=.*no module 'no_such_dependency'"),
        ("{}.raising.Net", r"model\.target=.*importing {}\.raising failed with OSError: weights not found"),
        ("Everything", r"model\.target=Everything: not a dotted path"),
        (".nets", r"model\.target=\.nets: not a dotted path"),
        ("{}.nets.CONSTANT", r"model\.target=.*is a int, not a class or function"),
        ("{}.nets.wants_more", r"model\.target=.*'depth'; it takes \(num_classes, depth\).*model\.kwargs="),
        ("{}.nets.text", r"model\.target=.*returned str, not a torch\.nn\.Module"),
        ("{}.nets.broken", r"model: .*custom cannot be built for 3x6x5 images .*lost"),
        ("{}.nets.no_tensor", r"model: .*custom cannot process 3x6x5 images: "),
        ("{}.nets.fixed", r"model: .*custom returned \(2, 99\) for 2 images of 3x6x5, not \(2, 10\)"),
    ],
)
def test_wrong_target_is_explained(package: str, target: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message.format(package) if "{}" in message else message):
        build(None if target is None else target.format(package))


def test_timm_gets_the_classes_and_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        calls.append((name, options))
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(options["in_chans"], options["num_classes"])
        )

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(is_model=lambda name: True, create_model=create_model))
    build_model("qbench.models.timm_model.timm_model", {"architecture": "tiny"}, 2, 8, 8, 5, 0)
    assert calls == [("tiny", {"pretrained": False, "num_classes": 5, "in_chans": 2})]


def test_timm_suggests_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(is_model=lambda name: False, list_models=lambda: ["resnet18", "vgg11"])
    monkeypatch.setitem(sys.modules, "timm", fake)
    with pytest.raises(ConfigError, match=r"model\.architecture=resnet81: .*did you mean resnet18\?"):
        build_model("qbench.models.timm_model.timm_model", {"architecture": "resnet81"}, 3, 32, 32, 10, 0)


def test_timm_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # makes `import timm` raise ImportError
    with pytest.raises(ConfigError, match=r"pip install 'qbench\[timm\]'"):
        build_model("qbench.models.timm_model.timm_model", {}, 3, 32, 32, 10, 0)
