"""Sessions of an endpoint that is marked down, and of backups when the first is up again; HAProxy does the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from daemon import Daemon, eventually
from ports import free_port
from proxy_peers import haproxy

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
