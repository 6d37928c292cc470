"""What a run stores beside its record, to be drawn: too much for a table, and optional.

    OUTPUTS/records/RUN_ID.json    the record: every figure
    OUTPUTS/details/RUN_ID.json    its details: histograms of the weights, which images were right, what was confused

A record without details is complete; a page then says that they were not recorded.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qbench.files import write_atomic

FOLDER = "details"
FORMAT = 1
MAX_BINS = 64  # of a histogram
MAX_LEVELS = 256  # of a layer; more are not drawn one by one
MAX_CLASSES = 100  # a larger confusion matrix is not stored
MAX_DISAGREEMENTS = 50  # images listed one by one


@dataclass(frozen=True)
class Details:
    """What one run has to show.

    ``weights`` has one mapping per layer: ``layer``; ``low`` and ``high``, the ends of ``counts``, at most 64 equal
    bins of the float weights; ``stored_counts``, the same of the weights as they are decoded; ``levels``, the values a
    weight can take, in rising order (null where they are more than 256, or where the layer is float); ``channel``, the
    output channel whose levels they are, where each has its own.
    ``confusion[label][predicted]`` counts test images; null with more than 100 classes. ``classes`` names both.
    ``correct`` says of each test image whether it was classified rightly, eight to a byte, most significant bit
    first, as base64; ``labels_sha256`` digests the labels, in order: runs where it is the same saw the same images.
    ``fine_tuning`` has the history of every training a method did, as ``history`` of a record has the baseline's.
    ``disagreements`` counts and lists images that the integer reference sees as another class: ``n_test``,
    ``count``, and of the first fifty ``[image, label, own class, the reference's]``.
    """

    run_id: str
    artifact_sha256: str | None
    weights: tuple[Mapping[str, Any], ...] = ()
    classes: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None
    correct: str | None = None
    labels_sha256: str | None = None
    fine_tuning: tuple[Sequence[Mapping[str, Any]], ...] = ()
    disagreements: Mapping[str, Any] | None = None
    format: int = FORMAT

    def save(self, folder: Path) -> Path:
        """Write ``folder/RUN_ID.json`` whole or not at all; one line per field, since nobody reads the numbers."""
        path = folder / f"{self.run_id}.json"
        lines = (f"{json.dumps(key)}: {_compact(value)}" for key, value in sorted(asdict(self).items()))
        write_atomic(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
        return path


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


_KNOWN = {f.name for f in fields(Details)}


def load_details(path: Path) -> Details:
    """Read one file.

    Raises:
        ValueError: Not details, or of a format this version does not know; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"details format {content['format']}; this qbench reads {FORMAT}")
        for name in ("weights", "classes", "fine_tuning"):
            content[name] = tuple(content.get(name) or ())
        if content.get("confusion") is not None:
            content["confusion"] = tuple(tuple(int(count) for count in row) for row in content["confusion"])
        return Details(**{key: value for key, value in content.items() if key in _KNOWN})
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: not the details of a run of this qbench ({reason})") from error


def find_details(records: Path, run_ids: Iterable[str]) -> tuple[dict[str, Details], list[str]]:
    """The details stored beside records, by run, and one line for each file that is none.

    Args:
        records: A folder of records (also one that holds several such folders), or one record file.
        run_ids: The runs to look for.
    """
    beside = (records.parent if records.is_file() else records).parent / FOLDER
    below = sorted(records.rglob(FOLDER)) if records.is_dir() else []
    found: dict[str, Details] = {}
    problems = []
    for run_id in run_ids:
        for path in (folder / f"{run_id}.json" for folder in (beside, *below)):
            if run_id in found or not path.is_file():
                continue
            try:
                found[run_id] = load_details(path)
            except (ValueError, OSError) as error:
                problems.append(str(error))
    return found, problems


def pack(correct: NDArray[np.bool_]) -> str:
    """Booleans [N] as text; see :class:`Details`."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack(text: str, count: int) -> NDArray[np.bool_]:
    """The first ``count`` booleans of :func:`pack`.

    Raises:
        ValueError: The text is not base64, or holds too few.
    """
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8))
    if len(bits) < count:
        raise ValueError(f"{len(bits)} booleans are stored, {count} are needed")
    return bits[:count].astype(np.bool_)
