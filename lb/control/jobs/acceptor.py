"""Connections of the workers to the jobs process."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger("tidegate.jobs")

_PAUSE = 1.0  # seconds without accepting after an error of the system's, such as no file descriptor


class Acceptor:
    """Accepts all connections that wait at `listening`, each with a protocol of `make_protocol`, until `close`.

    A server of uvloop accepts one in each round of its loop (as libuv does since 1.45). A burst of submissions, each on
    a connection of its own, would find the loop busy with the first ones, and the last would wait for a second.
    """

    def __init__(self, listening: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listening = listening
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[object]] = set()
        self._again: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        self._begin()

    def close(self) -> None:
        """Accepts no more. Connections that were accepted are the protocols' to close."""
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _begin(self) -> None:
        self._again = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("a connection cannot be accepted: %s", error)
                self._loop.remove_reader(self._listening)
                self._again = self._loop.call_later(_PAUSE, self._begin)
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._make_protocol, accepted))
            self._beginning.add(task)
            task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[object]) -> None:
        self._beginning.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection cannot begin: %s", error)
