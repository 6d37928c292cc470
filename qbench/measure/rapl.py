"""Energy counters of the processor, where the system lets them be read: RAPL, through Linux' powercap folder.

    /sys/class/powercap/intel-rapl:0/          a zone: name "package-0", energy_uj, max_energy_range_uj
    /sys/class/powercap/intel-rapl:0:0/        a subzone of it: core, uncore, dram

AMD's processors show the same names. What is summed are the packages and, beside them, their DRAM subzones; "core" and
"uncore" are parts of a package already, and "psys" is the whole platform. Since Linux 5.10 the counters are readable
for root alone unless the administrator says otherwise, and containers and virtual machines mostly have none: then
there is no measured energy, never an estimate in its place.

The figure is of everything that runs on those packages, idle power included, which is why only the profile stage, alone
on the machine, uses it.

Source: Linux, Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
MICRO = 1e-6


@dataclass(frozen=True)
class _Zone:
    counter: Path
    range_uJ: int


class EnergyMeter:
    """Reads the counters of the packages and their DRAM.

    Args:
        zones: Counter files and where they wrap around; at least one.
    """

    def __init__(self, zones: tuple[_Zone, ...]) -> None:
        self._zones = zones

    def read(self) -> Mapping[Path, int] | None:
        """The counters now, in microjoules; None if one can no longer be read."""
        try:
            return {zone.counter: int(zone.counter.read_text()) for zone in self._zones}
        except (OSError, ValueError):
            return None

    def joules(self, before: Mapping[Path, int] | None, after: Mapping[Path, int] | None) -> float | None:
        """Energy between two readings; None if one is missing.

        A counter that went down has wrapped around once. It cannot have done so twice: at 500 W that takes minutes,
        and a turn lasts a fraction of a second.
        """
        if before is None or after is None:
            return None
        total = 0
        for zone in self._zones:
            spent = after[zone.counter] - before[zone.counter]
            total += spent if spent >= 0 else spent + zone.range_uJ
        return total * MICRO


def energy_meter(root: Path = POWERCAP) -> EnergyMeter | None:
    """The meter of this machine; None where there is no counter that this user may read.

    Args:
        root: The powercap folder.
    """
    found = []
    for folder in sorted(root.glob("intel-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
            if not (name.startswith("package") or name == "dram"):
                continue
            counter = folder / "energy_uj"
            int(counter.read_text())
            found.append(_Zone(counter, int((folder / "max_energy_range_uj").read_text())))
        except (OSError, ValueError):
            return None  # a sum without one of its parts would be too low, and nobody would see it
    return EnergyMeter(tuple(found)) if found else None
