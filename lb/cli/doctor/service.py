"""The unit of systemd: how the service is, and whether its directives are what restarts, upgrades and the watchdog need
(docs/howto/systemd.md)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from lb.cli.doctor.finding import Finding, fail, ok, warn
from lb.config.plan.compile import worker_count
from lb.config.schema.file import Config
from lb.config.units import SECOND

UNIT = "tidegate.service"
PROPERTIES = (
    "LoadState", "ActiveState", "UnitFileState", "NRestarts", "Result", "Type", "NotifyAccess", "KillMode", "Restart",
    "FileDescriptorStoreMax", "RuntimeDirectory", "RuntimeDirectoryPreserve", "TimeoutStopUSec", "WatchdogUSec",
    "OOMPolicy",
)  # fmt: skip
_STORES = 254  # the first systemd that says how much it stores (FDSTORE)
_RELOADS = 253  # the first with Type=notify-reload
_SEGMENTS = 2  # descriptors of the result cache
_HANG = 20  # seconds after which the master kills a worker that hangs; the watchdog is not fed for the second half
_ENDING = 5 * SECOND  # of a stop, beyond the drains
_DROP_IN = f"systemctl edit {UNIT}"
_SPAN = re.compile(r"([0-9.]+)(us|ms|s|min|h|d|w|month|y)")
_NS = {
    "us": 1_000, "ms": 1_000_000, "s": SECOND, "min": 60 * SECOND, "h": 3_600 * SECOND, "d": 86_400 * SECOND,
    "w": 7 * 86_400 * SECOND, "month": 2_629_800 * SECOND, "y": 31_557_600 * SECOND,
}  # fmt: skip


def unit() -> dict[str, str]:
    """Whether the unit runs, and what; nothing where systemd does not run."""
    systemctl = _systemctl(Path("/"))
    return _ask(systemctl, "show", UNIT, "--property=LoadState,ActiveState,ExecStart") if systemctl is not None else {}


def _systemctl(root: Path) -> str | None:
    return shutil.which("systemctl") if (root / "run/systemd/system").is_dir() else None


def findings(config: Config | None, root: Path = Path("/")) -> Iterator[Finding]:
    """Of the unit, where systemd runs, for this configuration."""
    systemctl = _systemctl(root)
    if systemctl is None:
        yield ok("service", "systemd does not run here")
        return
    said = _ask(systemctl, "show", UNIT, f"--property={','.join(PROPERTIES)}")
    version = _ask(systemctl, "show", "--property=Version").get("Version", "")
    yield from state(said)
    if said.get("LoadState") == "loaded":
        found = re.search(r"\d+", version)
        yield from directives(said, int(found[0]) if found else 0, config)


def _ask(systemctl: str, *arguments: str) -> dict[str, str]:
    done = subprocess.run([systemctl, *arguments], capture_output=True, text=True, timeout=30)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def state(said: Mapping[str, str]) -> Iterator[Finding]:
    """Of the properties that `systemctl show` says of the unit: whether it runs."""
    if said.get("LoadState") != "loaded":
        yield ok("service", f"{UNIT} is not installed")
        return
    if said.get("ActiveState") == "failed":
        yield fail(
            "service",
            f"{UNIT} has failed ({said.get('Result')})",
            f"journalctl -u {UNIT} -e says why; then systemctl reset-failed and start it.",
        )
    else:
        yield ok(
            "service", f"{UNIT} is {said.get('ActiveState')}, {said.get('UnitFileState') or 'not enabled'} at boot"
        )
    if said.get("UnitFileState") == "disabled" and said.get("ActiveState") == "active":
        yield warn("service", f"{UNIT} does not start at boot", f"systemctl enable {UNIT}")
    restarts = said.get("NRestarts", "0")
    if restarts.isdigit() and int(restarts):
        yield warn(
            "service", f"{UNIT} was restarted {restarts} times after failures", f"journalctl -u {UNIT} says why."
        )


def directives(said: Mapping[str, str], version: int, config: Config | None) -> Iterator[Finding]:
    """Of the same, what a systemd of this version makes of a reload, a restart, an upgrade and a hang. A property that
    it does not know is not looked at."""
    found = list(_directives(said, version, config))
    yield from found
    if not found:
        yield ok("service", "its directives fit reloads, restarts, upgrades and the watchdog")


def _directives(said: Mapping[str, str], version: int, config: Config | None) -> Iterator[Finding]:
    if 0 < version < _RELOADS:
        yield fail("service", f"systemd {version} has no Type=notify-reload", "Use systemd 254 or newer.")
    elif 0 < version < _STORES:
        yield warn(
            "service",
            f"systemd {version} keeps no sockets and no result cache over a restart",
            "Use systemd 254 or newer, or list the addresses in tidegate.socket.",
        )
    yield from _exactly(said, "Type", ("notify-reload",), "`systemctl reload` and readiness are not followed")
    yield from _exactly(said, "NotifyAccess", ("main", "exec", "all"), "what the daemon says of itself is not heard")
    yield from _exactly(said, "KillMode", ("mixed",), "a stop cuts off requests, or leaves processes behind")
    yield from _exactly(
        said, "Restart", ("on-failure", "always", "on-abnormal"), "a daemon that dies is not started again"
    )
    yield from _exactly(said, "OOMPolicy", ("continue",), "a model server without memory ends the whole service")
    yield from _store(said, config)
    yield from _times(said, config)


def _exactly(said: Mapping[str, str], name: str, right: tuple[str, ...], otherwise: str) -> Iterator[Finding]:
    if said.get(name, right[0]) not in right:
        yield warn("service", f"{name}={said[name]}: {otherwise}", f"{name}={right[0]} ({_DROP_IN})")


def _store(said: Mapping[str, str], config: Config | None) -> Iterator[Finding]:
    room = said.get("FileDescriptorStoreMax", "")
    if not room.isdigit():
        return
    wanted = stored(config) if config is not None else 1
    if int(room) < wanted:
        what = "connections during a restart are refused" if int(room) == 0 else "some listeners are not kept"
        yield warn(
            "service",
            f"FileDescriptorStoreMax={room}: {what}, and the result cache begins empty; {wanted} are wanted",
            f"FileDescriptorStoreMax={max(1024, wanted)} ({_DROP_IN})",
        )
    folders = [f"/run/{name}/" for name in said.get("RuntimeDirectory", "").split()]
    binds = [config.admin.bind] if config is not None else []
    for each in config.listeners.values() if config is not None else ():
        binds += each.binds
    paths = [bind for bind in binds if bind.startswith("unix:")]
    if int(room) and any(path.removeprefix("unix:").startswith(folder) for path in paths for folder in folders):
        yield from _exactly(
            said, "RuntimeDirectoryPreserve", ("restart", "yes"), "the paths of Unix sockets are gone after a restart"
        )


def stored(config: Config) -> int:
    """Descriptors that a daemon with this configuration has systemd keep."""
    workers = worker_count(config)
    listeners = sum(len(each.binds) * (workers if each.protocol == "udp" else 1) for each in config.listeners.values())
    return listeners + 1 + (_SEGMENTS if config.cache is not None else 0)


def _times(said: Mapping[str, str], config: Config | None) -> Iterator[Finding]:
    watchdog = span(said.get("WatchdogUSec", ""))
    if watchdog == 0:
        yield warn(
            "service", "WatchdogSec is not set: a master that hangs is not noticed", f"WatchdogSec=30s ({_DROP_IN})"
        )
    elif watchdog is not None and watchdog <= _HANG * SECOND // 2:
        yield warn(
            "service",
            f"WatchdogSec={watchdog / SECOND:g}s: one worker that hangs ends the whole service, before the master has "
            f"replaced that, after {_HANG} s",
            f"WatchdogSec=30s ({_DROP_IN})",
        )
    stop = span(said.get("TimeoutStopUSec", ""))
    if stop is None or config is None:
        return
    servers = [pool.serve.drain_timeout for pool in config.pools.values() if pool.serve is not None]
    wanted = config.shutdown.drain_timeout + max(servers, default=0) + _ENDING
    if stop < wanted:
        yield warn(
            "service",
            f"TimeoutStopSec={stop / SECOND:g}s: a stop is cut off; the drains of workers and of model servers take up "
            f"to {wanted / SECOND:g} s",
            f"TimeoutStopSec={wanted / SECOND:g}s ({_DROP_IN})",
        )


def span(text: str) -> int | None:
    """Nanoseconds of a time span as `systemctl show` prints it, such as "1min 30s"; None for "infinity", and for what
    is none."""
    parts = _SPAN.findall(text)
    if text == "0":
        return 0
    if not parts or _SPAN.sub("", text).strip():
        return None
    return sum(round(float(number) * _NS[unit]) for number, unit in parts)
