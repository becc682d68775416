"""CPU time and memory of a group of processes, from the kernel's own books.

CPU time is the first number of /proc/PID/task/TID/schedstat: nanoseconds on a CPU, the kernel's work for the task
included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.errors import BenchError


@dataclass(frozen=True)
class CpuReading:
    """CPU nanoseconds of each (process, thread) at one moment."""

    tasks: dict[tuple[int, int], int]


@dataclass(frozen=True)
class Memory:
    """Bytes: `pss` counts a page shared by n processes as 1/n, `rss` counts it in full in each."""

    pss: int
    rss: int


def tree(pid: int) -> list[int]:
    """A process and all its descendants. Raises BenchError if it is gone."""
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        raise BenchError(f"process {pid} has ended") from None


def read_cpu(pids: Iterable[int]) -> CpuReading:
    """CPU time of every thread of these processes. Raises BenchError where the kernel keeps no such account."""
    tasks: dict[tuple[int, int], int] = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
            try:
                tasks[pid, int(task.name)] = int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                if task.exists():
                    raise BenchError("this kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)") from None
    return CpuReading(tasks)


def cpu_between(before: CpuReading, after: CpuReading, *, at_least: bool = False) -> int:
    """Nanoseconds of CPU that were used between two readings of the same group.

    Raises BenchError if a thread ended meanwhile: its last time is lost, and the figure would be too low. With
    `at_least` that is as good: gRPC's servers let threads of their pools end as they like.
    """
    lost = before.tasks.keys() - after.tasks.keys()
    if lost and not at_least:
        raise BenchError(f"{len(lost)} measured threads ended during the run, so their CPU time is unknown")
    return sum(ns - before.tasks.get(task, 0) for task, ns in after.tasks.items())


def memory(pids: Iterable[int]) -> Memory:
    """Memory of these processes together. Raises BenchError where it may not be read."""
    pss = rss = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError as error:
            raise BenchError(f"cannot read the memory of process {pid}: {error.strerror}") from error
        fields = {line.split(":")[0]: line.split(":")[1].split() for line in text.splitlines()[1:]}
        pss += int(fields["Pss"][0]) * 1024
        rss += int(fields["Rss"][0]) * 1024
    return Memory(pss, rss)
