"""The machine: kernel, limits, memory, CPUs, GPUs, clock. Files of /proc and /sys are below a root, so that tests have
machines of their own."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lb.cli.doctor.finding import Finding, fail, ok, warn
from lb.config.checks.descriptors import limit_for
from lb.config.plan.compile import worker_count
from lb.config.schema.file import Config
from lb.config.schema.listeners.udp import UdpConfig
from lb.config.units import format_size
from lb.control.jobs.routes import with_jobs

_FILES = 65_536  # open files below which a busy proxy is short of them
_BACKLOG = 4096  # of listening sockets (lb.control.sockets)
_PORTS = 20_000  # of connections to one endpoint
_NO_LIMIT = 1 << 60  # of a cgroup of version 1; of version 2 it says `max`
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_SLOW_CLOCKS = ("hpet", "acpi_pm", "pit", "jiffies", "refined-jiffies")
_GPU_PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class Machine:
    """Reads files below `root`; what is not there is ""."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def read(self, path: str) -> str:
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        text = self.read(path)
        return int(text) if text.isascii() and text.isdigit() else None

    def cgroup(self, name: str) -> str:
        """The value of a file of this process's cgroup (version 2), the closest one upwards that sets it; "" where none
        does."""
        place = next((line[3:] for line in self.read("proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
        folder = Path("sys/fs/cgroup") / place.lstrip("/")
        for at in (folder, *folder.parents):
            value = self.read(str(at / name))
            if value and not value.startswith("max"):
                return value
            if at == Path("sys/fs/cgroup"):
                break
        return ""


def findings(machine: Machine, config: Config | None) -> Iterator[Finding]:
    """All of this machine. `config` is what the daemon is to run; None where there is none."""
    yield from _kernel(machine)
    yield from _files(machine, config)
    yield from _memory(machine, config)
    yield from _cpus(machine, config)
    yield from gpus(machine, config)
    yield from _clock(machine)


def _kernel(machine: Machine) -> Iterator[Finding]:
    yield ok("kernel", f"Linux {platform.release()}, {platform.machine()}")
    missing = [
        name
        for name, works in (("SO_REUSEPORT", _reuseport), ("splice", _splice), ("memfd_create", _memfd))
        if not works()
    ]
    if missing:
        yield fail(
            "kernel",
            f"no {', no '.join(missing)}",
            "Run on Linux 4.5 or newer, and let the sandbox's filter pass these calls.",
        )
    else:
        yield ok("kernel", "SO_REUSEPORT, splice and memfd_create work")
    somaxconn = machine.number("proc/sys/net/core/somaxconn")
    if somaxconn is not None and somaxconn < _BACKLOG:
        yield warn("kernel", f"net.core.somaxconn is {somaxconn}: connections of a larger burst wait for seconds",
                   f"sysctl -w net.core.somaxconn={_BACKLOG}")  # fmt: skip
    elif somaxconn is not None:
        yield ok("kernel", f"net.core.somaxconn is {somaxconn}")
    ports = machine.read("proc/sys/net/ipv4/ip_local_port_range").split()
    if len(ports) == 2 and all(port.isdigit() for port in ports):
        count = int(ports[1]) - int(ports[0]) + 1
        text = f"{count} local ports for connections to one endpoint ({ports[0]} to {ports[1]})"
        if count < _PORTS:
            yield warn("kernel", text, 'sysctl -w net.ipv4.ip_local_port_range="15000 60999"')
        else:
            yield ok("kernel", text)
    used, most = (machine.number(f"proc/sys/net/netfilter/nf_conntrack_{name}") for name in ("count", "max"))
    if used is not None and most:
        text = f"connection tracking has {used} of at most {most} entries"
        if used > most * 4 // 5:
            yield warn(
                "kernel",
                f"{text}; packets of further connections are dropped",
                f"sysctl -w net.netfilter.nf_conntrack_max={most * 4}",
            )
        else:
            yield ok("kernel", text)
    pages = _chosen(machine.read("sys/kernel/mm/transparent_hugepage/enabled"))
    if pages:
        yield ok("kernel", f"transparent huge pages: {pages}")


def _reuseport() -> bool:
    try:
        with socket.socket() as first, socket.socket() as second:
            for one in (first, second):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            first.bind(("127.0.0.1", 0))
            second.bind(first.getsockname())
    except OSError:
        return False
    return True


def _splice() -> bool:
    source, target = os.pipe(), os.pipe()
    try:
        os.write(source[1], b"x")
        return os.splice(source[0], target[1], 1) == 1
    except OSError:
        return False
    finally:
        for number in (*source, *target):
            os.close(number)


def _memfd() -> bool:
    try:
        os.close(os.memfd_create("tidegate-doctor"))
    except OSError:
        return False
    return True


def _chosen(text: str) -> str:
    """`madvise` of `always [madvise] never`."""
    return text.partition("[")[2].partition("]")[0]


def _files(machine: Machine, config: Config | None) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES
    if config is not None:
        served = with_jobs(config, lambda: Path("/"))
        listeners = served.listeners.values()
        clients = sum(one.max_connections for one in listeners if one.protocol != "udp")
        endpoints = sum(len(pool.endpoints) for pool in served.pools.values() if pool.protocol not in ("tcp", "udp"))
        udp = [one.udp or UdpConfig() for one in listeners if one.protocol == "udp"]
        sessions = sum(one.max_sessions for one in udp)
        wanted = max(1024, limit_for(len(listeners), endpoints, sessions, clients, worker_count(config)))
    what = "no limit" if hard == resource.RLIM_INFINITY else str(hard)
    text = f"open files of a process: {what}"
    if hard != resource.RLIM_INFINITY and hard < wanted:
        yield warn("limits", f"{text}; {wanted} are wanted, and connections beyond wait in the kernel",
                   f"LimitNOFILE={wanted} in the unit, `ulimit -Hn {wanted}`, or a lower max_connections.")  # fmt: skip
    else:
        yield ok("limits", text)
    pids = machine.cgroup("pids.max")
    if pids.isdigit() and int(pids) < 256:
        yield warn(
            "limits",
            f"the cgroup allows {pids} processes and threads",
            "Raise TasksMax of the unit or the pids limit of the container to 256 or more.",
        )


def _memory(machine: Machine, config: Config | None) -> Iterator[Finding]:
    fields = dict(line.split(":", 1) for line in machine.read("proc/meminfo").splitlines() if ":" in line)
    total, available = (int(fields.get(name, "0").split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limit = machine.cgroup("memory.max")
    most = min(total, int(limit)) if limit.isdigit() and int(limit) < _NO_LIMIT else total
    text = f"{_about(total)} in all, {_about(available)} available"
    text += f"; the cgroup allows {_about(most)}" if most < total else ""
    yield ok("memory", text)
    if config is None:
        return
    cache = config.cache.size if config.cache is not None else 0
    if cache > most:
        yield fail(
            "memory",
            f"the result cache ({_about(cache)}) is larger than the memory ({_about(most)})",
            "Lower cache.size, or give the daemon more memory.",
        )
    elif cache > min(most, available) * 3 // 4:
        yield warn(
            "memory",
            f"the result cache ({_about(cache)}) takes most of the memory",
            "Lower cache.size: workers and model servers need some, too.",
        )
    elif cache:
        yield ok("memory", f"the result cache takes {_about(cache)}")


def _about(size: int) -> str:
    unit = 1 << max(size.bit_length() - 1, 0) // 10 * 10
    return format_size(round(size / unit) * unit)


def _cpus(machine: Machine, config: Config | None) -> Iterator[Finding]:
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    quota, _, period = machine.cgroup("cpu.max").partition(" ")
    text = f"{usable} of {there} CPUs may be used"
    share = int(quota) / int(period) if quota.isdigit() and period.isdigit() else 0
    workers = worker_count(config) if config is not None else usable
    if share and share < workers:
        yield warn("cpus", f"{text}, and the cgroup gives time for {share:g}: {workers} workers are often stopped",
                   f"Set workers: {max(1, int(share))}, or raise the limit (CPUQuota=, limits.cpu).")  # fmt: skip
    elif workers > usable:
        yield warn("cpus", f"{text}, and {workers} workers share them", "Set workers: auto.")
    else:
        yield ok("cpus", f"{text}; {workers} worker{'s' if workers != 1 else ''}")


def gpus(machine: Machine, config: Config | None) -> Iterator[Finding]:
    """GPUs, their driver, and what ONNX Runtime can do with them."""
    serving = [pool.serve for pool in config.pools.values() if pool.serve is not None] if config is not None else []
    wanted = {provider for serve in serving if serve.models is not None for provider in serve.providers or ()}
    needs = sorted(wanted & _GPU_PROVIDERS.keys())
    named = sorted(path.name for path in (machine.root / "proc/driver/nvidia/gpus").glob("*"))
    driver = machine.read("proc/driver/nvidia/version").partition("\n")[0]
    found = next((word for word in driver.split() if word[:1].isdigit() and "." in word), "")
    if named:
        yield ok("gpus", f"{len(named)} of NVIDIA's, driver {found or 'of unknown version'}")
        devices = [
            path for path in (machine.root / "dev").glob("nvidia[0-9]*") if not os.access(path, os.R_OK | os.W_OK)
        ]
        if devices:
            yield fail(
                "gpus",
                f"this user may not use {devices[0]}",
                "Add the user to the group that owns it; under systemd install gpu.conf as a drop-in.",
            )
    elif needs:
        yield warn(
            "gpus",
            f"none, and a pool asks for {' and '.join(needs)}",
            "Install NVIDIA's driver, or leave `cpu` as the only provider.",
        )
    else:
        yield ok("gpus", "none; models run on the CPU")
    yield from _providers(needs, bool(serving) and any(serve.models is not None for serve in serving))


def _providers(needs: Sequence[str], required: bool) -> Iterator[Finding]:
    """Asked in a process of its own, since the balancer itself never loads ONNX Runtime."""
    code = "import onnxruntime as o; print(o.__version__, *o.get_available_providers())"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield warn("gpus", f"ONNX Runtime cannot be asked: {error}", "Run the command again on a quiet machine.")
        return
    if done.returncode:
        if required:
            yield fail(
                "gpus",
                "ONNX Runtime is not installed, and a pool serves models",
                "pip install 'tidegate[cpu]', or 'tidegate[gpu]' for NVIDIA's GPUs.",
            )
        else:
            yield ok("gpus", "ONNX Runtime is not installed; the balancer needs none")
        return
    version, *providers = done.stdout.split()
    yield ok(
        "gpus", f"ONNX Runtime {version}: {', '.join(name.removesuffix('ExecutionProvider') for name in providers)}"
    )
    if missing := [name for name in needs if _GPU_PROVIDERS[name] not in providers]:
        yield warn(
            "gpus",
            f"ONNX Runtime has no provider for {' and '.join(missing)}",
            "pip uninstall onnxruntime; pip install 'tidegate[gpu]'",
        )


def _clock(machine: Machine) -> Iterator[Finding]:
    state = _adjtimex()
    if state == _TIME_ERROR:
        yield warn(
            "clock",
            "not synchronised: certificates, tokens and logs need the time",
            "Run systemd-timesyncd or chrony (in a container: on its host).",
        )
    else:
        yield ok("clock", "synchronised" if state >= 0 else "cannot be asked here")
    source = machine.read("sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source in _SLOW_CLOCKS:
        yield warn(
            "clock",
            f"the clock source is {source}: each look at the clock is a slow system call",
            "Boot with clocksource=tsc where the CPU's is stable.",
        )


def _adjtimex() -> int:
    """The clock's state by adjtimex(2), -1 where that may not be called. All modes are 0, so nothing is changed."""
    words = (ctypes.c_long * 64)()  # struct timex has 26 words
    try:
        return int(ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(words)))
    except (OSError, AttributeError):
        return -1
