"""``qbench inspect``: what is printed of a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from calling import Bench

from qbench.artifact import save
from qbench.methods.base import Context
from qbench.methods.linear import Linear
from qbench.program.encodings import Float
from qbench.program.graph import Node, Program


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.fixture
def artefacts(tmp_path: Path) -> tuple[Path, Path]:
    """The same small network as float and as 4-bit integers, of weights that no training made."""
    nodes = (
        Node("conv", "conv2d", ("input",), {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}),
        Node("relu", "relu", ("conv",)),
        Node("flatten", "flatten", ("relu",)),
        Node("head", "linear", ("flatten",)),
    )
    tensors = {
        "conv.weight": Float(torch.linspace(-1, 1, 54).view(6, 1, 3, 3)),
        "conv.bias": Float(torch.zeros(6)),
        "head.weight": Float(torch.linspace(-2, 2, 240).view(10, 24)),
        "head.bias": Float(torch.zeros(10)),
    }
    program = Program((1, 4, 4), nodes, tensors, {})
    quantized = Linear(weight_bits=4).compress(program, Context())
    assert isinstance(quantized, Program)
    made = {"method": "linear", "params": {"weight_bits": 4, "act_bits": None, "fold_batch_norm": True}}
    paths = tmp_path / "float.qbench", tmp_path / "four.qbench"
    save(program, paths[0])
    save(replace(quantized, provenance={**made, "model": "toy", "dataset": "digits"}), paths[1])
    return paths


def test_inspect(bench: Bench, artefacts: tuple[Path, Path]) -> None:
    done = bench("inspect", str(artefacts[1]))
    assert done.code == 0
    shown = lines(done.out)
    start = next(index for index, line in enumerate(shown) if line.split()[:2] == ["layer", "op"])
    assert "".join(shown[:start]).replace("\n", "").strip() == str(artefacts[1])
    assert [line.split() for line in shown[start + 2 : start + 4]] == [
        # 54 x 4 bits and 6 scales; 6 x 2 x 2 outputs of 9 products; 4 x 32 bits; see below for the energies
        ["conv", "conv2d", "6x1x3x3", "affine", "4", "32", "51", "216", "27,648", "0.0134"],
        ["head", "linear", "10x24", "affine", "4", "32", "160", "240", "30,720", "0.0338"],  # 240 x 4 bits, 10 scales
    ]
    facts = {line[:12].strip(): line[12:] for line in shown[start + 4 :]}
    assert facts["made by"] == "linear act_bits=null fold_batch_norm=true weight_bits=4"
    assert facts["network"] == "toy on digits, input (1, 4, 4)"
    # pJ of the layers: float MACs, weights and biases from DRAM, floats in and out of 8 KiB of SRAM
    conv = 216 * 4.6 + (51 + 24) * 8 * 1300 / 64 + (16 + 24) * 32 * 10 / 64
    head = 240 * 4.6 + (160 + 40) * 8 * 1300 / 64 + (24 + 10) * 32 * 10 / 64
    assert (f"{conv / 1e6:.3g}", f"{head / 1e6:.3g}") == (shown[start + 2].split()[-1], shown[start + 3].split()[-1])
    assert facts["energy"] == f"{(conv + head) / 1e6:.4g} µJ per image, modelled (45nm-v1)"
    assert facts["operations"] == "456 MACs, 58,368 BOPs per image"
    assert facts["parameters"] == "310" and facts["activations"] == "float"
    assert facts["memory"] == "160 bytes of activations at once, for one image"  # 16 in and 24 out, 4 bytes each
    effective = artefacts[1].stat().st_size / 4
    assert facts["effective"] == f"{effective:,.1f} parameters of 32 bits would take as many bytes"
    size = artefacts[1].stat().st_size
    total, parts = facts["bytes"].replace(",", "").split("; ")[0].split(" = ")
    assert int(total) == size == sum(int(part.split()[-1]) for part in parts.split(" + "))


def test_inspect_beside_the_float_weights(bench: Bench, artefacts: tuple[Path, Path]) -> None:
    expected = bench("inspect", str(artefacts[1]), "--baseline", str(artefacts[0])).out
    assert bench("inspect", f"--baseline={artefacts[0]}", str(artefacts[1])).out == expected
    rows = {line.split()[0]: line.split() for line in lines(expected) if line.split()[0] in ("conv", "head")}
    # evenly spread values in steps of S: noise S^2 / 12, S the largest of a channel over 7, give or take a few dB
    assert all(15 < float(row[-1]) < 30 for row in rows.values())
    assert "SQNR dB" in expected


def test_inspect_refuses_the_baseline_of_another_network(
    bench: Bench, artefacts: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.qbench"
    nodes = (Node("flatten", "flatten", ("input",)), Node("fc", "linear", ("flatten",)))
    save(Program((1, 4, 4), nodes, {"fc.weight": Float(torch.ones(10, 16))}, {}), other)
    done = bench("inspect", str(artefacts[1]), "--baseline", str(other))
    assert (done.code, done.err) == (2, f"qbench: {other}: is of another network than {artefacts[1]}\n")
