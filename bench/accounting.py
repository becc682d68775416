"""CPU time and memory of a group of processes, from the kernel's own books.

CPU time is the first number of /proc/PID/task/TID/schedstat: nanoseconds on a CPU, the kernel's work for the task
included. What a thread used that has ended is only in its process's sum (/proc/PID/stat), to a tick of 10 ms.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.errors import BenchError


@dataclass(frozen=True)
class CpuReading:
    """CPU nanoseconds of each (process, thread) at one moment, and of each process with the threads that have ended."""

    tasks: dict[tuple[int, int], int]
    processes: dict[int, int] = field(default_factory=dict)


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
    processes: dict[int, int] = {}
    for pid in pids:
        if (whole := _whole(pid)) is not None:
            processes[pid] = whole
        for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
            try:
                tasks[pid, int(task.name)] = int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                if task.exists():
                    raise BenchError("this kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)") from None
    return CpuReading(tasks, processes)


def _whole(pid: int) -> int | None:
    """User and system time of a process in nanoseconds, None if it is gone (proc(5): fields 14 and 15 of stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[11]) + int(fields[12])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def cpu_between(before: CpuReading, after: CpuReading, *, at_least: bool = False) -> int:
    """Nanoseconds of CPU that were used between two readings of the same group.

    Of threads that ended meanwhile counts what their process's sum says beyond the threads that are left. Raises
    BenchError if a process has ended: its last time is lost, and the figure would be too low. With `at_least` that is
    as good.
    """
    lost = {pid for pid, _ in before.tasks.keys() - after.tasks.keys()}
    used = dict.fromkeys(after.processes, 0)
    for task, ns in after.tasks.items():
        used[task[0]] = used.get(task[0], 0) + ns - before.tasks.get(task, 0)
    for pid in lost:
        if pid in before.processes and pid in after.processes:
            used[pid] = max(used[pid], after.processes[pid] - before.processes[pid])
        elif not at_least:
            raise BenchError(f"measured threads of process {pid} ended during the run, so their CPU time is unknown")
    return sum(used.values())


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
