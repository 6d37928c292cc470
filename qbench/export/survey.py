"""Recorded integer networks as C: exported, compiled with the strict flags, compared with the reference, in a table.

python -m qbench.export.survey docs/results/agreement/records docs/results/exports      write exports.json and README.md
python -m qbench.export.survey --check docs/results/exports                             fail if the table is stale

Test images come from ``QBENCH_DATA`` as in ``qbench export``; the table says what was compared on.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qbench.errors import ConfigError, QBenchError
from qbench.files import write_atomic
from qbench.machine import cpu_model
from qbench.record import Record, load_records
from qbench.report.readme import with_region
from qbench.report.tables import pipe_table

MODELS = ("small_cnn", "mobilenet", "vgg16")
IMAGES = 1000
FACTS, DOCUMENT, REGION = "exports.json", "README.md", "exports"


def survey(records: Sequence[Record], models: Sequence[str] = MODELS, images: int = IMAGES) -> dict[str, Any]:
    """Export each network to C in a temporary folder and measure what comes out.

    Args:
        records: Among them, for each network, one of ``method=integer`` whose artefact is still there.
        models: Names of networks.
        images: To compare each on.

    Returns:
        What ``exports.json`` holds: compiler, flags, processor, and one mapping per network.

    Raises:
        ConfigError: A network has no such record, or several data sets; its artefact is gone.
        ExportError: What the C computes is not what the reference computes.
        RuntimeUnavailable: There is no C compiler, or it refuses.
    """
    from qbench.runtime.c.compiled import FLAGS, find_compiler

    paths = {model: _artifact(records, model) for model in models}
    command = find_compiler()
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    return {
        "compiler": (said.splitlines() or [command[0]])[0],
        "flags": list(FLAGS),
        "cpu": cpu_model(),
        "networks": [{"model": model, **_exported(path, model, images)} for model, path in paths.items()],
    }


def exports_table(facts: Mapping[str, Any]) -> str:
    """The Markdown table of :func:`survey`'s facts."""
    columns: dict[str, list[str]] = {}
    for one in facts["networks"]:
        cells = {
            "network": one["model"],
            "code, kB": f"{one['source_bytes'] / 1000:,.1f}",
            "compiled, kB": f"{one['object_bytes'] / 1000:,.1f}",
            "blob of weights, kB": f"{one['blob_bytes'] / 1000:,.1f}" if one["blob_bytes"] else "none",
            "static memory, kB": f"{one['arena_bytes'] / 1000:,.1f}",
            "compared on": f"{one['images']:,} images ({one['source']})",
            "logits equal": f"{one['identical_percent']:g} %",
            "seconds to compile": f"{one['compile_seconds']:.1f}",
        }
        for title, cell in cells.items():
            columns.setdefault(title, []).append(cell)
    return f"{pipe_table(columns)}\n\n{facts['compiler']}, `{' '.join(facts['flags'])}`, {facts['cpu']}.\n"


def _artifact(records: Sequence[Record], model: str) -> Path:
    found = [one for one in records if (one.model, one.method, one.status) == (model, "integer", "ok")]
    hashes = {one.artifact_sha256 for one in found}
    if len(hashes) != 1:
        raise ConfigError(f"{model}: {len(hashes)} files of method=integer are recorded; one is needed.")
    places = [Path(one.artifact) for one in found if one.artifact is not None]
    there = [place for place in places if place.is_file()]
    if not there:
        raise ConfigError(f"{model}: {places[0]} is not there; make results-agreement writes it.")
    return there[0]


def _exported(path: Path, model: str, images: int) -> dict[str, Any]:
    from qbench.export.verb import export_file
    from qbench.runtime.c.compiled import compile_c

    with tempfile.TemporaryDirectory() as place:
        folder, checked = export_file(path, "c", Path(place) / model, images)
        began = time.monotonic()
        compile_c(["-c", f"{model}.c", "-o", "strict.o"], folder)
        seconds = time.monotonic() - began
        blob, head = folder / f"{model}.bin", (folder / f"{model}.h").read_text()
        arena = re.search(r"_ARENA_BYTES \((\d+)\)", head)
        assert arena is not None  # the writer puts it there
        return {
            "source_bytes": sum((folder / f"{model}{suffix}").stat().st_size for suffix in (".c", ".h")),
            "object_bytes": (folder / "strict.o").stat().st_size,
            "blob_bytes": blob.stat().st_size if blob.exists() else 0,
            "arena_bytes": int(arena[1]),
            "images": checked.images,
            "source": checked.source,
            "identical_percent": checked.identical_percent,
            "largest_difference": checked.largest_difference,
            "compile_seconds": round(seconds, 2),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Survey and rewrite the table, or check it; 1 if it is stale or something failed."""
    parser = argparse.ArgumentParser(description="Export recorded integer networks to C and tabulate what came out.")
    parser.add_argument("records", type=Path, nargs="?", help="folder of records")
    parser.add_argument("folder", type=Path, help=f"where {FACTS} and {DOCUMENT} are")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--check", action="store_true", help="export nothing; exit 1 if the table is stale")
    options = parser.parse_args(arguments)
    if options.records is None and not options.check:
        parser.error("name the folder of records before that of the table, or ask for --check")
    path, document = options.folder / FACTS, options.folder / DOCUMENT
    if not options.check:
        try:
            facts = survey(load_records(options.records)[0], options.models, options.images)
        except QBenchError as error:
            print(error)
            return 1
        write_atomic(path, f"{json.dumps(facts, indent=1)}\n".encode())
    before = document.read_text(encoding="utf-8")
    table = exports_table(json.loads(path.read_text())) if path.exists() else "Not run.\n"
    after = with_region(before, table, REGION)
    if options.check:
        return int(after != before)
    write_atomic(document, after.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
