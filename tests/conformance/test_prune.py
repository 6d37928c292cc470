"""What pruning adds to what every method promises: exact sparsity, masks that stay, limits that hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qbench.artifact import from_bytes, to_bytes
from qbench.errors import ConfigError, MethodError
from qbench.methods.base import Context, Tuning
from qbench.methods.prune import Prune
from qbench.methods.sparse import MaskedWeight
from qbench.program.encodings import Affine, Float, Sparse
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.program.transform import fold_batch_norm
from qbench.training.trainable import TrainableProgram

from .conftest import compress, context, images, make, network


def masks(program: Program) -> dict[str, torch.Tensor]:
    found = {node.name: program.tensors[f"{node.name}.weight"] for node in program.layers()}
    return {name: encoding.mask for name, encoding in found.items() if isinstance(encoding, Sparse)}


def kept(program: Program) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks(program).items()}


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
def test_global_sparsity_is_exact(sparsity: float) -> None:
    before = network("residual")
    after = compress(Prune(sparsity=sparsity), before)
    assert sum(kept(after).values()) == round((1 - sparsity) * (216 + 72 + 640))
    for name, mask in masks(after).items():
        assert torch.equal(after.weight(name), torch.where(mask, before.weight(name), torch.zeros(())))
    assert after.nodes == before.nodes
    others = set(before.tensors) - {f"{name}.weight" for name in masks(after)}
    assert all(after.tensors[name] is before.tensors[name] for name in others)


def test_per_layer_sparsity_is_that_of_every_layer() -> None:
    after = compress(Prune(sparsity=0.75, scope="per_layer"), network("residual"))
    assert kept(after) == {"stem.0": 54, "depthwise.0": 18, "head.3": 160}


def test_a_pattern_says_it_all() -> None:
    after = compress(Prune(pattern="1:4", sparsity=0.1), network("residual"))
    # rows of 27, 9 and 128 weights: 6 groups of four and one of three, 2 and one of one, 32
    assert kept(after) == {"stem.0": 8 * 7, "depthwise.0": 8 * 3, "head.3": 5 * 32}


def test_layers_of_their_own() -> None:
    method = Prune(sparsity=0.5, first_last_sparsity=0.0, overrides={"head*": 0.9})
    after = compress(method, network("residual"))
    assert kept(after) == {"depthwise.0": 36, "head.3": 64}
    assert isinstance(after.tensors["stem.0.weight"], Float)
    after = compress(Prune(pattern="2:4", overrides={"head*": 0}), network("residual"))
    assert set(masks(after)) == {"stem.0", "depthwise.0"}


def test_an_empty_layer_keeps_a_weight() -> None:
    program = network("residual")
    tiny = program.with_tensors({"depthwise.0.weight": Float(program.weight("depthwise.0") * 1e-6)})
    assert kept(compress(Prune(sparsity=0.9), tiny))["depthwise.0"] == 1
    zero = program.with_tensors({"depthwise.0.weight": Float(torch.zeros(8, 1, 3, 3))})
    after = compress(Prune(sparsity=0.9), zero)
    assert kept(after)["depthwise.0"] == 1 and not bool(after.weight("depthwise.0").any())


def test_sparsity_zero_asks_for_nothing() -> None:
    before = network("residual")
    after = compress(Prune(sparsity=0.0), before)
    assert to_bytes(after) == to_bytes(before)
    assert set(masks(compress(Prune(sparsity=0.0, overrides={"head*": 0.5}), before))) == {"head.3"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "all of it": ({"sparsity": 1.0}, r"sparsity=1.0: allowed are 0.0 to 0.99"),
    "negative": ({"sparsity": -0.1}, r"sparsity=-0.1: allowed are 0.0 to 0.99"),
    "nan": ({"sparsity": float("nan")}, r"sparsity=nan: allowed are"),
    "scope": ({"scope": "channel"}, r"scope='channel': allowed are global, per_layer"),
    "more than there are": ({"pattern": "5:4"}, r"pattern=5:4: N must be at least 1 and below M"),
    "all of them": ({"pattern": "4:4"}, r"pattern=4:4: N must be"),
    "none of them": ({"pattern": "0:4"}, r"pattern=0:4: N must be"),
    "sexagesimal": ({"pattern": 124}, r"pattern=124: allowed are none and N:M"),
    "words": ({"pattern": "two of four"}, r"pattern='two of four': allowed are none and N:M"),
    "first and last": ({"first_last_sparsity": 2.0}, r"first_last_sparsity=2.0: allowed are"),
    "epochs": ({"epochs": -1}, r"epochs=-1: allowed are 0 to"),
    "ramp": ({"ramp_fraction": 1.5}, r"ramp_fraction=1.5: allowed are"),
}


@pytest.mark.parametrize(("params", "message"), REFUSED.values(), ids=REFUSED)
def test_parameters_that_make_no_sense(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("prune", **params)


@pytest.mark.parametrize("own", [-0.1, 1.0, True, "0.5", None], ids=repr)
def test_overrides_out_of_range(own: Any) -> None:
    with pytest.raises(MethodError, match=r"^method.overrides\['head\*'\]: is .*; allowed are 0 \(whole\) to 0.99"):
        compress(Prune(overrides={"head*": own}), network("residual"))


def test_overrides_of_nothing_and_of_everything() -> None:
    with pytest.raises(MethodError, match=r"overrides\['conv7\*'\]: matches no layer; layers are stem.0, depthwise.0"):
        compress(Prune(overrides={"conv7*": 0.5}), network("residual"))
    with pytest.raises(MethodError, match="the method changed nothing; check overrides"):
        compress(Prune(overrides={"*": 0}), network("residual"))
    with pytest.raises(MethodError, match=r"beside pattern=2:4 a layer is left whole \(0\) or not"):
        compress(Prune(pattern="2:4", overrides={"head*": 0.5}), network("residual"))


def test_quantized_weights_are_not_pruned() -> None:
    zero = torch.tensor(0, dtype=torch.int32)
    codes = Affine(torch.ones(8, 3, 3, 3, dtype=torch.int8), torch.tensor(0.5), zero, 8, -128, 127)
    with pytest.raises(MethodError, match=r"^stem.0.weight: is quantized already; prune before"):
        compress(Prune(), network("residual").with_tensors({"stem.0.weight": codes}))


def test_pruning_again_prunes_further() -> None:
    once = compress(Prune(sparsity=0.5), network("residual"))
    twice = compress(Prune(sparsity=0.75), once)
    assert sum(kept(twice).values()) == 232
    assert all(not bool((masks(twice)[name] & ~mask).any()) for name, mask in masks(once).items())


@pytest.mark.parametrize("sparsity", [0.2, 0.75])
def test_gradual_pruning_of_a_pruned_network_revives_nothing(sparsity: float) -> None:
    """The ramp starts at no sparsity at all: at its first step everything would be kept again."""
    once = compress(Prune(sparsity=0.5), network("residual"))
    seen, twice = watched(Prune(sparsity=sparsity, epochs=1), once, 50)
    assert max(seen) == sum(kept(once).values()) and seen[-1] == 928 - round(max(sparsity, 0.5) * 928)
    assert all(not bool((masks(twice)[name] & ~mask).any()) for name, mask in masks(once).items())
    alone = compress(Prune(sparsity=sparsity), once)
    assert all(not bool((masks(alone)[name] & ~mask).any()) for name, mask in masks(once).items())


# --- gradually


def test_training_needs_images() -> None:
    assert not Prune().needs.training and Prune(epochs=1).needs.training
    with pytest.raises(MethodError, match=r"^epochs=1: needs labelled training images"):
        Prune(epochs=1).compress(network("mlp"), Context())


def watched(method: Prune, program: Program, steps: int) -> tuple[list[int], Program]:
    """How many weights are kept after each step's preparation; weights move a little at every step."""
    seen: list[int] = []

    def tuner(
        module: nn.Module,
        tuning: Tuning,
        *,
        teacher: nn.Module | None = None,
        before_step: Callable[[int, int], None] | None = None,
    ) -> None:
        assert isinstance(module, TrainableProgram) and before_step is not None and teacher is None
        assert tuning.keep == "last"  # the best epoch may be one that was pruned less
        quantizers = [module.weight_quantizer(node.name) for node in program.layers()]
        generator = torch.Generator().manual_seed(0)
        for step in range(steps):
            before_step(step, steps)
            seen.append(sum(int(q.mask.sum()) for q in quantizers if isinstance(q, MaskedWeight)))
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        module.eval()

    made = method.compress(program, Context(fine_tune=tuner))
    return seen, made


