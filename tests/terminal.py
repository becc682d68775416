"""A program at a terminal, as a user has it: what is typed, and what it shows."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from collections.abc import Mapping
from pathlib import Path


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, command: list[str], folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(folder), **(variables or {})}
            os.execvpe(command[0], command, environment)

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def shows(self, text: str, seconds: float = 30) -> str:
        """What came until `text` did."""
        got = ""
        end = time.monotonic() + seconds
        while text not in got:
            ready, _, _ = select.select([self._file], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{text!r} is not in {got!r}"
            got += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x07|\x1b[=>]", "", os.read(self._file, 65536).decode())
        return got

    def close(self) -> None:
        os.close(self._file)
        os.waitpid(self.pid, 0)
