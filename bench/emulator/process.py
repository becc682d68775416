"""A fleet in this process: ports, the event loop, and its end."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import time
from collections.abc import Callable

import uvloop

from bench.emulator.agenda import Agenda
from bench.emulator.control import Control, ControlConnection
from bench.emulator.listener import Newcomer
from bench.emulator.server import ModelServer
from bench.emulator.spec import Fleet
from bench.errors import BenchError
from bench.load.pacer import Pacer

_BACKLOG = 4096


def serve(fleet: Fleet, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; says one line that begins with `listening` when all ports take connections.

    Raises BenchError if a port is taken or an empirical file unusable.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_serve(fleet, say))


async def _serve(fleet: Fleet, say: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    epoch = time.monotonic_ns() if fleet.epoch == "process" else None
    agenda = Agenda()
    servers = [ModelServer(spec, i, fleet.seed, agenda, epoch) for i, spec in enumerate(fleet.servers)]
    sockets = [listen(fleet.host, spec.port) for spec in fleet.servers]
    ports = [listener.getsockname()[1] for listener in sockets]
    control_socket = listen(fleet.host, fleet.control_port)
    control = Control(servers, ports, agenda, epoch)
    pacer = Pacer(loop, agenda.tick)
    agenda.start(pacer)
    for server, listener in zip(servers, sockets, strict=True):
        await loop.create_server(_newcomers(server), sock=listener, backlog=_BACKLOG)
    await loop.create_server(lambda: ControlConnection(control), sock=control_socket)
    say(f"listening on {' '.join(map(str, ports))} control {control_socket.getsockname()[1]}")
    await ended.wait()
    pacer.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises BenchError if the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise BenchError(f"cannot listen on port {port} of {host}: {error.strerror}") from None


def _newcomers(server: ModelServer) -> Callable[[], Newcomer]:
    return lambda: Newcomer(server)
