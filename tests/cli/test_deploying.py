"""evaluate and predict: what they print, and what they refuse in one line each."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calling import Bench
from export.programs import CLASSES, float_program, integer_program, saved
from PIL import Image

from qbench.data.augment import normalise
from qbench.data.digits import Digits
from qbench.measure.intervals import wilson_interval
from qbench.program.graph import Program
from qbench.program.simulation import simulate
from qbench.runtime.integer import IntegerRuntime


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip() and not set(line.strip()) <= {"─"}]


# --- evaluate


def test_evaluate(bench: Bench, tmp_path: Path) -> None:
    """Oracle: the reference executor on the same images, counted here."""
    path = saved(integer_program(), tmp_path)
    done = bench("evaluate", str(path), "dataset=digits", "runtime=integer", "threads=1")
    assert done.code == 0, done.err
    test = Digits().load_test(tmp_path, tmp_path)
    logits = IntegerRuntime().prepare(integer_program())(normalise(test.images, [0.4], [0.3]))
    right = int((logits.argmax(1) == test.labels).sum())
    five = int((logits.topk(5).indices == test.labels[:, None]).any(1).sum())
    low, high = wilson_interval(right, 360)
    loss = float(torch.nn.functional.cross_entropy(logits.double(), test.labels))
    assert done.out.splitlines()[0] == str(path)
    shown = rows(done.out)
    assert " ".join(shown[1]) == "dataset runtime kernel images top-1 % [95 %] top-5 % loss"
    numbers = f"{100 * right / 360:.2f} [{low:.2f}, {high:.2f}] {100 * five / 360:.2f} {loss:.4f}"
    assert " ".join(shown[2]) == f"digits integer integer 360 {numbers}"
    note = (
        "the file's classes are kind a, kind b, kind c, ..., the data set's 0, 1, 2, ...: labels may not mean the same"
    )
    assert done.out.splitlines()[-1] == f"note: {note}"


def test_evaluate_on_fewer_images_and_by_simulation(bench: Bench, tmp_path: Path) -> None:
    program = integer_program()
    program = replace(program, provenance={**program.provenance, "classes": [str(digit) for digit in range(10)]})
    done = bench("evaluate", str(saved(program, tmp_path)), "dataset=digits", "limit_test=50")
    assert rows(done.out)[2][:4] == ["digits", "torch", "simulated", "50"] and "note" not in done.out


USAGE = "evaluate: give one artefact, then dataset=NAME and what else to set (runtime=integer ...)."
KEYS = "keys are dataset, runtime, threads, limit_test, data_dir, store_dir."


@pytest.mark.parametrize(
    "words, message",
    [
        ("", USAGE),
        ("dataset=digits", USAGE),
        ("--fast toy.qbench", USAGE),
        ("toy.qbench dataset=digits bits=4", f"evaluate: bits has no effect; {KEYS}"),
        ("toy.qbench other.qbench dataset=digits", f"evaluate: other.qbench has no effect; {KEYS}"),
        ("toy.qbench dataset=digits runtime=xyz", "runtime=xyz: unknown runtime. Known: "),
        (
            "toy.qbench dataset=digits limit_test=2",
            "limit_test=2: allowed: whole numbers from 10 to 100000000, or null.",
        ),
        ("toy.qbench", "evaluate: dataset=NAME is missing. Known: cifar10, digits, "),
        ("toy.qbench dataset=digits --config-dir nowhere", "--config-dir nowhere: no such folder."),
        ("none.qbench dataset=digits", "none.qbench: cannot be read: No such file or directory"),
        ("text.qbench dataset=digits", "text.qbench: "),
        ("bare.qbench dataset=digits", "bare.qbench: its header has no mean per channel; qbench run writes files that"),
        ("toy.qbench dataset=synthetic", "dataset=synthetic has images of 3x32x32, toy.qbench takes 1x32x32"),
        ("few.qbench dataset=digits", "dataset=digits has 10 classes, few.qbench tells 4 apart"),
        ("small.qbench dataset=digits", "dataset=digits has images of 1x32x32, small.qbench takes 1x8x8"),
    ],
    ids=str,
)
def test_evaluate_refuses(bench: Bench, words: str, message: str) -> None:
    files()
    done = bench("evaluate", *words.split())
    assert done.err.startswith(f"qbench: {message}") and len(done.err.splitlines()) == 1
    assert (done.code, done.out) == (2, "")


def files() -> None:
    """Artefacts of several kinds, and what is none, in the current folder."""
    saved(integer_program(), Path())
    saved(integer_program(classes=4), Path(), "few.qbench")
    saved(integer_program(size=8), Path(), "small.qbench")
    saved(replace(integer_program(), provenance={}), Path(), "bare.qbench")
    saved(float_program(), Path(), "float.qbench")
    two = integer_program(channels=2)
    saved(replace(two, provenance={**two.provenance, "dataset": "of my own"}), Path(), "two.qbench")
    Path("text.qbench").write_text("no artefact")
    Path("folder").mkdir()
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    Image.new("L", (8, 8)).save("black.png")


def test_a_runtime_that_cannot_run_the_file(bench: Bench) -> None:
    files()
    for words in (("evaluate", "float.qbench", "dataset=digits"), ("predict", "float.qbench", "black.png")):
        done = bench(*words, "runtime=integer")
        assert done.err.startswith("qbench: runtime=integer cannot run float.qbench: input: has no grid;")
        assert (done.code, len(done.err.splitlines())) == (1, 1)


# --- predict


def picture(path: Path, size: tuple[int, int] = (48, 40), mode: str = "RGB") -> Path:
    values = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


def expected(program: Program, pixels: np.ndarray) -> torch.Tensor:
    """Probabilities [K] of one image given as uint8 [C, H, W]."""
    mean, std = program.provenance["mean"], program.provenance["std"]
    images = normalise(torch.from_numpy(pixels.copy())[None], mean, std)
    with torch.inference_mode():
        return torch.softmax(simulate(program, channels_last=True)(images)[0].double(), 0)


def test_predict(bench: Bench, tmp_path: Path) -> None:
    program = integer_program()
    path, image = saved(program, tmp_path), picture(tmp_path / "a[1].png")
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("L").resize((32, 32), Image.Resampling.BILINEAR))[None]
    best = expected(program, pixels).sort(descending=True)
    names = [CLASSES[index] for index in best.indices]
    done = bench("predict", str(path), str(image), str(image))
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == str(path)
    text = " ".join(done.out.split())
    lines = " ".join(f"{name} {share:.4f}" for name, share in zip(names[:3], best.values.tolist()))
    assert text.endswith(f"image class probability {'─' * (len(text.split('─')) - 1)} {image} {lines} {image} {lines}")
    done = bench("predict", str(path), str(image), "--json", "--top=10")
    (found,) = json.loads(done.out)
    assert found["image"] == str(image) and [each["class"] for each in found["predictions"]] == names
    assert [each["probability"] for each in found["predictions"]] == best.values.tolist()
    assert sum(each["probability"] for each in found["predictions"]) == pytest.approx(1.0, abs=1e-12)
    integer = json.loads(bench("predict", str(path), str(image), "--json", "runtime=integer", "threads=1").out)
    assert integer[0]["predictions"] != found["predictions"][:3]


def test_predict_in_colour_and_from_jpeg(bench: Bench, tmp_path: Path) -> None:
    program = integer_program(size=16, channels=3)
    path, image = saved(program, tmp_path), picture(tmp_path / "a.jpg", size=(16, 16))
    with Image.open(image) as opened:
        shares = expected(program, np.asarray(opened).transpose(2, 0, 1))
    (found,) = json.loads(bench("predict", str(path), str(image), "--json", "--top", "1").out)
    assert found["predictions"] == [
        {"class": CLASSES[int(shares.argmax())], "index": int(shares.argmax()), "probability": float(shares.max())}
    ]


def test_predict_pads_as_the_data_set_was_padded(bench: Bench, tmp_path: Path) -> None:
    """MNIST's images of 28 pixels in a network of 32: two black pixels on each side, and no resizing beyond 28."""
    program = integer_program()
    program = replace(program, provenance={**program.provenance, "dataset": "mnist"})
    path, image = saved(program, tmp_path), picture(tmp_path / "a.png", size=(28, 28), mode="L")
    with Image.open(image) as opened:
        pixels = np.pad(np.asarray(opened), 2)[None]
    (found,) = json.loads(bench("predict", str(path), str(image), "--json", "--top", "10").out)
    assert found["predictions"][0]["probability"] == float(expected(program, pixels).max())


