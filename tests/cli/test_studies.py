"""``qbench study``: one sweep, one plan, its own table; again without work; what fails, stops or is asked wrongly."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from calling import ROOT, Bench
from torchvision.io import write_png

from qbench.record import Record, load_record
from qbench.runner import run_cell

PAIR: dict[str, Any] = {
    "summary": "shared values against a grid",
    "source": "a table in a test",
    "overrides": "dataset=synthetic model=small_cnn measure=none threads=1 tiny=true",
    "parts": [
        {
            "overrides": "bits=4",
            "rows": [
                {"name": "four", "what": "4 bits", "runs": {"kmeans": "method=kmeans", "linear": "method=linear"}}
            ],
            "tables": [
                {
                    "title": "accuracy",
                    "columns": [
                        {"title": "k-means %", "value": "top1_percent", "run": "kmeans"},
                        {"title": "gain", "value": "difference", "run": "kmeans", "minus": "linear"},
                        {"title": "is", "value": "verdict", "run": "kmeans", "minus": "linear"},
                    ],
                    "source": {"four": [99.5, None, None]},
                }
            ],
        }
    ],
    "claim": {"says": "shared values win", "because": "They follow the weights."},
}


@pytest.fixture
def own(bench: Bench) -> Bench:
    """A study ``pair`` in the user's config folder."""
    write(bench, PAIR)
    return bench


def write(bench: Bench, content: dict[str, Any]) -> None:
    folder = bench.home / "configs" / "study"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pair.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def pair(bench: Bench, *words: str) -> tuple[str, ...]:
    return ("study", "pair", "--config-dir", str(bench.home / "configs"), *words)


