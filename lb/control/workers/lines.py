"""Lines from a child's pipe, without a task or a transport: its last words can be read the moment its exit is seen."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

READ = 65536
MAX_LINE = 4096


class LineReader:
    """Owns the reading end `fd` of a pipe; `on_line` gets each line without its end, cut at MAX_LINE bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, on_line: Callable[[str], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._on_line = on_line
        self._rest = b""
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._read)

    @property
    def fd(self) -> int:
        return self._fd

    def finish(self) -> None:
        """Take what is in the pipe and close it, also if some other process still holds its writing end."""
        # A pipe holds 64 KiB unless enlarged; whoever writes on behind the child's back is not listened to for ever.
        for _ in range(16):
            if not self._read():
                break
        self._close()

    def _read(self) -> bool:
        """Whether there may be more."""
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._emit(line)
        return True

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._emit(self._rest)
        self._rest = b""

    def _emit(self, line: bytes) -> None:
        text = line[:MAX_LINE].decode("utf-8", "replace").rstrip()
        if text:
            self._on_line(text)