def test_predict_without_names_of_classes(bench: Bench, tmp_path: Path) -> None:
    program = integer_program()
    made = {key: value for key, value in program.provenance.items() if key != "classes"}
    path, image = saved(replace(program, provenance=made), tmp_path), picture(tmp_path / "a.png")
    (found,) = json.loads(bench("predict", str(path), str(image), "--json").out)
    assert all(each["class"] == f"class {each['index']}" for each in found["predictions"])


PREDICT = "predict: give one artefact and image files; also --json, --top N, runtime=NAME, threads=N."


@pytest.mark.parametrize(
    "words, message",
    [
        ("", PREDICT),
        ("toy.qbench", PREDICT),
        ("toy.qbench --jason black.png", PREDICT),
        ("toy.qbench black.png --top 0", "--top 0: a whole number from 1 up is needed."),
        ("toy.qbench black.png runtime=x", "runtime=x: unknown runtime. Known: "),
        ("toy.qbench none.png", "none.png: no such file."),
        ("toy.qbench folder", "folder: is not a file; give single images."),
        ("toy.qbench black.png broken.png", "broken.png cannot be decoded: "),
        ("toy.qbench text.qbench", "text.qbench cannot be decoded: cannot identify image file"),
        ("none.qbench black.png", "none.qbench: cannot be read: No such file or directory"),
        ("text.qbench black.png", "text.qbench: "),
        ("bare.qbench black.png", "bare.qbench: its header has no mean per channel; qbench run writes files that have"),
        ("two.qbench black.png", "two.qbench: takes images of 2 channels; files have 1 (grey) or 3 (RGB)"),
    ],
    ids=str,
)
def test_predict_refuses(bench: Bench, words: str, message: str) -> None:
    files()
    done = bench("predict", *words.split())
    assert done.err.startswith(f"qbench: {message}") and len(done.err.splitlines()) == 1
    assert (done.code, done.out) == (2, "")


def test_all_missing_images_are_listed_at_once(bench: Bench) -> None:
    done = bench("predict", "toy.qbench", "a.png", "b.png")
    assert done.err == "qbench: a.png: no such file.\nqbench: b.png: no such file.\n"


def test_nothing_of_ours_stays_in_memory_of_the_command_line(bench: Bench) -> None:
    """Help names the verbs without importing what they need."""
    code = "import sys, qbench.cli; print(sorted({'torch', 'rich', 'yaml', 'qbench.export.verb'} & set(sys.modules)))"
    assert bench.python("-c", code).out == "[]\n" and sys.executable
