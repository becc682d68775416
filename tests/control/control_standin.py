"""A stand-in for the data path, small enough to be obviously right, run by the real master and the real worker.

    python control_standin.py run FILE       the master, with workers that run the stand-in
    python control_standin.py --index ...    such a worker

A worker dies at its start while there is a file "die-at-start" in the working directory, and waits there while there is
"wait-at-start". It waits before it takes a plan while there is "wait-at-adopt", and notes its process in "adopting";
before an explanation while there is "wait-at-explain", with "explaining".

Every listener answers HTTP: `/` with what the worker runs, `/hold/SECONDS` after that time with the pool's first
endpoint counted as in flight. A listener whose name starts with `refused` is refused by `adopt`, `hang` blocks the
worker, `die` ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiled.shared_segment import add_inflight

from lb.config.plan.plan import ListenerPlan, Plan
from lb.control.master import Master
from lb.control.workers import worker
from lb.control.workers.backoff import RestartSettings
from lb.control.workers.fleet import FleetSettings
from lb.errors import StartError, TidegateError
from lb.proxy.exchange.explain.described import Described
from lb.shared.segment import Segment
from lb.upstream.start import Start

SECOND = 1_000_000_000
FAST = FleetSettings(
    apply_timeout=3 * SECOND,
    hang_timeout=5 * SECOND,
    fork_timeout=1 * SECOND,
    kill_grace=1 * SECOND,
    restarts=RestartSettings(initial=SECOND // 20, max=SECOND // 5),
    command=(sys.executable, str(Path(__file__).resolve())),
)


@dataclass(slots=True)
class _Accepting:
    fd: int
    socket: socket.socket


class StandInProxy:
    """The interface of lb.proxy.proxy.Proxy over asyncio streams."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, segment: Segment, access_log_fd: int = -1, wakeups: Sequence[int] = ()
    ) -> None:
        if Path("die-at-start").exists():
            os._exit(3)
        while Path("wait-at-start").exists():
            time.sleep(0.01)
        self._loop = loop
        self._segment = segment
        self._log_fd = access_log_fd
        self._plan: Plan | None = None
        self._accepting: dict[str, _Accepting] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._served = 0
        self._draining = False

    def connect(self, ask: worker.Ask, wake: worker.Wake) -> None:
        """It asks nothing."""

    def tell_start(self, pool: str, start: Start) -> None:
        """It holds no requests."""

    def adopt(self, plan: Plan, sockets: dict[str, int]) -> Iterator[None]:
        yield
        _wait_at("adopt", "adopting")
        for listener in plan.listeners:
            if listener.name.startswith("refused"):
                raise StartError("the plan is refused")
            if listener.name.startswith("hang"):
                time.sleep(3600)
            if listener.name.startswith("die"):
                os._exit(3)
        for name, accepting in list(self._accepting.items()):
            if sockets.get(name) != accepting.fd:
                self._forget(name)
        for name, fd in sockets.items():
            if name not in self._accepting:
                self._accepting[name] = _Accepting(fd, socket.socket(fileno=os.dup(fd)))
                self._loop.add_reader(self._accepting[name].socket, self._accept, name)
        self._plan = plan

    def stop_accepting(self, replaced: bool = False) -> None:
        for name in list(self._accepting):
            self._forget(name)

    def end_datagrams(self) -> None:
        pass

    def drain(self) -> None:
        self._draining = True

    def leave(self) -> None:
        self._draining = True

    def explain(self, asked: Described) -> dict[str, Any]:
        _wait_at("explain", "explaining")
        return {"pool": None}

    def busy(self) -> int:
        return self._busy

    def model_counts(self, pool: str) -> list[tuple[str, list[int]]]:
        return []

    def stats(self) -> dict[str, int]:
        return {"served": self._served, "connections": len(self._connections)}

    def comparisons(self) -> list[dict[str, Any]]:
        return []

    def tier_status(self) -> dict[str, Any] | None:
        return None

    def close(self) -> None:
        self.stop_accepting()
        for task in self._connections:
            task.cancel()

    def _forget(self, name: str) -> None:
        accepting = self._accepting.pop(name)
        self._loop.remove_reader(accepting.socket)
        accepting.socket.close()

    def _accept(self, name: str) -> None:
        try:
            connection, _ = self._accepting[name].socket.accept()
        except BlockingIOError:
            return
        task = self._loop.create_task(self._serve(name, connection))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, name: str, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            while line := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                path = line.split()[1].decode()
                self._busy += 1
                try:
                    body = await self._answer(name, path)
                finally:
                    self._busy -= 1
                close = "Connection: close\r\n" if self._draining else ""
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{close}\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
                self._served += 1
                if close:
                    break
        except ConnectionError:
            return
        finally:
            writer.close()

    async def _answer(self, name: str, path: str) -> bytes:
        assert self._plan is not None
        plan = self._plan
        if path.startswith("/hold/"):
            slot = _pool(plan, name).endpoints[0].slot
            add_inflight(self._segment, slot, 1)
            try:
                await asyncio.sleep(float(path.removeprefix("/hold/")))
            finally:
                add_inflight(self._segment, slot, -1)
        if plan.access_log.path:
            os.write(self._log_fd, f"{path}\n".encode())
        return json.dumps({"pid": os.getpid(), "listener": name, "generation": plan.generation}).encode()


def _wait_at(what: str, note: str) -> None:
    while Path(f"wait-at-{what}").exists():
        with open(note, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.01)


def _pool(plan: Plan, listener: str) -> Any:
    found: ListenerPlan = next(li for li in plan.listeners if li.name == listener)
    return plan.pools[found.pool if found.pool >= 0 else found.routes[0].pool]


class StandInAdmin:
    """The two calls of the admin API that the command line makes, on the configured address."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(
            self._serve, self._master.config.admin.bind.removeprefix("unix:")
        )

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, _ = (await reader.readline()).decode().split()
        while (await reader.readline()).strip():
            pass
        answer: dict[str, Any]
        if (method, path) == ("POST", "/api/v1/reload"):
            answer = (await self._master.reload("the stand-in")).to_dict()
        elif path == "/explain":
            answer = await self._master.explain({"headers": [], "values": []}, None)
        elif path == "/readyz":
            ready, reason = self._master.ready()
            answer = {"ready": ready, "reason": reason}
        else:
            answer = self._master.status()
        body = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()


def _master(config: Path) -> int:
    from lb.cli.run import run

    try:
        return run(config, FAST, (StandInAdmin,))
    except TidegateError as error:
        print(f"tidegate: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(_master(Path(sys.argv[2])))
    sys.exit(worker.main(data_path=StandInProxy))
