"""Fine-tuned centroids: their gradients, what is stored, when weights change their centroid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench.errors import MethodError
from qbench.methods.base import Context, Tuning
from qbench.methods.kmeans import KMeans
from qbench.methods.kmeans_qat import KMeansQAT, SharedWeight
from qbench.program.encodings import Affine, Codebook, Float
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.quant.codebook import shared_values

from .conftest import compress, context, fine_tune, images, network

WEIGHT = images(4, seed=40)[:, :, :3, :3]  # [4, 3, 3, 3]
KINDS = {
    "per_layer": KMeans(),
    "per_channel": KMeans(granularity="per_channel"),
    "per_layer int8": KMeans(snap="int8"),
    "per_channel int8": KMeans(granularity="per_channel", snap="int8"),
}


def shared(kind: str, bits: int = 2, *, follow: float = 0.0) -> tuple[SharedWeight, Codebook]:
    encoding = KINDS[kind].encode(WEIGHT, bits)
    return SharedWeight(encoding, follow=follow), encoding


def test_the_gradient_of_a_shared_value_is_the_sum_over_its_members() -> None:
    table = torch.tensor([-1.0, 0.5, 2.0, 9.0], requires_grad=True)
    indices = torch.tensor([[0, 2, 2], [1, 0, 2]], dtype=torch.int32)
    gradient = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    values = shared_values(table, indices)
    assert values.tolist() == [[-1.0, 2.0, 2.0], [0.5, -1.0, 2.0]]
    values.backward(gradient)  # type: ignore[no-untyped-call]
    assert table.grad is not None
    assert table.grad.tolist() == [1.0 + 16.0, 8.0, 2.0 + 4.0 + 32.0, 0.0]  # nobody has the last one


@pytest.mark.parametrize("kind", KINDS)
def test_a_centroids_gradient_is_autograds(kind: str) -> None:
    quantizer, encoding = shared(kind)
    upstream = images(4, seed=41)[:, :, :3, :3]
    (quantizer.train()(WEIGHT) * upstream).sum().backward()
    assert quantizer.learned.dim() == 1 and quantizer.learned.grad is not None
    got = quantizer.learned.grad.view(encoding.centroids.shape) / quantizer.unit  # of the centroid itself
    one_hot = nn.functional.one_hot(encoding.indices.long(), encoding.centroids.shape[-1]).double()
    per_channel = (one_hot * upstream.double()[..., None]).flatten(1, 3).sum(1)
    expected = per_channel.sum(0) if encoding.axis is None else per_channel
    torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_what_it_computes_with(kind: str) -> None:
    quantizer, encoding = shared(kind)
    torch.testing.assert_close(quantizer.eval()(WEIGHT), encoding.decode(), rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        quantizer.learned.add_(torch.linspace(0.1, 0.2, quantizer.learned.numel()))
    stored = quantizer.encode(WEIGHT)
    assert torch.equal(quantizer.eval()(WEIGHT), stored.decode())
    torch.testing.assert_close(quantizer.train()(WEIGHT), stored.decode(), rtol=1e-5, atol=1e-6)
    assert isinstance(stored, Codebook) and torch.equal(stored.indices, encoding.indices)
    assert type(stored.centroids) is type(encoding.centroids) is (Affine if "int8" in kind else Float)
    assert (stored.bits, stored.axis) == (encoding.bits, encoding.axis)


@pytest.mark.parametrize("kind", KINDS)
def test_reassigned_weights_are_at_their_nearest_centroid(kind: str) -> None:
    quantizer, before = shared(kind)
    with torch.no_grad():
        quantizer.learned.copy_(quantizer.learned.flip(0) * 0.7)  # no longer ascending
    latent = WEIGHT + 0.3
    quantizer.reassign(latent)
    stored = quantizer.encode(latent)
    assert isinstance(stored, Codebook) and not torch.equal(stored.indices, before.indices)
    table = stored.centroids.decode().expand(4, -1)
    distance = (latent.flatten(1)[..., None].double() - table[:, None].double()).abs().amin(2)
    got = (latent.double() - stored.decode().double()).abs().flatten(1)
    torch.testing.assert_close(got, distance, rtol=1e-6, atol=1e-7)


def test_latent_weights_follow_only_where_they_are_reassigned_and_by_their_share() -> None:
    for follow in (0.0, 0.5, 1.0):
        quantizer, _ = shared("per_layer", follow=follow)
        latent = nn.Parameter(WEIGHT.clone())
        (quantizer.train()(latent) * 3.0).sum().backward()
        assert (latent.grad is not None) == (follow > 0)
        assert latent.grad is None or torch.equal(latent.grad, torch.full_like(latent, 3.0 * follow))


class Recorder:
    """Trains as the suite does, and keeps what it was called with."""

    def __init__(self, lr: float | None = None) -> None:
        self.calls: list[tuple[nn.Module, Tuning, dict[str, Any]]] = []
        self.lr = lr
        self.decayed: list[Tensor] = []

    def __call__(self, module: nn.Module, tuning: Tuning, **others: Any) -> None:
        self.calls.append((module, tuning, others))
        self.decayed = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
        fine_tune(module, tuning if self.lr is None else replace(tuning, lr=self.lr), **others)


def recorded(method: KMeansQAT, tuner: Recorder) -> dict[str, Any]:
    program = method.compress(network("residual"), replace(context(method), fine_tune=tuner))
    return dict(program.tensors)


def test_without_a_step_it_is_the_result_of_kmeans() -> None:
    for granularity in ("per_layer", "per_channel"):
        start = compress(KMeans(weight_bits=3, granularity=granularity), network("residual"))
        made = recorded(KMeansQAT(weight_bits=3, granularity=granularity), Recorder(lr=0.0))
        for name, encoding in start.tensors.items():
            if not name.endswith(("running_mean", "running_var")):  # these follow the batches in any case
                torch.testing.assert_close(made[name].decode(), encoding.decode(), rtol=1e-6, atol=1e-7)


def test_centroids_batch_norms_and_biases_are_trained_and_indices_stay() -> None:
    start = compress(KMeans(weight_bits=3), network("residual"))
    made = recorded(KMeansQAT(weight_bits=3, epochs=1, reassign_steps=0), Recorder())
    for name, encoding in start.tensors.items():
        # a bias before a batch norm has no gradient worth the name
        assert name == "depthwise.0.bias" or not torch.equal(made[name].decode(), encoding.decode()), name
        if isinstance(encoding, Codebook):
            assert torch.equal(made[name].indices, encoding.indices)


def test_weight_decay_and_latent_weights() -> None:
    plain, following = Recorder(), Recorder()
    recorded(KMeansQAT(epochs=1, reassign_steps=0), plain)
    recorded(KMeansQAT(epochs=1, reassign_steps=2), following)
    assert plain.decayed == []  # centroids have one axis, and no latent weight is trained
    assert [p.shape for p in following.decayed] == [network("residual").weight(n).shape for n in LAYERS]


LAYERS = ("stem.0", "depthwise.0", "head.3")


def test_weights_change_their_centroid_while_training() -> None:
    start = compress(KMeans(), network("residual"))
    made = recorded(KMeansQAT(epochs=2, lr=0.3, reassign_steps=2), Recorder())
    key = "head.3.weight"
    assert not torch.equal(made[key].indices, start.tensors[key].indices)  # type: ignore[union-attr]
    assert recorded(KMeansQAT(epochs=2, lr=0.3, reassign_steps=100), Recorder())[key].indices.equal(
        start.tensors[key].indices  # type: ignore[union-attr]
    )


def test_the_last_fifth_of_the_steps_leaves_assignments_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reassigned: list[str] = []
    monkeypatch.setattr(SharedWeight, "reassign", lambda self, latent: reassigned.append("one layer"))
    steps: list[int] = []

    def tuner(module: nn.Module, tuning: Tuning, *, before_step: Any, **others: Any) -> None:
        for step in range(10):
            before_step(step, 10)
            steps.append(len(reassigned) // len(LAYERS))

    method = KMeansQAT(reassign_steps=1)
    method.compress(network("residual"), replace(context(method), fine_tune=tuner))
    assert steps == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]


def test_training_lowers_the_loss_it_trains() -> None:
    batches = torch.cat([images(8, seed=21 + step) for step in range(3)])
    labels = (torch.arange(8) % 5).repeat(3)

    def loss(program: Any) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(materialize(program)(batches), labels))

    program = network("mlp")
    for bits in (1, 2):
        before = loss(compress(KMeans(weight_bits=bits), program))
        after = loss(compress(KMeansQAT(weight_bits=bits, epochs=10, lr=0.02), program))
        assert after < before


def test_the_recipe_and_the_teacher_reach_the_loop() -> None:
    tuner = Recorder()
    recorded(KMeansQAT(epochs=2, lr=0.01, batch_size=64, distillation=0.5), tuner)
    (module, tuning, others) = tuner.calls[0]
    assert (tuning.epochs, tuning.lr, tuning.batch_size, tuning.distillation) == (2, 0.01, 64, 0.5)
    expected = materialize(network("residual"), channels_last=True)(images())
    assert others["teacher"] is not module and torch.equal(others["teacher"](images()), expected)
    recorded(KMeansQAT(epochs=1), tuner)
    assert tuner.calls[1][2]["teacher"] is None


def test_activations_are_quantized_while_training() -> None:
    method = KMeansQAT(act_bits=4, epochs=1)
    assert method.needs.calibration and method.needs.training
    program = method.compress(network("residual"), context(method))
    assert {spec.bits for name, spec in program.edges.items() if name != Program.INPUT} == {4}
    assert set(program.edges) == set(KMeans(act_bits=4).compress(network("residual"), context(method)).edges)


def test_folded_weights_are_shared_as_they_are_stored() -> None:
    program = compress(KMeansQAT(weight_bits=2, fold_batch_norm=True, epochs=1), network("residual"))
    assert [node.op for node in program.nodes if node.op == "batch_norm"] == []
    assert all(len(torch.unique(program.weight(name))) <= 4 for name in LAYERS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"granularity": "per_tensor"},
        {"weighting": "hessian"},
        {"snap": "int4"},
        {"distillation": 1.5},
        {"reassign_steps": -1},
        {"epochs": 0},
        {"act_bits": 1},
        {"first_last_bits": 9},
    ],
    ids=str,
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))}=.*allowed are"):
        KMeansQAT(**wrong)


def test_missing_images_are_refused() -> None:
    with pytest.raises(MethodError, match=r"^method=kmeans_qat: needs labelled training images"):
        KMeansQAT().compress(network("mlp"), Context())
    with pytest.raises(MethodError, match=r"^weighting=fisher: needs calibration images"):
        KMeansQAT(weighting="fisher").compress(network("mlp"), Context(fine_tune=fine_tune))
