"""A NATS server of Debian's package nats-server, with JetStream in a folder of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from ports import free_port

COMMAND = shutil.which("nats-server") or "/usr/sbin/nats-server"


class NatsServer:
    """A server on a free port; `more` is further configuration. It begins with `start`, and may begin again."""

    def __init__(self, folder: Path, more: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._folder = folder
        self._config = folder / "nats.conf"
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{folder}/store", sync_interval: always, max_mem: 64MB, max_file: 1GB }}\n{more}'
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def start(self) -> None:
        """Until it takes connections."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([COMMAND, "-c", str(self._config)], stdout=log, stderr=log)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            assert self._process.poll() is None, self.log
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(self.log)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