def figures(bench: Bench, name: str = "pair") -> list[dict[str, str]]:
    with (bench.outputs / "tables" / f"study_{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_some_rows_alone(own: Bench) -> None:
    content: dict[str, Any] = yaml.safe_load(yaml.safe_dump(PAIR))
    rows = content["parts"][0]["rows"]
    rows += [{**rows[0], "name": name, "overrides": f"bits={bits}"} for name, bits in (("three", 3), ("eight", 8))]
    content["parts"][0]["tables"][0]["source"]["eight"] = [99.9, None, None]
    write(own, content)
    done = own(*pair(own, "--rows", "f*,three"))
    assert done.code == 0, done.err
    assert "4 cells: 4 distinct runs" in done.out
    assert "note: Only some rows were asked for (--rows f*,three), 2 of 3." in done.out
    assert {one["row"] for one in figures(own)} == {"four", "three"} and "99.9" not in done.out


def test_over_seeds_and_again(own: Bench) -> None:
    done = own(*pair(own, "seed=0,1"))
    assert done.code == 0, done.err
    assert "4 cells: 4 distinct runs; 14 stages, 14 to do" in done.out and done.out.count("plan") == 1
    assert "study pair: shared values against a grid" in done.out
    assert 'Claimed: "shared values win".' in done.out and "2 seeds each" in done.out
    first, gain, answer = figures(own)
    assert (first["n_seeds"], first["source"], first["interval_over"]) == ("2", "99.5", "seeds")
    assert len(first["run_ids"].split()) == 2 and len(gain["run_ids"].split()) == 4
    assert gain["column"] == "gain" and answer["value"] == "no difference shown"
    written = (own.outputs / "tables" / "study_pair.md").read_text()
    again = own(*pair(own, "seed=0,1"))
    assert again.code == 0 and "14 stages, 0 to do" in again.out
    assert (own.outputs / "tables" / "study_pair.md").read_text() == written
    assert len(list((own.outputs / "records").glob("*.json"))) == 4


def test_records_of_another_place_make_the_same_tables_and_nothing_runs(own: Bench) -> None:
    assert own(*pair(own, "seed=0,1")).code == 0
    page = own.outputs / "tables" / "study_pair.md"
    written = page.read_text()
    made = own.outputs.rename(own.home / "elsewhere") / "records"
    own.store.rename(own.home / "gone")
    done = own(*pair(own, "seed=0,1", "threads=2", "--records", str(made)))
    assert done.code == 0, done.err
    assert "plan" not in done.out and page.read_text() == written
    assert [one.name for one in own.outputs.iterdir()] == ["tables"] and not own.store.exists()

    for path in made.glob("*.json"):
        record = load_record(path)
        if record.seed == 1 and record.method == "linear":
            path.unlink()
    some = own(*pair(own, "seed=0,1,2", "--records", str(made)))
    told = " ".join(some.out.split())  # a long folder goes to a line of its own
    assert some.code == 0 and "note: 3 of 6 runs have no record in" in told and str(made) in "".join(some.out.split())
    assert [row["n_seeds"] for row in figures(own)][:2] == ["2", "1"]

    none = own(*pair(own, "seed=5", "--records", str(made)))
    assert none.code == 2
    assert f"--records {made}: none of its 3 records is of a run of study pair." in none.err


def test_one_seed_has_its_interval_over_images_and_settings_get_rows(own: Bench) -> None:
    assert own(*pair(own, "bits=4,2")).code == 0
    rows = figures(own)
    assert [row["setting"] for row in rows] == ["bits=4"] * 3 + ["bits=2"] * 3
    assert {row["interval_over"] for row in rows if row["column"] != "is"} == {"images"}


def test_dry_prints_the_plan_and_no_table(own: Bench) -> None:
    done = own(*pair(own, "dry=true"))
    assert done.code == 0 and "2 distinct runs; 7 stages, 7 to do" in done.out and "accuracy" not in done.out
    assert not own.outputs.exists()


def test_a_failed_run_is_said_in_the_table_and_advice_runs_just_it(own: Bench) -> None:
    wrong = "method.overrides={nothing: 4}"
    content = json.loads(json.dumps(PAIR))
    content["parts"][0]["rows"][0]["runs"]["linear"] = f"method=linear '{wrong}'"
    write(own, content)
    done = own(*pair(own, "seed=0,1"))
    assert done.code == 1
    assert "2 of 4 runs failed" in done.out and "run just those again with:" in done.out
    (advice,) = [line for line in done.out.splitlines() if line.startswith("  qbench run -m --config-dir")]
    assert "method=linear" in advice and "seed=0,1" in advice and "kmeans" not in advice
    first, gain, _ = figures(own)
    assert first["value"] and gain["value"] == "" and "not both of the runs" in gain["note"]


def test_interrupted_it_shows_what_there_is_and_how_to_go_on(own: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def stopped(*arguments: Any) -> Record:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_cell(*arguments)

    monkeypatch.setattr("qbench.runner.run_cell", stopped)
    done = own(*pair(own))
    assert done.code == 130
    assert f"  qbench study pair --config-dir {own.home / 'configs'}" in done.out.splitlines()
    assert figures(own)[0]["value"] and figures(own)[1]["value"] == ""


def test_study_e_checks_its_examples(bench: Bench) -> None:
    done = bench("study", "e", "tiny=true", "threads=1")
    assert done.code == 0, done.err
    page = (bench.outputs / "tables" / "study_e.md").read_text()
    assert "MISMATCH" not in page and "| 4x4" not in page
    content = json.loads((bench.outputs / "tables" / "study_e.json").read_text())
    assert len(content["examples"]) == 17 and all(one["agrees"] for one in content["examples"])
    (matrix,) = [one for one in content["examples"] if "4x4" in one["what"]]
    assert matrix["found"]["ratio"] == pytest.approx(3.2) and matrix["found"]["bits"] == [512, 160]
    assert [row["row"] for row in figures(bench, "e") if row["column"] == "top-1 %"][-1] == "hybrid"


def test_an_example_that_comes_out_differently_fails(own: Bench) -> None:
    example = {"what": "a half", "compute": "unit", "given": {"values": [0.5], "bits": 2, "rounding": "nearest"}}
    write(own, {**PAIR, "examples": [{**example, "source": [3]}]})
    done = own(*pair(own))
    assert done.code == 1 and "MISMATCH: expected [3]" in " ".join(done.out.split())
    write(own, {**PAIR, "examples": [{**example, "source": [3], "compute": "guess"}]})
    refused = own(*pair(own))
    assert refused.code == 2 and "a half: no computation 'guess'; known are fixed_point" in refused.err


def test_asked_wrongly(bench: Bench) -> None:
    listed = bench("study")
    assert listed.code == 0 and "VGG16 on CIFAR-10" in listed.out and "kmeans_qat4" in listed.out
    refused = {
        ("z",): "study z: unknown study. Known: a, b, c, d, e.",
        ("e", "sed=1"): "sed: unknown key. Did you mean seed?",
        ("e", "hybird:seed=1"): "study e has no row 'hybird'. Did you mean hybrid?",
        ("b", "--rows", "vgg*,small"): "--rows small: study b has no such row. Rows: small_cnn, mobilenet, vgg16.",
        ("--rows", "vgg16"): "--rows vgg16: of which study? Its name comes first: qbench study NAME --rows vgg16.",
        ("b", "--rows"): "--rows: a list of rows is missing after it.",
        ("e", "-m"): "unknown flag '-m'; flags of study are --rows NAMES, --records DIR and --config-dir DIR, keys "
        "are KEY=VALUE.",
        ("--records", "x"): "--records x: of which study? Its name comes first: qbench study NAME --records x.",
        ("b", "--records", "nowhere"): "--records nowhere: no such folder.",
        ("b", "--records", "x", "hydra/launcher=joblib"): "nothing runs with it; leave hydra/launcher=joblib out.",
        ("e", "--config-dir", "nowhere"): "--config-dir nowhere: no such folder.",
    }
    for words, message in refused.items():
        done = bench("study", *words)
        assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1
    assert not bench.outputs.exists()


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e"])
def test_the_committed_tables_are_those_of_the_committed_records(bench: Bench, name: str) -> None:
    results = ROOT / "docs" / "results" / "studies"
    done = bench("study", name, "--records", str(results / "records"))
    assert done.code == 0, done.err
    for suffix in ("md", "csv", "json"):
        made = (bench.outputs / "tables" / f"study_{name}.{suffix}").read_text()
        committed = (results / "tables" / f"study_{name}.{suffix}").read_text()
        assert made.replace(f"{results}/", "docs/results/studies/") == committed, "stale: `make docs` rebuilds it"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e"])
def test_the_small_form_of_every_study(bench: Bench, name: str) -> None:
    done = bench("study", name, "tiny=true", "threads=1")
    assert done.code == 0, done.out + done.err
    rows = figures(bench, name)
    assert {row["study"] for row in rows} == {name} and "failed" not in done.out
    page = (bench.outputs / "tables" / f"study_{name}.md").read_text()
    assert "tiny=true: small networks" in page
    measured = [row for row in rows if row["column"] in ("size MB", "fp32 MB", "standard kB")]
    assert measured and all(float(row["value"]) > 0 for row in measured)
    again = bench("study", name, "tiny=true", "threads=1")
    assert ", 0 to do" in again.out and (bench.outputs / "tables" / f"study_{name}.md").read_text() == page


@pytest.mark.slow
def test_accuracy_of_study_c_fills_from_folders_of_images_and_weights(bench: Bench) -> None:
    pictures(bench.home / "data" / "pictures")
    folder = ["dataset=image_folder", "dataset.folder=pictures", "dataset.height=224", "dataset.width=224"]
    words = ["study", "c", "tiny=true", "threads=1", *folder, "dataset.num_classes=4", "dataset.calibration_images=4"]
    assert bench(*words, "resnet50:train.epochs=1").code == 0
    (trained,) = [row for row in figures(bench, "c") if row["column"] == "fp32 top-1 %" and row["value"]]
    assert trained["row"] == "resnet50"  # which resnet20 stands for
    record = load_record(bench.outputs / "records" / f"{trained['run_ids']}.json")
    weights = bench.store / "train" / record.stage_keys["train:resnet20 on image_folder"] / "weights.safetensors"
    done = bench(*words, f"resnet50:model.weights={weights}")
    assert done.code == 0, done.err
    rows = {(row["row"], row["column"]): row for row in figures(bench, "c")}
    for column in ("fp32 top-1 %", "quantized top-1 %", "both top-1 %"):
        assert 0 <= float(rows["resnet50", column]["value"]) <= 100
    assert "random weights" in rows["vgg16", "fp32 top-1 %"]["note"]


def pictures(folder: Path) -> None:
    """Images of 224x224 in four classes, ten of each to train on and three to test."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 10), ("test", 3)):
        for label in range(4):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(0, 60, (3, 224, 224), generator=generator, dtype=torch.uint8)
                write_png(noise + 50 * label, str(place / f"{number}.png"))
