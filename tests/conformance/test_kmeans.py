"""What k-means weight sharing adds to what every method promises; its solver has tests of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from qbench.artifact import load, save
from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.methods.corrections import correct_biases, match_statistics, reestimate_batch_norm
from qbench.methods.importance import importance
from qbench.methods.kmeans import KMeans
from qbench.program.encodings import Affine, Codebook, Float
from qbench.program.graph import Program
from qbench.program.lower import lower
from qbench.program.materialize import materialize
from qbench.program.trace import trace
from qbench.program.transform import fold_batch_norm
from qbench.progress import SilentProgress
from qbench.quant.codebook import nearest_indices, snap_to_grid
from qbench.runtime.onnx.writer import why_not

from .conftest import compress, context, images, network

LAYERS = ("stem.0", "depthwise.0", "head.3")
CONTEXT = Context(calibration=(images(8, seed=11), images(4, seed=12)))


def test_known_optima() -> None:
    """[1, 3, 5, 7, 9] shared by two, [10, 20 ... 90] by four of two bits."""
    pair = KMeans().encode(torch.tensor([[1.0, 3.0, 5.0, 7.0, 9.0]]), 1)
    assert pair.centroids.decode().tolist() == [2.0, 7.0]
    assert pair.decode().tolist() == [[2.0, 2.0, 7.0, 7.0, 7.0]]
    four = KMeans().encode(torch.arange(10.0, 91.0, 10.0)[None], 2)
    assert float((four.decode() - torch.arange(10.0, 91.0, 10.0)).square().sum()) == 350.0  # three pairs and a triple


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codebooks_hold_at_most_two_to_the_bits(bits: int) -> None:
    weight = images(4, seed=2)
    layer, channel = KMeans().encode(weight, bits), KMeans(granularity="per_channel").encode(weight, bits)
    assert isinstance(layer, Codebook) and layer.centroids.shape == (1 << bits,) and layer.axis is None
    count = min(1 << bits, weight[0].numel())
    assert channel.centroids.shape == (4, count) and channel.axis == 0
    assert layer.shape == channel.shape == weight.shape
    errors = [float((encoding.decode() - weight).square().sum()) for encoding in (layer, channel)]
    # a codebook for every channel could hold the one of the layer; the solver is within 0.1 % of the optimum
    assert errors[1] <= errors[0] * 1.001


def test_each_weight_takes_its_nearest_centroid() -> None:
    weight = images(4, seed=3)
    encoding = KMeans().encode(weight, 3)
    distances = (weight.flatten()[:, None].double() - encoding.centroids.decode().double()).abs()
    chosen = (weight.double() - encoding.decode().double()).abs().flatten()
    assert torch.equal(chosen, distances.amin(1))


def test_biases_and_batch_norms_stay_float() -> None:
    program = compress(KMeans(), network("residual"))
    for name, encoding in program.tensors.items():
        expected = Codebook if name in {f"{layer.name}.weight" for layer in program.layers()} else Float
        assert isinstance(encoding, expected), name


def test_progress_is_told_of_every_layer() -> None:
    class Counting(SilentProgress):
        begun: tuple[str, int] = ("", 0)
        steps = 0
        ended = False

        def begin(self, label: str, total: int) -> None:
            self.begun = (label, total)

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.steps += steps

        def end(self) -> None:
            self.ended = True

    progress = Counting()
    KMeans().compress(network("residual"), Context(progress=progress))
    assert (progress.begun, progress.steps, progress.ended) == (("k-means", 3), 3, True)


def weighted_error(program: Program, weights: dict[str, torch.Tensor], name: str) -> float:
    error = (program.weight(name) - network("residual").weight(name)).double().square()
    return float((error * weights[name].double()).sum())


@pytest.mark.parametrize("granularity", ["per_layer", "per_channel"])
@pytest.mark.parametrize("kind", ["activation", "fisher"])
def test_weighted_clusters_lower_the_weighted_error(kind: str, granularity: str) -> None:
    weights = importance(kind, network("residual"), LAYERS, CONTEXT)
    plain = compress(KMeans(weight_bits=2, granularity=granularity), network("residual"))
    weighted = KMeans(weight_bits=2, granularity=granularity, weighting=kind).compress(network("residual"), CONTEXT)
    for name in LAYERS:
        assert weighted_error(weighted, weights, name) <= weighted_error(plain, weights, name) * 1.001
        ones = {name: torch.ones_like(weights[name])}
        assert weighted_error(plain, ones, name) <= weighted_error(weighted, ones, name) * 1.001
    changed = [name for name in LAYERS if not torch.equal(plain.weight(name), weighted.weight(name))]
    assert "head.3" in changed


def test_activation_importance_is_the_mean_square_of_what_a_weight_multiplies() -> None:
    """By hand: pictures unfolded by padding and slicing, every weight's inputs listed."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        grouped = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2)
        program = trace(nn.Sequential(grouped, nn.Flatten(), nn.Linear(6 * 4 * 7, 5)), (4, 8, 8))
    pictures = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    got = importance("activation", program, ["0", "2"], Context(calibration=[pictures[:2], pictures[2:]]))
    padded = nn.functional.pad(pictures, (0, 0, 1, 1)).double()
    for out, channel, row, column in ((0, 0, 0, 0), (0, 1, 2, 1), (4, 0, 1, 0), (5, 1, 0, 1)):
        seen = padded[:, channel + (2 if out >= 3 else 0), row : row + 7 : 2, column : column + 7]
        assert float(got["0"][out, channel, row, column]) == pytest.approx(float(seen.square().mean()), rel=1e-5)
    hidden = grouped(pictures).flatten(1)
    torch.testing.assert_close(got["2"], hidden.square().mean(0).expand(5, -1).detach(), rtol=1e-5, atol=1e-6)


