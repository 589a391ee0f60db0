"""The energy that a run takes, from counters of NVIDIA devices and of processors."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

# Linux counts the energy of whole processors there; many systems let only root read it.
POWERCAP = pathlib.Path("/sys/class/powercap")


class Energy:
    """Adds up what the counters count between its calls.

    before: what earlier starts of the run have taken, as `read` returned it.
    """

    def __init__(self, before: Mapping[str, float] | None = None):
        known = before if isinstance(before, Mapping) else {}
        self._total = {
            name: float(value) for name, value in known.items() if _is_amount(value)
        }
        self._at: float | None = None
        self._gpus: list[float | None] = []
        self._processors: dict[pathlib.Path, int] = {}

    def read(
        self, now: float, gpus: Sequence[Mapping[str, Any]] | None
    ) -> dict[str, float] | None:
        """The joules so far of "gpus" and of "processors", those of them that are
        counted, and the "seconds" in which they were; None if none ever was.

        now: seconds, of a clock that is never set back. gpus: of counters.Gpus.read. A
        device that counts no energy is taken to have had its power since the last call.
        processors: all that the machine's do, for the run and for others.
        """
        passed = 0.0 if self._at is None else now - self._at
        spent = {"gpus": self._of_gpus(gpus or (), passed)}
        spent["processors"] = self._of_processors()
        counted = {name: value for name, value in spent.items() if value is not None}
        if counted:
            counted["seconds"] = passed
        for name, value in counted.items():
            self._total[name] = self._total.get(name, 0.0) + value
        self._at = now
        return {name: round(value, 1) for name, value in self._total.items()} or None

    def _of_gpus(
        self, gpus: Sequence[Mapping[str, Any]], passed: float
    ) -> float | None:
        """None if a device counts neither energy nor power."""
        counts = [gpu.get("energy") for gpu in gpus]
        before, self._gpus = self._gpus, counts
        if len(before) != len(counts):
            before = [None] * len(counts)
        spent = 0.0
        for gpu, count, last in zip(gpus, counts, before, strict=True):
            if count is not None:
                # A driver that was loaded again counts from 0.
                spent += max(count - last, 0.0) if last is not None else 0.0
            elif gpu.get("power") is not None:
                spent += gpu["power"] * passed
            else:
                return None
        return spent if gpus else None

    def _of_processors(self) -> float | None:
        """None if no counter of a processor can be read."""
        spent = None
        for domain in sorted(POWERCAP.glob("*rapl:*")):
            try:
                if not (domain / "name").read_text().startswith("package"):
                    continue  # a part of a processor, which it includes
                count = int((domain / "energy_uj").read_text())
                most = int((domain / "max_energy_range_uj").read_text())
            except (OSError, ValueError):
                continue
            last = self._processors.get(domain, count)
            self._processors[domain] = count
            more = count - last + (most if count < last else 0)  # it starts anew
            spent = (spent or 0.0) + more / 1e6
        return spent


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
