"""Quantization-aware training: what is trained is what is stored."""

from __future__ import annotations

import pytest
import torch

from qbench.errors import MethodError
from qbench.methods.base import Context, Tuning
from qbench.methods.qat import QAT
from qbench.program.encodings import Affine
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.training.trainable import TrainableProgram

from .conftest import fine_tune, images, network

CALIBRATION = [images(32, seed=31)]


class Recording:
    """The conformance suite's training, and what was trained."""

    def __init__(self) -> None:
        self.module: TrainableProgram | None = None
        self.tuning: Tuning | None = None
        self.frozen: list[bool] = []

    def __call__(self, module, tuning, *, teacher=None, before_step=None):  # type: ignore[no-untyped-def]
        def watched(step: int, total: int) -> None:
            before_step(step, total)
            self.frozen.append(module.frozen_statistics)

        self.module, self.tuning = module, tuning
        fine_tune(module, tuning, teacher=teacher, before_step=watched)


def qat(net: str = "residual", **parameters: object) -> tuple[Program, Recording]:
    tuner = Recording()
    method = QAT(**{"lr": 0.05, **parameters})  # type: ignore[arg-type]
    program = method.compress(network(net), Context(calibration=CALIBRATION, fine_tune=tuner))
    assert isinstance(program, Program)
    return program, tuner


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("steps", ["frozen", "moving", "learned"])
def test_the_program_is_the_network_that_was_trained(net: str, steps: str, granularity: str) -> None:
    program, tuner = qat(net, weight_bits=4, act_bits=4, steps=steps, granularity=granularity)
    assert tuner.module is not None
    with torch.no_grad():
        expected = tuner.module(images())
    got = materialize(program)(images())
    # a value at the edge between two codes may fall to either side: no more than a few steps of the logits
    assert float((got - expected).abs().max()) <= 0.02 * float(expected.abs().max())
    assert all(isinstance(program.tensors[f"{node.name}.weight"], Affine) for node in program.layers())


@pytest.mark.parametrize("steps", ["frozen", "moving", "learned"])
def test_which_steps_change(steps: str) -> None:
    program, _ = qat(weight_bits=4, act_bits=4, steps=steps)
    start = QAT(weight_bits=4, act_bits=4).calibrated(
        _folded(), {node.name: 4 for node in program.layers()}, Context(calibration=CALIBRATION)
    )
    weight, before = program.tensors["head.3.weight"], start.tensors["head.3.weight"]
    assert isinstance(weight, Affine) and isinstance(before, Affine)
    assert torch.equal(weight.scale, before.scale) == (steps == "frozen")
    assert (program.edges["input"].scale == start.edges["input"].scale) == (steps == "frozen")


def _folded() -> Program:
    from qbench.program.transform import fold_batch_norm

    return fold_batch_norm(network("residual"))


def test_statistics_freeze_after_their_share_of_the_steps() -> None:
    assert qat(epochs=2, freeze_fraction=0.5)[1].frozen == [False] * 3 + [True] * 3
    assert qat(epochs=2, freeze_fraction=1.0)[1].frozen == [False] * 6
    assert qat(epochs=2, freeze_fraction=0.0)[1].frozen == [True] * 6


def test_training_lowers_the_loss_of_the_stored_program() -> None:
    pictures = torch.cat([images(8, seed=21 + step) for step in range(3)])
    labels = (torch.arange(8) % 5).repeat(3)

    def loss(program: Program) -> float:
        return float(torch.nn.functional.cross_entropy(materialize(program)(pictures), labels))

    short = qat("mlp", weight_bits=3, act_bits=4, epochs=1, lr=0.001)[0]
    assert loss(qat("mlp", weight_bits=3, act_bits=4, epochs=30, lr=0.05)[0]) < 0.5 * loss(short)


def test_weights_only_needs_no_calibration_images() -> None:
    method = QAT(act_bits=None)
    assert not method.needs.calibration
    program = method.compress(network("mlp"), Context(fine_tune=fine_tune))
    assert not program.edges


def test_training_images_are_asked_for() -> None:
    with pytest.raises(MethodError, match=r"^method=qat: needs labelled training images"):
        QAT().compress(network("mlp"), Context(calibration=CALIBRATION))


def test_the_recipe_reaches_the_loop() -> None:
    tuning = qat("mlp", epochs=2, lr=0.02, batch_size=64, weight_decay=0.0, distillation=0.5)[1].tuning
    assert tuning == Tuning(epochs=2, lr=0.02, batch_size=64, weight_decay=0.0, distillation=0.5)


@pytest.mark.parametrize(("narrow_range", "lowest"), [(True, -1), (False, -2)])
def test_two_bits_have_four_levels_unless_the_range_is_narrow(narrow_range: bool, lowest: int) -> None:
    program, _ = qat(weight_bits=2, act_bits=None, narrow_range=narrow_range)
    for layer in program.layers():
        weight = program.tensors[f"{layer.name}.weight"]
        assert isinstance(weight, Affine)
        assert (weight.qmin, weight.qmax) == (lowest, 1)
        assert int(weight.codes.min()) == lowest
