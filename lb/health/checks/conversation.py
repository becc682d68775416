"""What a check and a server say to each other over one connection, in bounds that the server cannot move."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from lb.health.check import CheckFailed, explain, shown
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import Wire, connected

LARGEST = 65_536  # bytes that are read at most for one answer
_READ = 16_384


class Conversation:
    """Reads answers piece by piece; what came behind an answer is the beginning of the next one. Methods raise OSError,
    and CheckFailed where the server closes or goes on too long."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.came = b""  # and was not taken yet

    async def send(self, data: bytes) -> None:
        await self._wire.send(data)

    async def more(self) -> None:
        """Reads what comes next. Raises CheckFailed at the end."""
        if len(self.came) >= LARGEST:
            raise CheckFailed(f"{LARGEST} bytes came without the answer that was waited for")
        received = await self._wire.receive(_READ)
        if not received:
            seen = f" after {_quoted(self.came)}" if self.came else " without an answer"
            raise CheckFailed(f"the connection was closed{seen}")
        self.came += received

    def take(self, size: int) -> bytes:
        """The first `size` bytes that came."""
        taken, self.came = self.came[:size], self.came[size:]
        return taken

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self.came) < size:
            await self.more()
        return self.take(size)

    async def line(self) -> bytes:
        """The next line, without its end (CRLF or LF)."""
        while b"\n" not in self.came:
            await self.more()
        return self.take(self.came.index(b"\n") + 1).rstrip(b"\r\n")


@contextlib.asynccontextmanager
async def conversation(address: str, tls: CheckTls | None, header: bytes) -> AsyncIterator[Conversation]:
    """A conversation over a new connection, which `header` begins. Raises CheckFailed, also for what its body raises as
    OSError."""
    try:
        async with connected(address, tls, header=header) as wire:
            yield Conversation(wire)
    except OSError as e:
        raise CheckFailed(explain(e)) from e


@contextlib.contextmanager
def waiting_for(what: str, conversation: Conversation) -> Iterator[None]:
    """A wait that is given up says what it was for, to whoever reads why the check failed."""
    try:
        yield
    except asyncio.CancelledError as e:
        raise asyncio.CancelledError(f"{what}; {_quoted(conversation.came)} came") from e


def _quoted(data: bytes) -> str:
    return repr(shown(data.decode("latin-1"), 80)) if data else "nothing"
