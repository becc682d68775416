"""The fork server's process: its command, its environment, and its start.

Apart from the rest of the fork server, since a start of the daemon begins with it: this module loads in a few
milliseconds, those of the master in half a second.
"""

from __future__ import annotations

import os
import site
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import lb
from lb.control import signals

# Variables that the service manager sets for the master alone.
OF_THE_MASTER = frozenset(
    (
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "FDSTORE",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
        "TIDEGATE_HANDOVER",  # lb.control.upgrade.handover
        "TIDEGATE_PYTHONPATH",
    )
)
COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "lb.control.workers")
FREE_BLOCKS = "glibc.malloc.tcache_count=256"  # of each size of up to 1 KiB: 8 MiB if there were all of all sizes


class Launched:
    """A fork server's process, and our end of its socket. Raises OSError."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with theirs, signals.held():  # until it ignores them
                self.process = subprocess.Popen(
                    [*command, "--channel", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                )
        except OSError:
            self.socket.close()
            raise

    def close(self) -> int:
        """Ends it, and returns what it has exited with."""
        self.socket.close()
        self.process.kill()
        return self.process.wait()


def worker_environment() -> dict[str, str]:
    """glibc keeps seven free blocks of a size at hand, and takes the long way for more; a worker with many exchanges
    under way goes through hundreds of some sizes in each batch. The operator's own word on it stands."""
    environment = child_environment()
    said = environment.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.tcache_count" not in said:
        environment["GLIBC_TUNABLES"] = f"{said}:{FREE_BLOCKS}" if said else FREE_BLOCKS
    return environment


def child_environment() -> dict[str, str]:
    """The environment of the master without the service manager's variables, and with Tidegate's own folder in the
    path: -P keeps the working directory out of a child's imports."""
    root = str(Path(lb.__path__[0]).parent)
    environment = {name: value for name, value in os.environ.items() if name not in OF_THE_MASTER}
    if root not in site.getsitepackages():
        known = environment.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else root
    return environment