def test_fisher_importance_is_the_diagonal_of_the_fisher_matrix() -> None:
    """Over many draws of signs the estimate is the exact sum over labels: E_label[(d log p(label) / dw)^2]."""
    program, pictures = network("mlp"), images(6, seed=9)
    estimate = importance("fisher", program, ["1", "3"], Context(calibration=[pictures] * 400))
    module = materialize(program)
    names = {name: key for name, key in (("1", module._keys["1.weight"]), ("3", module._keys["3.weight"]))}
    buffers = dict(module.named_buffers())

    def log_likelihoods(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.log_softmax(functional_call(module, {**buffers, **weights}, (pictures,)), dim=1)

    weights = {key: buffers[key] for key in names.values()}
    gradients = jacrev(log_likelihoods)(weights)  # [N, K, *weight]
    probabilities = log_likelihoods(weights).exp()
    for layer, key in names.items():
        squares = gradients[key].square() * probabilities.view(6, 5, 1, 1)
        expected = squares.sum(1).mean(0)
        assert float((estimate[layer] - expected).norm() / expected.norm()) < 0.15
        assert float(estimate[layer].sum()) == pytest.approx(float(expected.sum()), rel=0.05)


def test_the_same_seed_gives_the_same_fisher_importance_and_another_one_does_not() -> None:
    one, same = (importance("fisher", network("residual"), LAYERS, CONTEXT) for _ in range(2))
    other = importance("fisher", network("residual"), LAYERS, Context(seed=1, calibration=CONTEXT.calibration))
    assert all(torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name]) for name in LAYERS)


def test_an_unknown_importance_and_missing_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^importance 'hessian': allowed are activation, fisher"):
        importance("hessian", network("mlp"), ["1"], CONTEXT)
    for kind in ("activation", "fisher"):
        with pytest.raises(MethodError, match=rf"^weighting={kind}: needs calibration images"):
            KMeans(weighting=kind).compress(network("mlp"), Context())
    for kind in ("statistics", "batch_norm", "bias"):
        with pytest.raises(MethodError, match=rf"^correction={kind}: needs calibration images"):
            KMeans(correction=kind).compress(network("mlp"), Context())


@pytest.mark.parametrize("fold", [False, True], ids=["unfolded", "folded"])
@pytest.mark.parametrize("granularity", ["per_layer", "per_channel"])
def test_snapped_centroids_lie_on_an_int8_grid(granularity: str, fold: bool, tmp_path: Path) -> None:
    method = KMeans(granularity=granularity, snap="int8", fold_batch_norm=fold)
    program = compress(method, network("residual"))
    original = fold_batch_norm(network("residual")) if fold else network("residual")
    for name in LAYERS:
        encoding = program.tensors[f"{name}.weight"]
        assert isinstance(encoding, Codebook) and isinstance(encoding.centroids, Affine)
        centroids, weight = encoding.centroids, original.weight(name)
        assert centroids.codes.dtype == torch.int8 and int(centroids.zero_point.abs().max()) == 0
        assert centroids.scale.shape == ((len(weight),) if granularity == "per_channel" else ())
        assert bool((centroids.codes.int().abs().amax(-1) == 127).all())
        table = centroids.decode().expand(len(weight), -1)
        distance = (weight.flatten(1)[..., None].double() - table[:, None].double()).abs().amin(2)
        chosen = (weight.double() - encoding.decode().double()).abs().flatten(1)
        torch.testing.assert_close(chosen, distance, rtol=0.0, atol=1e-9)
    save(program, tmp_path / "model.qbench")
    loaded = load(tmp_path / "model.qbench")
    assert torch.equal(materialize(loaded)(images()), materialize(program)(images()))


def test_snapping_to_a_grid_by_hand() -> None:
    codes, qparams = snap_to_grid(torch.tensor([[-1.27, 0.004, 0.5], [0.0, 0.0, 0.0]]))
    assert codes.tolist() == [[-127, 0, 50], [0, 0, 0]]
    torch.testing.assert_close(qparams.scale, torch.tensor([0.01, 1.0]))
    codes, qparams = snap_to_grid(torch.tensor([-3.0, 7.0]), bits=4)
    assert codes.tolist() == [-3, 7] and float(qparams.scale) == 1.0


