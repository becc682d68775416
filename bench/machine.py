"""The machine that is measured on: its cores, what it is, and what else it was doing."""

from __future__ import annotations

import os
import platform
import random
import resource
import socket
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.errors import BenchError

_MAX_CONNECTIONS = 8_000


@dataclass(frozen=True)
class Cores:
    """Which CPU the proxy gets and which the load generator and the servers share."""

    proxy: int
    load: tuple[int, ...]

    @property
    def load_threads(self) -> int:
        """Threads of the load generator, and as many server processes: half of the load's cores each, one at least."""
        return max(1, min(8, len(self.load) // 2))


def split_cores(usable: Iterable[int] | None = None) -> Cores:
    """The first usable CPU for the proxy, the rest for load and servers. Raises BenchError if there is only one."""
    cpus = sorted(os.sched_getaffinity(0) if usable is None else usable)
    if len(cpus) < 2:
        raise BenchError("a benchmark needs two CPUs, one of them for the proxy alone; this process may use only one")
    return Cores(cpus[0], tuple(cpus[1:]))


def raise_descriptor_limit() -> int:
    """Lifts this process's soft limit of open files (children inherit it) to the hard one; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connection_limit(descriptors: int) -> int:
    """Connections a proxy may be configured for: two descriptors each, half a one for splicing, some for itself."""
    return max(16, min(_MAX_CONNECTIONS, (descriptors - 200) * 2 // 5))


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that nothing listens on, below the range that outgoing connections take theirs from.

    Raises BenchError if none are found.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    candidates = range(10_000, lowest) if lowest > 12_000 else range(20_000, 60_000)
    for port in random.sample(candidates, min(len(candidates), 500)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise BenchError(f"no {count} free ports on 127.0.0.1")


def work_root() -> Path:
    """Where runs keep their files, nginx's cache among them: TMPDIR if it is set, else memory if there is some."""
    shared = Path("/dev/shm")
    return Path(tempfile.gettempdir()) if "TMPDIR" in os.environ or not shared.is_dir() else shared


def file_system(path: Path) -> str:
    """The kind of file system a path is on ("tmpfs" is memory)."""
    mounts = [p for p in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"


def busy_ns(cores: Iterable[int]) -> int:
    """Nanoseconds that these CPUs were not idle since boot, by /proc/stat (to a tick), time stolen included."""
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    wanted = {f"cpu{core}" for core in cores}
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(f) for f in fields[:8])
            total += (user + nice + system + irq + softirq + steal) * tick
    return total


def describe(cores: Cores) -> dict[str, object]:
    """What a reader has to know of the machine to judge absolute figures."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "proxy_core": cores.proxy,
        "load_cores": list(cores.load),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "system": _system(),
        "architecture": platform.machine(),
        "work_directory": str(work_root()),
        "work_file_system": file_system(work_root()),
        "load_average_at_start": os.getloadavg(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or "unknown"


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"
