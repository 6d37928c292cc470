"""Figures of records, as SVG files: drawn by Altair, rendered without a browser or network by vl-convert.

Both are an extra, ``pip install "qbench[figures]"``; without them there are tables only.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from qbench.files import write_atomic
from qbench.record import Record

if TYPE_CHECKING:
    import altair as alt

EXTRA = "figures"
_CELL = 18  # height of a layer, pixels
_WIDTH = 60  # of an option


def available() -> bool:
    """Whether the libraries that draw are installed."""
    return all(find_spec(name) is not None for name in ("altair", "vl_convert"))


def write_figures(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw what the records have to show: ``RUN_ID_sensitivity.svg`` for each one with a sensitivity table.

    Returns:
        The files written, whole or not at all; none where the extra is not installed.
    """
    shown = [record for record in records if record.sensitivity]
    if not shown or not available():
        return []
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for record in shown:
        path = folder / f"{record.run_id}_sensitivity.svg"
        svg = vl_convert.vegalite_to_svg(sensitivity_chart(record).to_dict())
        write_atomic(path, svg.encode())
        written.append(path)
    return written


def sensitivity_chart(record: Record) -> alt.LayerChart | alt.FacetChart:
    """A matrix of layers, in execution order, and options, coloured by sensitivity on a logarithmic scale.

    The option each layer got is marked. A sensitivity of 0, of an option that changes nothing, has the colour of the
    smallest positive one.
    """
    import altair as alt

    table = pd.DataFrame([dict(row) for row in record.sensitivity])
    table["option"] = [f"{row.encoding} {row.bits}" for row in table.itertuples()]
    positive = table["sensitivity"][table["sensitivity"] > 0]
    table["shown"] = table["sensitivity"].clip(lower=float(positive.min()) if len(positive) else 1.0)
    options = table.sort_values(["encoding", "bits"])["option"].drop_duplicates().tolist()
    layers = table["layer"].drop_duplicates().tolist()
    base = alt.Chart(table).encode(
        x=alt.X("option:N", sort=options, title="encoding and bits", axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("layer:N", sort=layers, title=None),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("shown:Q", scale=alt.Scale(type="log", scheme="viridis"), title="sensitivity")
    )
    marks = base.transform_filter("datum.chosen").mark_point(filled=True, size=70, color="white", stroke="black")
    subtitle = [" ".join(filter(None, [record.method, record.variant])), "dots: what each layer got"]
    title = alt.Title(f"{record.model} on {record.dataset}", subtitle=subtitle)
    size = {"width": _WIDTH * len(options), "height": _CELL * len(layers)}
    return alt.layer(cells, marks, title=title, **size)
