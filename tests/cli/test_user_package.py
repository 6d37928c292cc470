"""A data set, a network and a method of the user's own, in a package outside qbench, run like built-in ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calling import Bench

DATA = '''
from dataclasses import dataclass

import torch

from qbench.data.base import ImageSet


@dataclass(frozen=True)
class Stripes:
    """Upright or level stripes."""

    size: int = 8
    class_names = ("upright", "level")

    def load_train(self, root, cache):
        return self._make(400, 1)

    def load_test(self, root, cache):
        return self._make(100, 2)

    def _make(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 2, (count,), generator=generator)
        lines = (torch.arange(self.size) % 2 * 200).expand(count, 1, self.size, self.size)
        images = torch.where(labels.view(-1, 1, 1, 1) == 0, lines, lines.transpose(2, 3))
        noise = torch.randint(0, 50, images.shape, generator=generator)
        return ImageSet((images + noise).to(torch.uint8), labels)
'''
NETWORK = """
from torch import nn


def striped(channels, height, width, num_classes, *, filters=4):
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(filters * (height - 2) * (width - 2), num_classes),
    )
"""
METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

from qbench.methods.base import Needs
from qbench.methods.linear import Linear


@dataclass(frozen=True)
class Coarse:
    """Uniform steps, whatever it takes."""

    weight_bits: int = 3
    needs: ClassVar[Needs] = Needs(calibration=True)

    def compress(self, baseline, context):
        assert context.calibration[0].shape[1:] == (1, 8, 8)
        return Linear(weight_bits=self.weight_bits, granularity="per_tensor").compress(baseline, context)
'''
YAML = {
    "dataset": "_target_: mypkg.data.Stripes\nsummary: stripes\nsize: 8\ncalibration_images: 16\n",
    "model": "_target_: mypkg.net.striped\nsummary: one convolution\nfilters: 4\nrecipe: {lr: 0.05}\n"
    "limits:\n  filters: {min: 1, max: 64}\n",
    "method": "_target_: mypkg.method.Coarse\nsummary: coarse\nweight_bits: 3\n"
    "limits:\n  weight_bits: {min: 1, max: 8}\n",
}
WORDS = ("dataset=mine", "model=mine", "method=mine", "tiny=true", "measure=none", "threads=1")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The user's folder: ``mypkg`` beside ``configs``."""
    folder = tmp_path / "a project"
    (folder / "mypkg").mkdir(parents=True)
    for name, text in {"data": DATA, "net": NETWORK, "method": METHOD, "__init__": ""}.items():
        (folder / "mypkg" / f"{name}.py").write_text(text)
    for group, text in YAML.items():
        (folder / "configs" / group).mkdir(parents=True)
        (folder / "configs" / group / "mine.yaml").write_text(text)
    return folder


def test_a_package_outside_qbench_runs_like_built_in_ones(bench: Bench, project: Path) -> None:
    flag = ("--config-dir", str(project / "configs"))
    done = bench.process("run", *flag, *WORDS, "bits=2", "model.filters=3", cwd=bench.home)
    assert (done.code, done.err) == (0, "")
    (path,) = (bench.outputs / "records").iterdir()
    record = json.loads(path.read_text())
    assert (record["status"], record["dataset"], record["model"], record["method"]) == ("ok", "mine", "mine", "mine")
    assert (record["weight_bits"], record["n_test"]) == (2, 100)
    assert record["top1_baseline_percent"] > 90 and record["compression_ratio"] > 1
    assert record["config"]["method"]["target"] == "mypkg.method.Coarse"
    # what was done is not done again, and an edited network is another network
    again = bench.process("run", *flag, *WORDS, "bits=2", "model.filters=3", "dry=true", cwd=bench.home)
    assert again.out.count("cached") == 5 and "to do" not in again.out
    (project / "mypkg" / "net.py").write_text(NETWORK + "# edited\n")
    edited = bench.process("run", *flag, *WORDS, "bits=2", "model.filters=3", "dry=true", cwd=bench.home)
    assert edited.out.count("to do") == 5


def test_its_mistakes_are_told_like_those_of_built_in_ones(bench: Bench, project: Path) -> None:
    flag = ("--config-dir", str(project / "configs"))
    done = bench("run", *flag, *WORDS, "bits=9", "model.filters=0", "method.wait_bits=3")
    assert done.code == 2
    assert done.err.splitlines() == [
        "qbench: method.wait_bits: unknown key in method=mine. Did you mean weight_bits? Known: weight_bits.",
        "qbench: model.filters=0: allowed for model=mine: whole numbers from 1 to 64.",
        "qbench: bits=9: allowed for method=mine: whole numbers from 1 to 8.",
    ]


def test_code_that_cannot_be_imported_fails_as_bad_input(bench: Bench, project: Path) -> None:
    (project / "mypkg" / "data.py").write_text("import a_package_that_is_not_there\n")
    done = bench.process("run", "--config-dir", str(project / "configs"), *WORDS)
    text = "dataset=mine: cannot import _target_ 'mypkg.data.Stripes': No module named 'a_package_that_is_not_there'"
    assert done.code == 2 and f"failed: {text}" in done.out and done.err == ""
