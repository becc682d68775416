"""A systemd of its own, as process 1 of a few namespaces, that runs the unit of this repository. Needs root.

The network is the machine's, so that clients need no way in. Units other than the daemon's are empty targets.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml
from daemon import ROOT
from waiting import eventually

_TARGETS = ("sysinit", "basic", "shutdown", "network-online", "rescue", "emergency", "exit")
# What the unit forbids that a development tree needs: it is not where a package is, and belongs to root.
_DROP_IN = """\
[Service]
ExecStart=
ExecStart={python} -m lb.cli run --config {config}
ExecReload=
ExecReload={python} -m lb.cli check --config {config}
Environment=PYTHONPATH={root} PYTHONDONTWRITEBYTECODE=1
DynamicUser=no
ProtectHome=no
PrivateTmp=no
ReadWritePaths={folder}
StandardOutput=append:{folder}/daemon.log
StandardError=inherit
{more}
"""
_OUTER = """\
set -e
mount --make-rprivate /
mkdir -p "$1/cgroup"
mount -t cgroup2 cgroup2 "$1/cgroup"
mkdir -p "$1/cgroup/$2"
echo 0 > "$1/cgroup/$2/cgroup.procs"
umount "$1/cgroup"
exec unshare --pid --mount --cgroup --ipc --uts --fork --kill-child sh -c "$3" sh "$1"
"""
_INNER = """\
set -e
mount -t proc proc /proc
mount -t cgroup2 cgroup2 "$1/cgroup"
umount -R /sys/fs/cgroup
mount --bind "$1/cgroup" /sys/fs/cgroup
mount -t tmpfs tmpfs /run
touch "$1/console"
mount --bind "$1/console" /dev/console
export container=tidegate SYSTEMD_UNIT_PATH="$1/units"
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
"""


class Systemd:
    """A booted systemd with tidegate.service, to be started. `config` has no `admin` section; `more` are lines of the
    drop-in."""

    def __init__(self, folder: Path, config: dict[str, Any], more: str = "") -> None:
        self.folder = folder
        self.path = folder / "tidegate.yaml"
        self.write(config)
        self._units = folder / "units"
        self._write_units(more)
        self._cgroup = f"tidegate-test-{os.getpid()}-{folder.name}"
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _OUTER, "sh", str(folder), self._cgroup, _INNER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._init = eventually(self._find, "systemd", 20)
        eventually(lambda: self.systemctl("is-active", "test.target", check=False) == "active", "the boot", 20)

    def _write_units(self, more: str) -> None:
        drop_ins = self._units / "tidegate.service.d"
        drop_ins.mkdir(parents=True)
        for target in _TARGETS:
            (self._units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        (self._units / "test.target").write_text("[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n")
        (self._units / "tidegate.service").write_text((ROOT / "systemd" / "tidegate.service").read_text())
        (drop_ins / "tree.conf").write_text(
            _DROP_IN.format(python=sys.executable, config=self.path, root=ROOT, folder=self.folder, more=more)
        )

    def activate(self, address: str) -> None:
        """Has systemd listen on an address, by the socket unit as it is shipped but for that."""
        text = (ROOT / "systemd" / "tidegate.socket").read_text()
        unit = re.sub(r"^ListenStream=.*$", f"ListenStream={address}", text, flags=re.MULTILINE)
        (self._units / "tidegate.socket").write_text(unit)
        (self._units / "sockets.target").write_text("[Unit]\nDefaultDependencies=no\n")
        self.systemctl("daemon-reload")
        self.systemctl("start", "tidegate.socket")

    def set(self, lines: str) -> None:
        """Lines of the section [Service] that hold from the next start on."""
        (self._units / "tidegate.service.d" / "zz.conf").write_text(f"[Service]\n{lines}\n")
        self.systemctl("daemon-reload")

    def _find(self) -> int | None:
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == "systemd":
                    return process.pid
        return None

    def write(self, config: dict[str, Any]) -> None:
        complete = {"workers": 2, "admin": {"bind": "unix:/run/tidegate/admin.sock"}, **config}
        self.path.write_text(yaml.safe_dump(complete))

    def inside(self, *command: str, check: bool = True) -> str:
        """What a command prints that runs beside that systemd."""
        entered = ["nsenter", f"--target={self._init}", "--mount", "--pid", "--cgroup", "--ipc", *command]
        done = subprocess.run(entered, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr, self.log)
        return done.stdout.strip()

    @property
    def root(self) -> str:
        """Its file system, as seen from here."""
        return f"/proc/{self._init}/root"

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.inside("systemctl", *arguments, check=check)

    def tidegate(self, *arguments: str, check: bool = True) -> str:
        """`tidegate ARGUMENTS` as an operator types it."""
        tree = f"PYTHONPATH={ROOT}"
        return self.inside("env", tree, sys.executable, "-m", "lb.cli", *arguments, "-c", str(self.path), check=check)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.tidegate("status", "--json"))
        return found

    def show(self, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", "tidegate.service")

    def stored(self) -> dict[str, str]:
        """The names in the descriptor store, with what each is."""
        rows = json.loads(
            self.inside("systemd-analyze", "fdstore", "tidegate.service", "--json=short", check=False) or "[]"
        )
        return {row["fdname"]: row["type"] for row in rows}

    def kill_master(self) -> None:
        self.systemctl("kill", "--kill-whom=main", "--signal=SIGKILL", "tidegate.service")

    @property
    def log(self) -> str:
        path = self.folder / "daemon.log"
        return path.read_text() if path.exists() else (self.folder / "console").read_text()

    def close(self) -> None:
        """Ends it and all that runs in its namespaces."""
        os.kill(self._init, signal.SIGKILL)
        self._process.wait(20)
        removing = 'mount -t cgroup2 cgroup2 "$1" && find "$1/$2" -depth -type d -delete'
        command = ["unshare", "--mount", "sh", "-c", removing, "sh", str(self.folder / "cgroup"), self._cgroup]
        subprocess.run(command, check=False, capture_output=True)