@pytest.mark.parametrize("steps", [1, 2, 7, 200])
@pytest.mark.parametrize("ramp", [0.0, 0.5, 1.0])
def test_sparsity_rises_to_what_is_asked_and_stays(steps: int, ramp: float) -> None:
    seen, after = watched(Prune(sparsity=0.8, epochs=1, ramp_fraction=ramp), network("residual"), steps)
    final = round(0.2 * 928)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == final == sum(kept(after).values())
    end = min(round(ramp * steps), steps - 1)
    assert set(seen[end:]) == {final}
    if steps == 200 and ramp == 0.5:
        assert len(set(seen)) > 40  # in about fifty steps
        assert seen[50] == 928 - round(0.8 * (1 - 0.5**3) * 928)


def test_masks_are_fixed_once_the_ramp_is_over() -> None:
    """However weights move afterwards, what was removed stays removed, and the graph stays as it is."""
    method = Prune(sparsity=0.8, epochs=2, lr=0.1)
    after = compress(method, network("residual"))
    assert sum(kept(after).values()) == 186
    assert after.nodes == network("residual").nodes
    assert not torch.equal(after.weight("head.3"), compress(Prune(sparsity=0.8), network("residual")).weight("head.3"))
    again = method.compress(network("residual"), context(method))
    assert isinstance(again, Program) and to_bytes(again) == to_bytes(after)


