"""Steps one after the other: zeros stay, parameters reach their step, and files are as small as they can be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from qbench.artifact import from_bytes, size_report, to_bytes
from qbench.catalog import options
from qbench.errors import ConfigError, MethodError
from qbench.methods.base import Context, External, Needs
from qbench.methods.kmeans import KMeans
from qbench.methods.linear import Linear
from qbench.methods.pipeline import Pipeline
from qbench.methods.prune import Prune
from qbench.methods.qat import QAT
from qbench.methods.tune import Tune
from qbench.program.encodings import Affine, Codebook, Float, Sparse
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.quant.kmeans import kmeans_1d

from .conftest import METHODS, compress, context, images, make, network


def inner(program: Program, layer: str, kind: type) -> Any:
    """What is kept of a layer's weight."""
    encoding = program.tensors[f"{layer}.weight"]
    assert isinstance(encoding, Sparse) and isinstance(encoding.inner, kind)
    return encoding.inner


def test_only_what_is_kept_is_clustered() -> None:
    pruned = compress(Prune(sparsity=0.7), network("residual"))
    made = compress(Pipeline(prune=Prune(sparsity=0.7), kmeans=KMeans(weight_bits=3)), network("residual"))
    for node in made.layers():
        book = inner(made, node.name, Codebook)
        before = pruned.tensors[f"{node.name}.weight"]
        assert isinstance(before, Sparse) and torch.equal(made.tensors[f"{node.name}.weight"].mask, before.mask)
        best = kmeans_1d(before.inner.decode(), 8)
        assert torch.equal(book.indices, best.indices) and torch.equal(book.centroids.decode(), best.centroids)
        assert book.indices.shape == (int(before.mask.sum()),) and book.axis is None


def test_importance_is_that_of_what_is_kept() -> None:
    method = Pipeline(prune=Prune(sparsity=0.5), kmeans=KMeans(weight_bits=3, weighting="activation"))
    made = compress(method, network("residual"))
    plain = compress(replace_step(method, kmeans=KMeans(weight_bits=3)), network("residual"))
    assert method.needs == Needs(calibration=True)
    assert not torch.equal(made.weight("head.3"), plain.weight("head.3"))
    assert int(inner(made, "head.3", Codebook).indices.max()) == 7


def replace_step(pipeline: Pipeline, **changed: Any) -> Pipeline:
    return Pipeline(pipeline.entropy_coding, **{**dict(pipeline.steps), **changed})


def test_only_what_is_kept_is_quantized() -> None:
    method = Pipeline(prune=Prune(sparsity=0.7), linear=Linear(weight_bits=5, granularity="per_tensor"))
    made = compress(method, network("residual"))
    for node in made.layers():
        grid = inner(made, node.name, Affine)
        assert grid.scale.shape == () and grid.codes.dim() == 1 and grid.bits == 5
    # the linear step merges batch norms by default: the zeros stay, in fewer nodes
    assert len(made.nodes) == len(network("residual").nodes) - 2
    pruned = compress(Prune(sparsity=0.7), network("residual"))
    assert torch.equal(made.tensors["stem.0.weight"].mask, pruned.tensors["stem.0.weight"].mask)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "step",
    [
        KMeans(granularity="per_channel"),
        Linear(granularity="per_channel"),
        Linear(granularity="per_group", group_size=4),
        Linear(scheme="affine"),
    ],
    ids=repr,
)
def test_what_is_kept_has_no_channels(step: Any) -> None:
    with pytest.raises(MethodError, match=r"^stem.0.weight: is pruned; what is kept has one codebook or scale: set gr"):
        compress(Pipeline(prune=Prune(), quantize=step), network("residual"))


def test_layers_left_whole_are_treated_as_ever() -> None:
    method = Pipeline(prune=Prune(overrides={"head*": 0}), kmeans=KMeans(overrides={"depthwise*": 0}))
    made = compress(method, network("residual"))
    assert isinstance(made.tensors["head.3.weight"], Codebook)
    assert isinstance(inner(made, "stem.0", Codebook), Codebook)
    assert isinstance(inner(made, "depthwise.0", Float), Float)
    nothing = compress(Pipeline(prune=Prune(sparsity=0.0), kmeans=KMeans()), network("residual"))
    assert to_bytes(nothing) == to_bytes(compress(KMeans(), network("residual")))


