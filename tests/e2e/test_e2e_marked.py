"""Sessions and requests of an endpoint that is marked down; those of backups when the first is up again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from daemon import Daemon, eventually, http_listener
from ports import free_port
from proxy_peers import haproxy
from waiting import until
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Start = Callable[..., Daemon]


class Server:
    """Says its name to each client; `stop` refuses new ones and leaves those who are there alone."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.port = free_port()
        self.server: asyncio.Server | None = None
        self.writers: list[asyncio.StreamWriter] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        writer.write(self.name)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def stop(self) -> None:
        assert self.server is not None
        self.server.close()


async def session(port: int) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    return await asyncio.wait_for(reader.read(1), 20), reader, writer


async def ended(reader: asyncio.StreamReader, seconds: float = 20) -> str:
    try:
        data = await asyncio.wait_for(reader.read(1), seconds)
    except TimeoutError:
        return "open"
    except ConnectionError:
        return "reset"
    return "closed" if data == b"" else "data"


def pool(*endpoints: Any, **settings: Any) -> dict[str, Any]:
    health = {"type": "tcp", "interval": "100ms", "timeout": "1s", "fall": 1, "rise": 1}
    return {"protocol": "tcp", "policy": "round_robin", "endpoints": list(endpoints), "health": health, **settings}


async def test_sessions_end_with_their_endpoint_and_backups_with_the_return_of_the_first(
    start: Start, tmp_path: Path
) -> None:
    one, two = Server(b"1"), Server(b"2")
    await one.start()
    await two.start()
    ranked = [{"address": one.address, "priority": 0}, {"address": two.address, "priority": 1}]
    config = {
        "workers": 2,
        "log": {"access": str(tmp_path / "access.log")},
        "listeners": {
            name: {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": name} for name in ("ends", "keeps", "ranked")
        },
        "pools": {
            "ends": pool(one.address, two.address, on_marked_down="shutdown_sessions"),
            "keeps": pool(one.address, two.address),
            "ranked": pool(
                *ranked, on_marked_down="shutdown_sessions", on_marked_up="shutdown_backup_sessions",
                priorities={"spill": "none"},
            ),
        },
    }  # fmt: skip
    daemon = await asyncio.to_thread(start, config)
    ports = {name: await asyncio.to_thread(daemon.port, name) for name in config["listeners"]}  # type: ignore[attr-defined]
    peer = free_port()
    body = (
        f"listen ends\n  mode tcp\n  bind 127.0.0.1:{peer}\n  balance roundrobin\n"
        "  default-server check inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions\n"
        f"  server one {one.address}\n  server two {two.address}\n"
    )

    def is_now(name: str, wanted: str) -> bool:
        found = next(e for e in daemon.pool(name)["endpoints"] if e["address"] == one.address)
        return bool(found["health"] == wanted)

    async def healthy(wanted: str, *names: str) -> None:
        for name in names:
            await asyncio.to_thread(eventually, partial(is_now, name, wanted), f"{name} {wanted}")

    with haproxy(tmp_path, body, peer):
        held = {}
        for name, port in (*ports.items(), ("haproxy", peer)):
            for _ in range(1 if name == "ranked" else 6):
                said, *streams = await session(port)
                held.setdefault((name, said), []).append(streams)
        one.stop()
        for name in ("ends", "haproxy", "ranked"):
            for reader, _ in held[name, b"1"]:
                assert await ended(reader) in ("reset", "closed")
        await healthy("down", "ends", "keeps", "ranked")
        for key in (("ends", b"2"), ("haproxy", b"2"), ("keeps", b"1"), ("keeps", b"2")):
            for reader, _ in held[key]:
                assert await ended(reader, 0.05) == "open", key

    # The second is only the backup of the first: its sessions end when that is back, and nobody else's do.
    said, backup, _ = await session(ports["ranked"])
    assert said == b"2"
    await one.start()
    assert await ended(backup) == "reset"
    await healthy("up", "ends", "keeps", "ranked")
    for key in (("ends", b"2"), ("keeps", b"1"), ("keeps", b"2")):
        for reader, _ in held[key]:
            assert await ended(reader, 0.05) == "open", key
    said, first, _ = await session(ports["ranked"])
    assert said == b"1"

    # Maintenance is down, too; sessions that begin meanwhile elsewhere are not touched.
    assert (await asyncio.to_thread(daemon.command, "maintenance", "ranked", one.address)).returncode == 0
    assert await ended(first) == "reset"

    def told() -> bool:
        log = (tmp_path / "access.log").read_text()
        return log.count('"reason":"marked"') == len(held["ends", b"1"]) + 3

    await asyncio.to_thread(eventually, told, "lines of the access log")
    assert await asyncio.to_thread(daemon.in_flight) == sum(len(held[key]) for key in held if key[0] == "keeps") + len(
        held["ends", b"2"]
    )
    for streams in held.values():
        for _, writer in streams:
            writer.close()
    for writer in (*one.writers, *two.writers):
        writer.close()
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "the end of all sessions")
    one.stop()
    two.stop()


