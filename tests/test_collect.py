"""What is drawn of a run is what its artefact and predictions hold: compared with NumPy on a real, small sweep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from calling import QUICK, Bench
from safetensors.numpy import load_file

from qbench.artifact import load
from qbench.collect import confusion_matrix, layer_levels
from qbench.details import Details, load_details, unpack
from qbench.measure.accuracy import Predictions
from qbench.program.encodings import Affine, Codebook, Float, Sparse
from qbench.record import Record, load_records


def ran(bench: Bench, *words: str) -> tuple[Record, Details]:
    """One run and what it stored."""
    done = bench("run", *QUICK, *words)
    assert done.code == 0, done.out
    (record,), problems = load_records(bench.outputs / "records")
    assert problems == []
    return record, load_details(bench.outputs / "details" / f"{record.run_id}.json")


def test_histograms_levels_and_confusion_are_those_of_the_run(bench: Bench) -> None:
    record, details = ran(bench, "method=kmeans", "bits=2")
    assert (details.run_id, details.artifact_sha256) == (record.run_id, record.artifact_sha256)
    program = load(bench.outputs.parent / str(record.artifact))
    assert [layer["layer"] for layer in details.weights] == [layer["layer"] for layer in record.layers]
    for layer in details.weights:
        weight = program.weight(layer["layer"]).numpy()
        assert layer["levels"] == pytest.approx(np.unique(weight).tolist(), rel=1e-5)
        assert len(layer["levels"]) == 4 and layer["channel"] is None
        assert sum(layer["counts"]) == sum(layer["stored_counts"]) == weight.size
        assert len(layer["counts"]) == 64 and np.count_nonzero(layer["stored_counts"]) <= 4
    (predictions,) = [path for path in bench.store.glob(f"score/{score_key(record)}/*.safetensors")]
    stored = load_file(predictions)
    classes = stored["logits"].argmax(axis=1)
    right = unpack(str(details.correct), len(classes))
    assert right.tolist() == (classes == stored["labels"]).tolist()
    expected = np.zeros((10, 10), dtype=int)
    np.add.at(expected, (stored["labels"], classes), 1)
    assert details.confusion is not None and np.array(details.confusion).tolist() == expected.tolist()
    assert 100 * np.trace(expected) / len(classes) == pytest.approx(record.top1_percent)
    assert details.disagreements is None  # nobody asked


def score_key(record: Record) -> str:
    (own,) = [key for name, key in record.stage_keys.items() if name.startswith("score:kmeans")]
    return own


def test_fine_tuning_and_disagreements_are_kept(bench: Bench) -> None:
    record, details = ran(bench, "method=qat", "bits=8", "measure.agreement=always")
    (history,) = details.fine_tuning
    assert [epoch["epoch"] for epoch in history] == [0]
    assert details.disagreements is not None and record.n_test is not None
    found = details.disagreements
    assert found["n_test"] == record.n_test
    agreement = 100 * (1 - found["count"] / found["n_test"])
    assert record.agreement_integer_percent == pytest.approx(agreement)
    assert len(found["shown"]) == min(found["count"], 50)


def test_levels_of_each_encoding() -> None:
    grid = Affine(torch.zeros(2, 3, dtype=torch.int8), torch.tensor(0.5), torch.tensor(1, dtype=torch.int32), 2, -1, 2)
    levels, channel = layer_levels(grid)
    assert levels is not None and (levels.tolist(), channel) == ([-1.0, -0.5, 0.0, 0.5], None)
    scales, zeros = torch.tensor([0.5, 2.0]), torch.zeros(2, dtype=torch.int32)
    levels, channel = layer_levels(Affine(torch.zeros(2, 3, dtype=torch.int8), scales, zeros, 2, -1, 1, axis=0))
    assert levels is not None and (levels.tolist(), channel) == ([-2.0, 0.0, 2.0], 1)
    centroids = Float(torch.tensor([[0.1, -0.1], [3.0, 1.0], [0.2, 0.2]]))
    book = Codebook(torch.zeros(3, 4, dtype=torch.uint8), centroids, 1, axis=0)
    levels, channel = layer_levels(book)
    assert levels is not None and (levels.tolist(), channel) == ([1.0, 3.0], 1)
    mask = torch.tensor([[True, False]])
    kept = Codebook(torch.zeros(1, dtype=torch.uint8), Float(torch.tensor([-1.0, 4.0])), 1)
    levels, _ = layer_levels(Sparse(mask, kept))
    assert levels is not None and levels.tolist() == [-1.0, 0.0, 4.0]
    wide = Affine(
        torch.zeros(1, dtype=torch.int16), torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), 9, -256, 255
    )
    assert layer_levels(wide) == (None, None) == layer_levels(Float(torch.zeros(2)))


def test_a_matrix_too_large_is_left_out_and_nan_predicts_nothing() -> None:
    many = Predictions(torch.zeros(2, 101), torch.tensor([0, 100]))
    assert confusion_matrix(many) is None
    logits = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [3.0, 3.0]])
    assert confusion_matrix(Predictions(logits, torch.tensor([1, 0, 1]))) == ((0, 0), (1, 1))