def test_activations_are_quantized_after_pruning() -> None:
    made = compress(make("prune_linear", **nested("prune_linear", "linear.act_bits", 8)), network("residual"))
    assert made.edges and isinstance(inner(made, "stem.0", Affine), Affine)
    assert bool(torch.isfinite(materialize(made)(images())).all())


def nested(method: str, key: str, value: Any) -> dict[str, Any]:
    """The step of a method with one of its parameters changed, as a run's config has it."""
    step, _, name = key.partition(".")
    return {step: {**METHODS[method].parameters()[step], name: value}}


# --- fine-tuning of what is compressed


def tuned(*steps: tuple[str, Any], epochs: int = 2) -> tuple[Program, Program]:
    """Before and after fine-tuning."""
    before = compress(Pipeline(**dict(steps)), network("residual"))
    return before, compress(Pipeline(**dict(steps), tune=Tune(epochs=epochs, lr=0.05)), network("residual"))


def test_fine_tuning_keeps_zeros_and_indices_and_moves_values() -> None:
    before, after = tuned(("prune", Prune(sparsity=0.6)), ("kmeans", KMeans(weight_bits=2)))
    for node in after.layers():
        key = f"{node.name}.weight"
        old, new = inner(before, node.name, Codebook), inner(after, node.name, Codebook)
        assert torch.equal(after.tensors[key].mask, before.tensors[key].mask)  # type: ignore[union-attr]
        assert torch.equal(new.indices, old.indices) and new.bits == old.bits == 2
        assert not torch.equal(new.centroids.decode(), old.centroids.decode())
    assert not torch.equal(
        after.tensors["stem.1.running_mean"].decode(), before.tensors["stem.1.running_mean"].decode()
    )
    assert len(to_bytes(after)) == len(to_bytes(before))


@pytest.mark.parametrize(
    "steps",
    [
        [("kmeans", KMeans(weight_bits=2))],
        [("kmeans", KMeans(weight_bits=2, granularity="per_channel"))],
        [("kmeans", KMeans(weight_bits=2, snap="int8"))],
        [("linear", Linear(weight_bits=3))],
        [("linear", Linear(weight_bits=8, act_bits=8))],
        [("prune", Prune(sparsity=0.5))],
        [("prune", Prune(sparsity=0.5)), ("linear", Linear(weight_bits=4, granularity="per_tensor"))],
        [("prune", Prune(sparsity=0.5)), ("kmeans", KMeans(weight_bits=3, snap="int8"))],
        [("prune", Prune(sparsity=0.5, overrides={"head*": 0})), ("kmeans", KMeans(overrides={"stem*": 0}))],
    ],
    ids=lambda steps: " ".join(repr(step) for _, step in steps),
)
def test_every_encoding_is_trained_within_itself(steps: list[tuple[str, Any]]) -> None:
    before, after = tuned(*steps)
    assert after.nodes == before.nodes and after.edges.keys() == before.edges.keys()
    for name, encoding in before.tensors.items():
        now = after.tensors[name]
        assert type(now) is type(encoding) and now.shape == encoding.shape and now.bits == encoding.bits
        if isinstance(encoding, Sparse) and isinstance(now, Sparse):
            assert type(now.inner) is type(encoding.inner) and torch.equal(now.mask, encoding.mask)
    assert not torch.equal(materialize(after)(images()), materialize(before)(images()))
    loaded = from_bytes(to_bytes(after), "x")
    assert torch.equal(materialize(loaded)(images()), materialize(after)(images()))


def test_no_epochs_is_no_tuning() -> None:
    program = compress(KMeans(), network("residual"))
    assert Tune(epochs=0).compress(program, Context()) is program
    assert not Tune(epochs=0).needs.training and Tune(epochs=1).needs.training
    with pytest.raises(MethodError, match=r"^epochs=1: needs labelled training images"):
        Tune(epochs=1).compress(program, Context())
    with pytest.raises(ValueError, match="epochs=-1"):
        Tune(epochs=-1)


def test_what_has_no_trainable_form_is_named() -> None:
    grouped = Linear(granularity="per_group", group_size=16)
    with pytest.raises(MethodError, match=r"^stem.0.weight: has a scale per group"):
        compress(Pipeline(linear=grouped, tune=Tune()), network("residual"))
    program = compress(Linear(act_bits=8), network("residual"))
    edges = {name: replace(spec, scale=None, zero_point=None) for name, spec in program.edges.items()}
    with pytest.raises(MethodError, match=r"^input: is quantized to the range of each image"):
        compress(Tune(), replace(program, edges=edges))


