"""One model server process: how it is started, what it says, and when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from lb.config.address import UNIX_PATH_MAX
from lb.config.schema.file import ServeConfig
from lb.config.units import MILLISECOND
from lb.control import signals
from lb.control.workers.lines import LineReader
from lb.errors import StartError

# What `python -m backend serve` prints on standard output for each address it listens on.
LISTENING = "listening on "

Command = Callable[[ServeConfig, str], Sequence[str]]


def serve_command(serve: ServeConfig, listen: str) -> list[str]:
    """The command line of the model server in `backend`, listening on `listen`, as a child of this process."""
    command = [sys.executable, "-P", "-m", "backend", "serve", "--models", str(serve.models), "--listen", listen]
    command += ["--providers", ",".join(serve.providers), "--grace", f"{serve.drain_timeout // MILLISECOND}ms"]
    if serve.threads is not None:
        command += ["--threads", str(serve.threads)]
    return [*command, "--die-with-parent", str(os.getpid()), *serve.args]


def new_listen_address(serve: ServeConfig, pool: str, index: int, runtime_dir: Path) -> str:
    """An address that no start of any model server has had before.

    State is keyed by address (health, in-flight counts, connections and their back-off in every worker), and exchanges
    of the process before may still be under way, so a restarted one must not inherit its name. The price is that keyed
    policies see a new endpoint: its share of the keys moves, as it does to a new pod in Kubernetes; the caches that
    affinity is for died with the process anyway. Raises StartError when a socket's path would be too long.
    """
    if serve.listen == "tcp":
        return "127.0.0.1:0"  # the kernel chooses; the server says what
    path = runtime_dir / f"{quote(pool, safe='')}-{index}-{secrets.token_hex(4)}.sock"
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise StartError(f"{path} is longer than the {UNIX_PATH_MAX} bytes a socket's path may have")
    return f"unix:{path}"


class ServerProcess:
    """A running model server in a process group of its own, on the running loop.

    `on_line(text)` gets what it writes; `on_exit(code)` is called from the loop the moment it is gone, after its last
    line: the exit status, or minus the number of the signal that ended it. Its group is gone then, too.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        on_exit: Callable[[int], None],
    ) -> None:
        """Raises StartError when no process can be made. Call it in the main thread, for --die-with-parent."""
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        try:
            reading, writing = os.pipe()
        except OSError as e:
            raise StartError(f"cannot start {command[0]}: {e.strerror}") from e
        try:
            with signals.held():  # for good, or until it ignores them
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=writing,
                    stderr=writing,
                    env=environment,
                    process_group=0,
                )
        except OSError as e:
            os.close(reading)
            raise StartError(f"cannot start {command[0]}: {e.strerror or e}") from e
        finally:
            os.close(writing)
        self.pid = self._process.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as e:
            os.close(reading)
            self.signal(signal.SIGKILL)
            self._process.wait()
            raise StartError(f"cannot watch process {self.pid}: {e.strerror}") from e
        self._output = LineReader(self._loop, reading, on_line)
        self._loop.add_reader(self._pidfd, self._exited)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and what it started. The process is not reaped yet, so the group is its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _exited(self) -> None:
        # Before it is reaped: until then no other process can have its number.
        self.signal(signal.SIGKILL)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        self._output.finish()
        self._on_exit(code)
