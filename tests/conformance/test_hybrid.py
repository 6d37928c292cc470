"""What mixed precision adds to what every method promises; its solver has tests of its own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from qbench.artifact import save, size_report, to_bytes
from qbench.describe import inspect
from qbench.errors import ConfigError, MethodError
from qbench.methods import sensitivity
from qbench.methods.affine_weights import AffineWeights
from qbench.methods.base import Context
from qbench.methods.budget import Budget
from qbench.methods.hybrid import Hybrid
from qbench.methods.kmeans import KMeans
from qbench.program.encodings import Affine, Codebook, Encoding, Float, Sparse
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.quant.kmeans import kmeans_1d

from .conftest import compress, context, images, make, network

SMALL: dict[str, Any] = {"candidates": [2, 4, 8], "encodings": ["linear"], "range": "minmax"}
CALIBRATED = Context(seed=3, calibration=[images(8, seed=11), images(4, seed=12)])


def table(program: Program) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = program.provenance["sensitivity"]["layers"]
    return rows


def bits(program: Program) -> list[int]:
    return [program.tensors[f"{node.name}.weight"].bits for node in program.layers()]


def linear_options(program: Program) -> dict[str, list[Encoding]]:
    return {
        node.name: [AffineWeights().encode(program.weight(node.name), width) for width in (2, 4, 8)]
        for node in program.layers()
    }


def test_the_divergence_is_that_of_whole_runs() -> None:
    """The shortcut of running only what follows a layer changes nothing, also where a value skips the layer."""
    program = network("residual")
    options = linear_options(program)
    found = sensitivity.measure("loss", program, options, CALIBRATED, images=10)
    seen = torch.cat([*CALIBRATED.calibration])[:10]
    target = log_softmax(materialize(program)(seen).double(), 1)
    for layer, encodings in options.items():
        for encoding, harm in zip(encodings, found[layer]):
            changed = materialize(program.with_tensors({f"{layer}.weight": encoding}))(seen)
            expected = kl_div(log_softmax(changed.double(), 1), target, reduction="batchmean", log_target=True)
            assert harm == pytest.approx(float(expected), rel=1e-4, abs=1e-12)
    assert all(harms == sorted(harms, reverse=True) for harms in found.values())  # more bits, less harm


def test_fisher_estimates_the_divergence() -> None:
    """Second order against the whole: the classes are drawn, so within a factor of three for small changes."""
    program = network("mlp")
    options = {layer: own[2:] for layer, own in linear_options(program).items()}
    many = Context(seed=3, calibration=[images(200, seed=11)])
    measured = {kind: sensitivity.measure(kind, program, options, many, 200) for kind in ("loss", "fisher")}
    for layer in options:
        assert 1 / 3 < measured["fisher"][layer][0] / measured["loss"][layer][0] < 3
    before = to_bytes(network("mlp"))
    sensitivity.measure("fisher", program, options, CALIBRATED, 4)
    assert to_bytes(program) == before
    assert not any(one.decode().requires_grad for one in program.tensors.values())


def test_sqnr_is_the_relative_noise_of_the_weights() -> None:
    weight = torch.tensor([[3.0, 4.0]])
    program = network("mlp").with_tensors({"3.weight": Float(weight.repeat(5, 8))})
    found = sensitivity.measure("sqnr", program, {"3": [Float(weight.repeat(5, 8) + 0.5)]}, Context(), 1)
    assert found == {"3": [pytest.approx(2 * 0.25 / 25)]}


def test_the_choice_is_the_best_of_all_within_the_budget() -> None:
    program = compress(make("hybrid", budget="avg_bits:5", **SMALL), network("residual"))
    rows = table(program)
    elements = [program.weight(row["layer"]).numel() for row in rows]

    def cost(picks: tuple[int, ...]) -> int:
        return sum(row["options"][pick][1] * count for row, pick, count in zip(rows, picks, elements))

    def harm(picks: tuple[int, ...]) -> float:
        return float(sum(row["options"][pick][3] for row, pick in zip(rows, picks)))

    chosen = tuple(row["chosen"] for row in rows)
    allowed = [picks for picks in itertools.product(range(3), repeat=3) if cost(picks) <= 5 * sum(elements)]
    assert cost(chosen) <= 5 * sum(elements)
    assert harm(chosen) <= min(map(harm, allowed)) * 1.001  # the table is rounded to four digits
    assert bits(program) == [row["options"][row["chosen"]][1] for row in rows]
    assert len(set(bits(program))) > 1  # mixed, indeed


def test_bytes_of_the_table_are_bytes_of_the_file(tmp_path: Path) -> None:
    program = compress(make("hybrid", budget="size:800B"), network("residual"))
    path = tmp_path / "model.qbench"
    save(program, path)
    stored = {one.name: one.bytes for one in size_report(path).tensors}
    told = {f"{row['layer']}.weight": row["options"][row["chosen"]][2] for row in table(program)}
    assert told == {name: stored[name] for name in told}
    assert sum(told.values()) <= 800


def test_more_budget_is_less_harm() -> None:
    harms, sizes = [], []
    for budget in ("avg_bits:2", "avg_bits:3.3", "avg_bits:6", "size:100KB"):
        program = compress(make("hybrid", budget=budget, **SMALL), network("residual"))
        chosen = [row["options"][row["chosen"]] for row in table(program)]
        harms.append(sum(option[3] for option in chosen))
        sizes.append(sum(option[2] for option in chosen))
    assert harms == sorted(harms, reverse=True) and sizes == sorted(sizes) and harms[0] > 10 * harms[-1]


@pytest.mark.parametrize("percent", [0.0, 20.0])
def test_a_drop_budget_changes_no_more_predictions_than_it_says(percent: float) -> None:
    program = compress(make("hybrid", budget=f"drop:{percent}"), network("residual"))
    seen = torch.cat([*CALIBRATED.calibration])
    changed = materialize(program)(seen).argmax(1) != materialize(network("residual"))(seen).argmax(1)
    told = program.provenance["sensitivity"]["changed_percent"]
    assert told == pytest.approx(100 * float(changed.double().mean()), abs=1e-3) and told <= percent


@pytest.mark.parametrize("percent", [10.0, 20.0])
def test_a_drop_budget_is_of_the_network_with_its_activations_quantized(percent: float) -> None:
    program = compress(make("hybrid", budget=f"drop:{percent}", act_bits=2), network("residual"))
    seen = torch.cat([*CALIBRATED.calibration])
    changed = materialize(program)(seen).argmax(1) != materialize(network("residual"))(seen).argmax(1)
    told = program.provenance["sensitivity"]["changed_percent"]
    assert program.edges and 0 < told <= percent
    assert told == pytest.approx(100 * float(changed.double().mean()), abs=1e-3)


@pytest.mark.parametrize("correction", ["bias", "statistics"])
@pytest.mark.parametrize("settings", [{}, {"granularity": "per_channel"}, {"encodings": ["pruned"]}, {"act_bits": 4}])
def test_corrections_bring_the_logits_nearer_at_the_same_choice(correction: str, settings: dict[str, Any]) -> None:
    seen = torch.cat([*CALIBRATED.calibration])
    expected = materialize(network("residual"))(seen)
    settings = {"budget": "avg_bits:2.5", **settings}
    if "pruned" in settings.get("encodings", ()):
        settings["budget"] = "avg_bits:3.5"
    plain, corrected = (
        compress(make("hybrid", correction=c, **settings), network("residual")) for c in ("none", correction)
    )
    errors = [float((materialize(one)(seen) - expected).square().mean()) for one in (corrected, plain)]
    assert errors[0] < errors[1]
    assert [row["chosen"] for row in table(plain)] == [row["chosen"] for row in table(corrected)]
    needy = Hybrid(sensitivity="sqnr", correction=correction)
    with pytest.raises(MethodError, match=rf"^correction={correction}: needs calibration images"):
        needy.compress(network("residual"), Context())


def test_a_looser_drop_is_no_larger() -> None:
    sizes = [len(to_bytes(compress(make("hybrid", budget=f"drop:{p}"), network("residual")))) for p in (0, 20, 100)]
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < sizes[0]


@pytest.mark.parametrize(
    "budget, smallest",
    [("avg_bits:1.9", r"avg_bits:2$"), ("size:100B", r"size:\d+B$"), ("drop:0", r"drop:[1-9][\d.]*$")],
)
def test_a_budget_that_cannot_be_met_names_the_smallest(budget: str, smallest: str) -> None:
    settings = {**SMALL, "candidates": [2]} if budget.startswith("drop") else SMALL
    with pytest.raises(MethodError, match=rf"^budget={budget}: the smallest .* {smallest}") as caught:
        compress(make("hybrid", budget=budget, **settings), network("residual"))
    named = str(caught.value).split()[-1]
    if not budget.startswith("drop"):  # and what is named is met
        assert compress(make("hybrid", budget=named, **settings), network("residual"))


def test_fixed_layers_are_fixed_and_count() -> None:
    settings = {**SMALL, "first_last_bits": 8, "overrides": {"depthwise*": 0}}
    program = compress(make("hybrid", budget="avg_bits:10", **settings), network("residual"))
    assert bits(program) == [8, 32, 8]
    assert [len(row["options"]) for row in table(program)] == [1, 1, 1]
    with pytest.raises(MethodError, match=r"the smallest .* avg_bits:9\.8621$"):  # (72 x 32 + 856 x 8) / 928
        compress(make("hybrid", budget="avg_bits:9", **settings), network("residual"))


def test_encodings_are_those_of_their_methods() -> None:
    program = compress(make("hybrid", encodings=["kmeans"], granularity="per_channel"), network("residual"))
    for node in program.layers():
        stored, width = program.tensors[f"{node.name}.weight"], program.tensors[f"{node.name}.weight"].bits
        alone = KMeans(granularity="per_channel").encode(network("residual").weight(node.name), width)
        assert isinstance(stored, Codebook) and torch.equal(stored.decode(), alone.decode())
    program = compress(make("hybrid", encodings=["linear"]), network("residual"))
    for node in program.layers():
        stored = program.tensors[f"{node.name}.weight"]
        alone_affine = AffineWeights(range="mse").encode(network("residual").weight(node.name), stored.bits)
        assert isinstance(stored, Affine) and torch.equal(stored.decode(), alone_affine.decode())


def test_pruned_layers_hold_the_largest_weights_in_one_codebook(tmp_path: Path) -> None:
    settings = {**SMALL, "encodings": ["pruned"], "candidates": [2, 3], "sparsity": 0.75}
    program = compress(make("hybrid", budget="avg_bits:1.6", **settings), network("residual"))
    for node, row in zip(program.layers(), table(program)):
        weight, stored = network("residual").weight(node.name), program.tensors[f"{node.name}.weight"]
        kept = round(0.25 * weight.numel())
        smallest = weight.abs().flatten().sort(descending=True).values[kept - 1]
        assert isinstance(stored, Sparse) and torch.equal(stored.mask, weight.abs() >= smallest)
        alone = kmeans_1d(weight[stored.mask], 1 << stored.bits)
        assert torch.equal(stored.inner.decode(), alone.centroids[alone.indices.long()])
        assert [option[0] for option in row["options"]] == ["pruned", "pruned"]
    # a bit per weight for the mask and two or three for each fourth: 1.5 to 1.75, of which 1.6 leaves a choice
    assert set(bits(program)) == {2, 3}
    save(program, tmp_path / "model.qbench")
    assert size_report(tmp_path / "model.qbench").masks_bytes == sum(
        -(-network("residual").weight(node.name).numel() // 8) for node in program.layers()
    )
    with pytest.raises(MethodError, match=r"the smallest .* avg_bits:1\.5$"):
        compress(make("hybrid", budget="avg_bits:1.4", **settings), network("residual"))


def test_all_encodings_compete() -> None:
    settings = {**SMALL, "encodings": ["kmeans", "linear", "pruned"], "candidates": [2, 3, 4]}
    rows = table(compress(make("hybrid", budget="avg_bits:3", **settings), network("residual")))
    assert all(len(row["options"]) == 9 for row in rows)
    few = {**settings, "encodings": ["linear"]}
    alone = table(compress(make("hybrid", budget="avg_bits:3", **few), network("residual")))

    def harm(found: list[dict[str, Any]]) -> float:
        return sum(float(row["options"][row["chosen"]][3]) for row in found)

    assert harm(rows) <= harm(alone)


def test_few_images_are_enough_to_run() -> None:
    for count in (1, 8, 9, 12):
        chosen = sensitivity.first_images(CALIBRATED, count)
        assert sum(map(len, chosen)) == count
    assert sum(map(len, sensitivity.first_images(CALIBRATED, 1000))) == 12


def test_weights_alone_need_no_images() -> None:
    method = make("hybrid", sensitivity="sqnr")
    assert not method.needs.calibration
    assert context(method).calibration.__class__.__name__ == "Untouchable"
    assert compress(method, network("mlp")).provenance["sensitivity"]["kind"] == "sqnr"
    needy = Hybrid(sensitivity="sqnr", budget="drop:1")
    with pytest.raises(MethodError, match=r"^budget=drop:1: needs calibration images"):
        needy.compress(network("mlp"), Context())


def test_inspect_shows_the_sensitivities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = compress(make("hybrid", **SMALL), network("residual"))
    save(program, tmp_path / "model.qbench")
    assert inspect([str(tmp_path / "model.qbench")]) == 0
    shown = capsys.readouterr().out
    assert "sensitivity (loss) of each layer alone; * chosen" in shown
    row = next(line for line in shown.splitlines() if line.split()[:1] == ["head.3"] and "*" in line)
    assert len(row.split()) == 4 and row.count("*") == 1


@pytest.mark.parametrize(
    "text, kind, amount",
    [("avg_bits:3.5", "avg_bits", 3.5), ("size:2MB", "size", 2e6), ("size:1.5KB", "size", 1500.0),
     ("size:77B", "size", 77.0), ("drop:0", "drop", 0.0), ("drop:0.5", "drop", 0.5)],
)  # fmt: skip
def test_budgets_are_read(text: str, kind: str, amount: float) -> None:
    assert Budget.parse(text) == Budget(kind, amount)


@pytest.mark.parametrize("text", ["3", "avg_bits:", "avg_bits:-1", "size:2", "size:2GB", "drop:1%", "avg_bits:0", " "])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"budget='.*': (allowed are avg_bits:3\.5|nothing can be stored in that)"):
        make("hybrid", budget=text)


@pytest.mark.parametrize("changed", [{"candidates": []}, {"encodings": []}, {"candidates": [9]}, {"encodings": ["x"]}])
def test_lists_outside_their_limits_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"candidates|encodings"):
        make("hybrid", **changed)
