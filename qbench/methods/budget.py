"""What a mixed-precision network may cost, as the text of a parameter: avg_bits:3.5, size:2MB, drop:0.5."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"(?:(avg_bits|drop):(\d+(?:\.\d+)?)|(size):(\d+(?:\.\d+)?)(B|KB|MB))")
_BYTES = {"B": 1, "KB": 1_000, "MB": 1_000_000}


@dataclass(frozen=True)
class Budget:
    """A bound.

    Args:
        kind: avg_bits (mean code bits of all weights), size (bytes of all weights with their codebooks and scales) or
            drop (percent of the predictions on calibration images that may change).
        amount: In the unit of its kind.
    """

    kind: str
    amount: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read avg_bits:NUMBER, drop:PERCENT or size:NUMBER with B, KB or MB (decimal).

        Raises:
            ValueError: Another form, or an amount of avg_bits or size that is 0.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(f"budget={text!r}: allowed are avg_bits:3.5, size:2MB (or KB, B) and drop:0.5")
        kind = found[1] or found[3]
        amount = float(found[2] or found[4]) * _BYTES.get(found[5] or "B", 1)
        if kind != "drop" and amount == 0:
            raise ValueError(f"budget={text!r}: nothing can be stored in that")
        return cls(kind, amount)
