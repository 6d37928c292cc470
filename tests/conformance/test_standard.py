"""What standard quantization and octization add to what every method promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qbench.artifact import save
from qbench.describe import inspect
from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.in_loop import StraightThrough
from qbench.methods.octization import Octization
from qbench.methods.standard import Standard
from qbench.program.encodings import Affine, Float
from qbench.program.graph import Program
from qbench.program.materialize import materialize

from .conftest import compress, images, make, network

BOTH = {"standard": Standard, "octization": Octization}
EXAMPLE = [0.03279644, 0.37225065, 0.03883055, 0.32002673, 0.37683514]


def affine(program: Program, layer: str) -> Affine:
    encoding = program.tensors[f"{layer}.weight"]
    assert isinstance(encoding, Affine)
    return encoding


def with_first(values: list[float]) -> Program:
    """The dense network, the first weights of its first layer replaced."""
    weight = network("mlp").weight("1").clone()
    weight.view(-1)[: len(values)] = torch.tensor(values)
    return network("mlp").with_tensors({"1.weight": Float(weight)})


@pytest.mark.parametrize("name, codes", [("standard", [8, 95, 10, 82, 96]), ("octization", [8, 94, 9, 81, 96])])
def test_the_worked_example_is_what_a_file_holds(name: str, codes: list[int]) -> None:
    stored = affine(compress(make(name), with_first(EXAMPLE)), "1")
    assert stored.codes.flatten()[:5].tolist() == codes
    assert (stored.bits, stored.qmin, stored.qmax, stored.axis) == (9, -255, 255, None)  # eight bits and a sign
    assert float(stored.scale) == pytest.approx(1 / 255, rel=2**-24) and int(stored.zero_point) == 0


@pytest.mark.parametrize("bits", [1, 3, 8, 15])
def test_truncation_is_the_only_difference(bits: int) -> None:
    rounded = affine(compress(Standard(weight_bits=bits), network("mlp")), "1")
    cut = affine(compress(Octization(weight_bits=bits), network("mlp")), "1")
    steps = network("mlp").weight("1").double() * (2**bits - 1)
    assert torch.equal(rounded.codes.double(), steps.round())
    assert torch.equal(cut.codes.double(), steps.trunc())
    assert torch.equal(rounded.scale, cut.scale) and rounded.bits == cut.bits == bits + 1


@pytest.mark.parametrize("name", BOTH)
def test_weights_beyond_one_get_the_bits_they_need_and_are_told_of(name: str) -> None:
    program = compress(make(name), with_first([-3.0]))
    wide, other = affine(program, "1"), affine(program, "3")
    assert (wide.bits, wide.qmin, wide.qmax) == (11, -1023, 1023)  # 765 has ten bits
    assert float(wide.decode().view(-1)[0]) == pytest.approx(-3.0, rel=2**-23)
    assert other.bits == 9
    assert program.provenance["warnings"] == ["weights beyond [-1, 1] take more magnitude bits than asked: 1 10"]
    assert "warnings" not in compress(make(name), network("mlp")).provenance


@pytest.mark.parametrize(
    ("training", "advice"), [("post", ""), ("in_loop", "; if training took it there, lower method.lr=0.1")]
)
def test_a_weight_no_code_holds_names_its_layer(training: str, advice: str) -> None:
    with pytest.raises(MethodError) as caught:
        compress(make("standard", training=training, lr=0.1), with_first([-200.0]))
    assert str(caught.value) == f"1.weight: a weight of -200 at 8 bits needs more than 15 magnitude bits{advice}"


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as it is"])
@pytest.mark.parametrize("name", BOTH)
def test_training_in_the_loop_stores_what_it_computed_with(name: str, fold: bool) -> None:
    method = make(name, training="in_loop", epochs=2, lr=0.05, weight_bits=4, fold_batch_norm=fold)
    program = compress(method, network("residual"))
    post = compress(make(name, weight_bits=4, fold_batch_norm=fold), network("residual"))
    assert program.graph_digest() == post.graph_digest()
    changed = 0
    for node in program.layers():
        stored = affine(program, node.name)
        assert torch.equal(stored.scale, affine(post, node.name).scale)
        changed += int((stored.codes != affine(post, node.name).codes).sum())
    assert changed > 0
    assert not torch.equal(program.tensors["head.3.bias"].decode(), post.tensors["head.3.bias"].decode())


def test_the_forward_pass_is_exactly_the_code_and_its_gradient_passes() -> None:
    quantizer = StraightThrough(lambda weight: Octization().encode(weight, 3))
    latent = torch.tensor([[0.3, -0.99, 0.01]], requires_grad=True)
    made: Tensor = quantizer(latent)
    assert torch.equal(made, quantizer.encode(latent.detach()).decode())
    (made * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert latent.grad is not None and latent.grad.tolist() == [[1.0, 2.0, 3.0]]


def test_training_in_the_loop_needs_labelled_images_and_something_to_train() -> None:
    method = Standard(training="in_loop")
    assert method.needs.training and not Standard().needs.training
    with pytest.raises(MethodError, match=r"^training=in_loop: needs labelled training images"):
        method.compress(network("mlp"), Context())
    with pytest.raises(MethodError, match=r"^the network: the method changed nothing"):
        compress(make("standard", training="in_loop", overrides={"*": 0}), network("mlp"))


def test_activations_are_quantized_after_the_weights() -> None:
    program = compress(make("standard", act_bits=8), network("residual"))
    alone = compress(make("standard"), network("residual"))
    assert len(program.edges) >= 3 and all(edge.bits == 8 for edge in program.edges.values())
    assert torch.equal(program.weight("head.3"), alone.weight("head.3"))
    assert not torch.equal(materialize(program)(images()), materialize(alone)(images()))


def test_inspect_spells_codes_in_octal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, spelling in (("octization", "0o10 0o136 0o11"), ("standard", "0o")):
        save(compress(make(name), with_first([*EXAMPLE[:3]])), tmp_path / "model.qbench")
        assert inspect([str(tmp_path / "model.qbench")]) == 0
        assert (spelling in capsys.readouterr().out) == (name == "octization")


def test_what_is_told_travels_as_json() -> None:
    program = compress(make("octization"), with_first([-3.0]))
    assert json.loads(json.dumps(dict(program.provenance))) == program.provenance
    assert program.provenance["notation"] == "octal"
    assert "notation" not in compress(make("standard"), network("mlp")).provenance
