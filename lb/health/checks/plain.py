"""A check's connection to an endpoint without TLS: one question, in compiled code (lb.net.inquiry)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lb.health.check import CheckFailed
from lb.net.inquiry import Inquiry
from lb.net.poller import Poller


async def inquire(address: str, request: bytes, receive: Callable[[bytes], bool], poller: Poller | None) -> None:
    """Sends `request` to `address` and calls `receive(data)` with what comes, b"" at the end, until it returns True.
    An empty request is good once there is a connection. The connection is closed when this returns. `poller` watches
    it; None: one of its own.

    Raises OSError, CheckFailed, and what `receive` raises.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def end(error: BaseException | None) -> None:
        if over.done():
            return
        if error is None:
            over.set_result(None)
        else:
            over.set_exception(error)

    at = poller if poller is not None else Poller(loop)
    try:
        try:
            inquiry = Inquiry(at, address, request, receive, end)
        except ValueError as error:
            raise CheckFailed(str(error)) from None
        try:
            await over
        finally:
            inquiry.cancel()
    finally:
        if poller is None:
            at.close()
