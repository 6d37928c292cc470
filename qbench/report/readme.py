"""The results table of a document, between two markers, rebuilt from committed records.

python -m qbench.report.readme README.md docs/results/records            rewrite the region
python -m qbench.report.readme README.md docs/results/records --check    fail if it is stale
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qbench.files import write_atomic
from qbench.record import Record, load_records
from qbench.report.tables import footnote, pipe_table, sort_records


def results_region(records: Sequence[Record]) -> str:
    """One compact Markdown table per data set and network, with the note on where it was measured."""
    parts = []
    for dataset, model in dict.fromkeys((r.dataset, r.model) for r in sort_records(records)):
        own = [r for r in sort_records(records) if (r.dataset, r.model) == (dataset, model) and r.status == "ok"]
        if not own:
            continue
        rows = [_row(record) for record in own]
        table = pipe_table({title: [row[title] for row in rows] for title in rows[0]})
        parts.append(f"**{model} on {dataset}** ({own[0].n_test:,} test images, seed {own[0].seed})\n\n{table}\n")
    return "\n".join([*parts, footnote(records)])


def with_region(text: str, region: str, name: str = "results") -> str:
    """The document with the text between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` replaced.

    Raises:
        ValueError: A marker is missing.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    _, also_found, after = rest.partition(end)
    if not found or not also_found:
        raise ValueError(f"the document lacks {begin} or {end}")
    return f"{before}{begin}\n\n{region}\n{end}{after}"


def _row(r: Record) -> dict[str, str]:
    baseline = r.method == "fp32"
    delta = "" if baseline else f"{r.delta_points:+.2f} [{r.delta_low_points:+.2f}, {r.delta_high_points:+.2f}]"
    speed = ""
    if not baseline and r.latency_ratio is not None:
        speed = f"{r.latency_ratio:.2f} [{r.latency_ratio_low:.2f}, {r.latency_ratio_high:.2f}]"
    acts = f", {r.act_bits}-bit activations" if r.act_bits is not None else ""
    bits = f", {r.weight_bits} bits{acts}" if r.weight_bits is not None else ""
    return {
        "method": " ".join(filter(None, [r.method, r.variant])) + bits,
        "top-1 %": f"{r.top1_percent:.2f}",
        "Δ points [95 %]": delta,
        "file, bytes": f"{r.size_bytes:,}",
        "ratio": f"{r.compression_ratio:.2f}×",
        "bits/weight": f"{r.bits_per_weight:.2f}",
        "speed-up at batch 1": speed,
        "kernel": r.latency_kind or "",
        "note": r.warning or "",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check one document; 1 if it was stale."""
    parser = argparse.ArgumentParser(description="Rebuild a document's results table from records.")
    parser.add_argument("document", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the table is stale")
    options = parser.parse_args(arguments)
    records, problems = load_records(options.records)
    for problem in problems:
        print(problem)
    before = options.document.read_text(encoding="utf-8")
    after = with_region(before, results_region(records))
    if options.check:
        return int(after != before)
    write_atomic(options.document, after.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
