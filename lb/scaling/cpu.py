"""CPU use of processes, in percent of one core, and their memory.

psutil is loaded with the first reading: a master that has no model servers needs none of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

# Closer readings mostly measure the granularity of the kernel's accounting (10 ms ticks).
MIN_INTERVAL = 500_000_000


class _Mark(Struct, frozen=True):
    at: int
    seconds: float


class CpuMeter:
    """Use between two readings; several readers share one meter without shortening each other's intervals."""

    def __init__(self, families: bool = False) -> None:
        """`families`: whether what a process has started counts with it, which costs a look at all processes."""
        self._families = families
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
        due = [pid for pid in alive if pid not in self._marks or now - self._marks[pid].at >= MIN_INTERVAL]
        members = families(due) if self._families and due else {pid: [pid] for pid in due}
        for pid in due:
            self._sample(pid, members[pid], self._marks.get(pid), now)
        return {name: self._percent[pid] for name, pid in pids.items() if pid in self._percent}

    def _sample(self, pid: int, members: Sequence[int], mark: _Mark | None, now: int) -> None:
        seconds = self._seconds(members)
        if seconds is None:
            self._marks.pop(pid, None)
            self._percent.pop(pid, None)
            return
        if mark is not None:
            # Another process may have got the number of one that ended.
            self._percent[pid] = max(0.0, seconds - mark.seconds) / (now - mark.at) * 1e11
        self._marks[pid] = _Mark(now, seconds)

    def _seconds(self, members: Sequence[int]) -> float | None:
        """CPU time of a process (the first), and of its family; None where it has ended."""
        import psutil

        total = 0.0
        for pid in members:
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.Error:
                if pid == members[0]:
                    return None
                continue
            total += times.user + times.system
            if self._families:  # of those that have ended since the reading before
                total += times.children_user + times.children_system
        return total


def families(pids: Collection[int]) -> dict[int, list[int]]:
    """Each process with all that it has started and that runs, itself first; by one look at all processes."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # else it has ended
                parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = {}
    for pid in pids:
        members = [pid]
        for member in members:  # which grows
            members += children.get(member, ())
        found[pid] = members
    return found


def resident(members: Sequence[int]) -> int | None:
    """Bytes of memory that a process (the first) and its family have; None where it has ended. What they share counts
    for each."""
    import psutil

    total = 0
    for pid in members:
        try:
            total += int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            if pid == members[0]:
                return None
    return total
