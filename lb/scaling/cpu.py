"""CPU use of processes, in percent of one core, and their memory.

psutil is loaded with the first reading: a master that has no model servers needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

# Closer readings mostly measure the granularity of the kernel's accounting (10 ms ticks).
MIN_INTERVAL = 500_000_000


class _Mark(Struct, frozen=True):
    at: int
    seconds: float


class CpuMeter:
    """Use between two readings; several readers share one meter without shortening each other's intervals."""

    def __init__(self) -> None:
        self._marks: dict[int, _Mark] = {}
        self._percent: dict[int, float] = {}

    def read(self, pids: Mapping[str, int], now: int) -> dict[str, float]:
        """Percent of one core by name, as of the last reading at least MIN_INTERVAL after the one before.

        A process is left out until it was read twice, and when it is gone. `now` is monotonic ns.
        """
        alive = set(pids.values())
        for pid in self._marks.keys() - alive:
            del self._marks[pid]
            self._percent.pop(pid, None)
        for pid in alive:
            mark = self._marks.get(pid)
            if mark is None or now - mark.at >= MIN_INTERVAL:
                self._sample(pid, mark, now)
        return {name: self._percent[pid] for name, pid in pids.items() if pid in self._percent}

    def _sample(self, pid: int, mark: _Mark | None, now: int) -> None:
        import psutil

        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            self._marks.pop(pid, None)
            self._percent.pop(pid, None)
            return
        seconds = times.user + times.system
        if mark is not None:
            # Another process may have got the number of one that ended.
            self._percent[pid] = max(0.0, seconds - mark.seconds) / (now - mark.at) * 1e11
        self._marks[pid] = _Mark(now, seconds)


def resident(pid: int) -> int | None:
    """Bytes of memory that a process has; None where it has ended."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