def test_a_pattern_is_due_at_once() -> None:
    seen, after = watched(Prune(pattern="2:4", epochs=1), network("residual"), 20)
    assert len(set(seen)) == 1 and sum(kept(after).values()) == seen[0]
    for name, mask in masks(after).items():
        rows = mask.reshape(len(mask), -1)
        assert bool((rows[:, : rows.shape[1] // 4 * 4].reshape(-1, 4).sum(1) == 2).all()), name


def test_removed_weights_get_no_gradient() -> None:
    latent = torch.randn(4, 6, requires_grad=True)
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    quantizer = MaskedWeight(mask)
    quantizer(latent).square().sum().backward()
    assert latent.grad is not None
    assert torch.equal(latent.grad, torch.where(mask, 2 * latent.detach(), torch.zeros(())))
    encoding = quantizer.encode(latent.detach())
    assert torch.equal(encoding.decode(), quantizer(latent).detach())


def test_training_stops_where_loading_goes_on() -> None:
    """The network the training returned, the program made of it and the file agree."""
    after = compress(Prune(sparsity=0.9, epochs=1), network("residual"))
    loaded = from_bytes(to_bytes(after), "x")
    assert torch.equal(materialize(loaded)(images()), materialize(after)(images()))


def test_batch_norms_behind_pruned_layers_can_be_merged() -> None:
    pruned = compress(Prune(sparsity=0.6), network("residual"))
    folded = fold_batch_norm(pruned)
    assert len(folded.nodes) == len(pruned.nodes) - 2
    assert all(torch.equal(masks(folded)[name], mask) for name, mask in masks(pruned).items())
    # two orders of the same products and sums, float32
    torch.testing.assert_close(materialize(folded)(images()), materialize(pruned)(images()), rtol=1e-4, atol=1e-5)