class Web:
    """An HTTP server that answers with its name; it does not answer `/hang-NAME`, and `/part-NAME` in part only."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ")[1].decode()
                if path.endswith(f"-{self.name}"):
                    self.held += 1
                    if path.startswith("/part"):
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self.name), self.name.encode()))

    async def start(self) -> str:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()


async def asked(port: int, path: str, method: str = "GET") -> str:
    """The answer's status and body, "cut" where it is not whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await asyncio.wait_for(reader.readexactly(length), 20)
    except (ConnectionError, asyncio.IncompleteReadError):
        return "cut"
    finally:
        writer.close()
    return f"{head.split(b' ')[1].decode()} {body.decode()}"


async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def talk(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


async def test_websockets_streams_and_requests_end_with_their_endpoint(start: Start, tmp_path: Path) -> None:
    one, two = Web("1"), Web("2")
    first, second = await one.start(), await two.start()
    calls = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {"Both": grpc.stream_stream_rpc_method_handler(echo)}
    calls.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", handlers),))
    called = f"127.0.0.1:{calls.add_insecure_port('127.0.0.1:0')}"
    await calls.start()
    ends = {"on_marked_down": "shutdown_sessions"}
    async with serve(talk, "127.0.0.1", 0) as sockets:
        chat = f"127.0.0.1:{next(iter(sockets.sockets)).getsockname()[1]}"
        ranked = [{"address": first, "priority": 0}, {"address": second, "priority": 1}]
        outlier = {"consecutive_gateway_failure": 1}
        daemon = await asyncio.to_thread(
            start,
            {
                "workers": 2,
                "log": {"access": str(tmp_path / "access.log")},
                "listeners": {name: http_listener({"pool": name}) for name in ("web", "chat", "keeps", "calls")},
                "pools": {
                    "web": {
                        "protocol": "http", "endpoints": ranked, "priorities": {"spill": "none"}, "outlier": outlier,
                        "on_marked_up": "shutdown_backup_sessions", **ends,
                    },
                    "chat": {"protocol": "http", "endpoints": [chat], **ends},
                    "keeps": {"protocol": "http", "endpoints": [chat]},
                    "calls": {"protocol": "grpc", "endpoints": [called], **ends},
                },
            },
        )  # fmt: skip
        ports = {name: await asyncio.to_thread(daemon.port, name) for name in ("web", "chat", "keeps", "calls")}

        async def operate(what: str, pool: str, address: str) -> None:
            done = await asyncio.to_thread(daemon.command, what, pool, address)
            assert done.returncode == 0, done.stderr

        async def held(server: Web, count: int) -> None:
            await until(lambda: server.held == count, f"{count} requests at {server.name}")

        async with (
            connect(f"ws://127.0.0.1:{ports['chat']}/") as ended_one,
            connect(f"ws://127.0.0.1:{ports['keeps']}/") as kept,
            grpc.aio.insecure_channel(f"127.0.0.1:{ports['calls']}") as channel,
        ):
            for each in (ended_one, kept):
                await each.send("a")
                assert await asyncio.wait_for(each.recv(), 20) == "a"
            call = channel.stream_stream("/test.Kinds/Both")(timeout=60)
            await call.write(b"a")
            assert await call.read() == b"a"
            retried, failed, cut = (
                asyncio.create_task(asked(ports["web"], path, method))
                for path, method in (("/hang-1", "GET"), ("/hang-1", "POST"), ("/part-1", "GET"))
            )
            await held(one, 3)
            for pool, address in (("web", first), ("chat", chat), ("keeps", chat), ("calls", called)):
                await operate("maintenance", pool, address)
            assert await retried == "200 2"
            status, body = (await failed).split(" ", 1)
            assert status == "502"
            assert "marked down" in body
            assert await cut == "cut"
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(ended_one.recv(), 20)
            assert closed.value.rcvd is None  # no frame of ours within the endpoint's stream
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await call.read()
            assert (told.value.code(), told.value.details()) == (
                grpc.StatusCode.UNAVAILABLE,
                "the endpoint was marked down",
            )
            await kept.send("b")
            assert await asyncio.wait_for(kept.recv(), 20) == "b"

        # The backup's end when the first is back, and it is not ejected for that.
        relieved = [asyncio.create_task(asked(ports["web"], "/hang-2", method)) for method in ("GET", "POST")]
        await held(two, 2)
        await operate("enable", "web", first)
        assert await relieved[0] == "200 1"
        assert (await relieved[1]).startswith("502 ")
        backup = next(e for e in (await asyncio.to_thread(daemon.pool, "web"))["endpoints"] if e["address"] == second)
        assert backup["steering"]["ejection_state"] == "well", backup
        await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "the end of all requests")

        def told_reasons() -> bool:
            return (tmp_path / "access.log").read_text().count('"reason":"marked"') == 5

        await asyncio.to_thread(eventually, told_reasons, "lines of the access log")
    await calls.stop(0)
    one.close()
    two.close()
