"""How much memory the target's process holds, and whether it grows with the requests."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_isolation.load.backlog import slope
from pytest_isolation.resident import resident_bytes

_LEAST_READINGS, _LEAST_REQUESTS = 20, 2000
_SETTLING = 5  # a fifth of the readings: imports, pools and caches fill up first


@dataclass(frozen=True, slots=True)
class Trend:
    """The memory of the target over the load test.

    Attributes:
        first_bytes: resident at the first reading.
        last_bytes: resident at the last.
        per_thousand_bytes: how much more for every 1000 requests; None where the run was too short to tell.
        requests: over how many requests.
        note: what a reader has to know.
    """

    first_bytes: int
    last_bytes: int
    per_thousand_bytes: float | None
    requests: int
    note: str


class Memory:
    """Readings of one process.

    Args:
        pid: whose.
    """

    __slots__ = ("_pid", "_readings")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._readings: list[tuple[int, int]] = []

    def read(self, requests: int) -> None:
        """Look at the process.

        Args:
            requests: how many were made until now.
        """
        if (resident := resident_bytes(self._pid)) is not None:
            self._readings.append((requests, resident))

    @property
    def trend(self) -> Trend | None:
        """What the readings say; None without any."""
        if not self._readings:
            return None
        settled = self._readings[len(self._readings) // _SETTLING :]
        requests = settled[-1][0] - settled[0][0]
        growth = 1000 * slope([rss for _, rss in settled], [at for at, _ in settled])
        long_enough = len(settled) >= _LEAST_READINGS and requests >= _LEAST_REQUESTS
        note = (
            "the slope after the first fifth of the run"
            if long_enough
            else f"too short to tell a trend: it takes {_LEAST_READINGS} readings, one a second, and "
            f"{_LEAST_REQUESTS:,} requests after the first fifth of the run"
        )
        first, last = self._readings[0][1], self._readings[-1][1]
        return Trend(first, last, growth if long_enough else None, requests, note)
