"""The cells of one run set against another: accuracies, sizes, and whether the difference is more than chance."""

from __future__ import annotations

from collections.abc import Mapping

from qbench.details import Details
from qbench.record import Record
from qbench.report.comparisons import set_against


def versus_cells(record: Record | None, other: Record | None, details: Mapping[str, Details]) -> dict[str, str]:
    """Cells by title, those without a value empty.

    Args:
        record: None where the run is missing, as ``other``: the row says so.
        other: The run it is set against, of the same baseline and test images.
        details: By run; which images each got right makes the interval that of pairs.

    ``ahead`` is yes where the whole interval is above 0 and the file is no larger.
    """
    cells = {"top-1 %": _accuracy(record), "file, B": _size(record)}
    cells |= {"its top-1 %": _accuracy(other), "its file, B": _size(other), "difference [95 %]": "", "ahead": ""}
    if record is None or other is None or record.top1_percent is None or other.top1_percent is None:
        return cells
    found, _ = set_against("", [(record, other)], details)
    smaller = record.size_bytes is not None and other.size_bytes is not None and record.size_bytes <= other.size_bytes
    return {
        **cells,
        "difference [95 %]": f"{found.difference_points:+.2f} [{found.low:.2f}, {found.high:.2f}], {found.basis}",
        "ahead": "yes" if found.low > 0.0 and smaller else "no",
    }


def _accuracy(record: Record | None) -> str:
    return "not run" if record is None or record.top1_percent is None else f"{record.top1_percent:.2f}"


def _size(record: Record | None) -> str:
    return "" if record is None or record.size_bytes is None else f"{record.size_bytes:,}"