# --- the pipeline itself


@dataclass(frozen=True)
class Step:
    """Gives back what it is told to."""

    gives: Any
    needs: ClassVar[Needs] = Needs()

    def compress(self, baseline: Program, context: Context) -> Any:
        return self.gives


def test_a_step_that_gives_up_zeros_is_refused() -> None:
    program = network("residual")
    with pytest.raises(MethodError, match=r"^method.other: does not keep the zeros that an earlier step made in stem"):
        compress(Pipeline(prune=Prune(), other=Step(program)), program)
    fewer = compress(Prune(sparsity=0.5), program)
    with pytest.raises(MethodError, match=r"^method.other: does not keep the zeros"):
        compress(Pipeline(prune=Prune(sparsity=0.8), other=Step(fewer)), program)
    with pytest.raises(MethodError, match=r"is pruned; what is kept has one codebook or scale"):
        compress(Pipeline(prune=Prune(), qat=QAT(act_bits=None, epochs=1)), program)
    with pytest.raises(MethodError, match=r"^method.other: makes a file of another library"):
        compress(Pipeline(other=Step(External(Path("x"), "y"))), program)


def test_a_pipeline_has_steps() -> None:
    with pytest.raises(ValueError, match="a pipeline needs steps"):
        Pipeline(entropy_coding=True)
    with pytest.raises(ValueError, match=r"prune=\{'sparsity': 0.5\} is no step: it needs a _target_"):
        Pipeline(prune={"sparsity": 0.5})  # type: ignore[arg-type]


def test_messages_name_the_parameter_as_the_command_line_has_it() -> None:
    with pytest.raises(MethodError, match=r"^method.kmeans.overrides\['conv7\*'\]: matches no layer"):
        compress(Pipeline(prune=Prune(), kmeans=KMeans(overrides={"conv7*": 4})), network("residual"))
    with pytest.raises(ConfigError, match=r"^method=prune_kmeans kmeans: qbench.methods.kmeans.KMeans: weight_bits=9"):
        make("prune_kmeans", **nested("prune_kmeans", "kmeans.weight_bits", 9))
    with pytest.raises(ConfigError, match=r"^method=prune_kmeans prune: cannot import _target_ 'no.Such'"):
        make("prune_kmeans", prune={"_target_": "no.Such"})


def test_needs_are_those_of_all_steps() -> None:
    assert make("prune_kmeans").needs == Needs()
    assert make("deep_compression").needs == Needs(training=True)
    assert Pipeline(a=Linear(act_bits=8), b=Tune()).needs == Needs(calibration=True, training=True)


def test_entropy_coding_changes_the_file_and_nothing_else() -> None:
    method = make("prune_kmeans", **nested("prune_kmeans", "prune.sparsity", 0.95))
    assert isinstance(method, Pipeline)
    plain = compress(method, network("residual"))
    coded = compress(Pipeline(entropy_coding=True, **dict(method.steps)), network("residual"))
    assert len(to_bytes(coded)) < len(to_bytes(plain))
    report = size_report(to_bytes(coded))
    assert report.fixed_width_bytes == len(to_bytes(plain)) > report.size_bytes
    loaded = from_bytes(to_bytes(coded), "x")
    assert loaded.entropy_coding and not plain.entropy_coding
    assert torch.equal(materialize(loaded)(images()), materialize(plain)(images()))


def test_the_same_steps_in_another_order_are_another_method() -> None:
    one, other = Pipeline(a=Prune(), b=KMeans()), Pipeline(b=KMeans(), a=Prune())
    assert one != other and [name for name, _ in other.steps] == ["b", "a"]


def test_deep_compression_is_its_paper() -> None:
    made = make("deep_compression")
    assert isinstance(made, Pipeline) and made.entropy_coding
    assert [name for name, _ in made.steps] == ["prune", "kmeans", "tune"]
    program = compress(made, network("mlp"))
    assert program.entropy_coding and isinstance(inner(program, program.layers()[0].name, Codebook), Codebook)
    assert list(options("method")["deep_compression"].load())[:2] == ["prune", "kmeans"]
    assert context(made).fine_tune is not None