def test_nearest_indices_by_hand() -> None:
    values = torch.tensor([[-9.0, 1.0, 1.5, 1.6, 99.0], [-9.0, 2.0, 3.0, 3.1, 99.0]])
    table = torch.tensor([[0.0, 1.0, 2.0], [2.0, 2.0, 4.0]])
    assert nearest_indices(values, table).tolist() == [[0, 1, 1, 2, 2], [0, 0, 0, 2, 2]]  # ties go down, equals first
    assert nearest_indices(values[0], table[0]).tolist() == [0, 1, 1, 2, 2]
    assert nearest_indices(values, torch.tensor([5.0])).tolist() == [[0] * 5] * 2


def test_corrections_are_those_of_the_shared_module() -> None:
    plain = compress(KMeans(weight_bits=2), network("residual"))
    expected = {
        "statistics": match_statistics(plain, network("residual"), CONTEXT),
        "bias": correct_biases(plain, network("residual"), CONTEXT),
        "batch_norm": reestimate_batch_norm(plain, CONTEXT),
    }
    for kind, program in expected.items():
        got = KMeans(weight_bits=2, correction=kind).compress(network("residual"), CONTEXT)
        assert all(torch.equal(got.tensors[name].decode(), e.decode()) for name, e in program.tensors.items())


def test_activations_are_calibrated_behind_the_correction() -> None:
    method = KMeans(weight_bits=2, act_bits=8, correction="statistics")
    program = method.compress(network("residual"), context(method))
    corrected = KMeans(weight_bits=2, correction="statistics").compress(network("residual"), context(method))
    seen: list[float] = []
    module = materialize(corrected)
    module.observe = lambda name, value: seen.append(float(value.amax())) if name == "head.0" else None
    with torch.no_grad():
        for batch in context(method).calibration:
            module(batch)
    spec = program.edges["head.0"]
    assert spec.scale is not None and spec.zero_point is not None
    assert spec.scale * (spec.qmax - spec.zero_point) == pytest.approx(max(seen), abs=spec.scale)
    assert all(torch.equal(program.tensors[n].decode(), e.decode()) for n, e in corrected.tensors.items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"granularity": "per_tensor"},
        {"weighting": "hessian"},
        {"snap": "int4"},
        {"correction": "mean"},
        {"act_bits": 1},
    ],
    ids=str,
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))}=.*allowed are"):
        KMeans(**wrong)


def test_folded_networks_have_no_batch_norm_to_reestimate() -> None:
    with pytest.raises(ValueError, match=r"^correction=batch_norm has no batch norm left .* set fold_batch_norm=false"):
        KMeans(correction="batch_norm", fold_batch_norm=True)


def test_only_what_asks_for_images_needs_them() -> None:
    assert not KMeans(granularity="per_channel", snap="int8").needs.calibration
    for asking in (KMeans(weighting="activation"), KMeans(correction="bias"), KMeans(act_bits=8)):
        assert asking.needs.calibration


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_activations_may_share_values_too(name: str, tmp_path: Path) -> None:
    method = KMeans(weight_bits=8, act_bits=3, act_levels="kmeans")
    program = compress(method, network(name))
    specs = {edge: spec for edge, spec in program.edges.items() if edge != Program.INPUT}
    assert specs and program.edges[Program.INPUT].scale is not None  # images stay evenly spaced
    seen: dict[str, torch.Tensor] = {}
    module = materialize(program)
    compute = module.compute
    module.compute = lambda node, inputs: seen.update(zip(node.inputs, inputs)) or compute(node, inputs)  # type: ignore[method-assign, func-returns-value]
    module(images(5, seed=9))
    for edge, spec in specs.items():
        assert spec.levels is not None and not spec.dynamic and 2 <= len(spec.levels) <= 8
        if edge in seen:
            assert set(seen[edge].unique().tolist()) <= {float(level) for level in spec.levels}
    save(program, tmp_path / "m.qbench")
    again = load(tmp_path / "m.qbench")
    assert torch.equal(materialize(again)(images(5)), materialize(program)(images(5)))
    snapped = compress(replace(method, snap="int8", fold_batch_norm=True), network(name))
    with pytest.raises(MethodError, match=r"takes shared values of any spacing; integers alone need act_level"):
        lower(snapped)
    assert "shared values" in str(why_not(program))
    fine = materialize(compress(KMeans(weight_bits=8, act_bits=8, act_levels="kmeans"), network(name)))
    plain = materialize(compress(KMeans(weight_bits=8), network(name)))
    few, many, exact = (run(images(8, seed=11)) for run in (module, fine, plain))
    assert float((many - exact).square().mean()) < 0.1 * float((few - exact).square().mean())


def test_shared_activations_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(ValueError, match=r"act_bits=9 with act_levels=kmeans: shared values take 8 bits at most"):
        KMeans(act_bits=9, act_levels="kmeans")
    with pytest.raises(MethodError, match=r"^act_bits=4: quantizing activations needs calibration images"):
        KMeans(act_bits=4, act_levels="kmeans").compress(network("mlp"), Context())
