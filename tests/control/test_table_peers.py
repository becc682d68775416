"""Tables shared by a real Redis that loses answers, is full of other things, or is none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis
from tier_servers import CuttingRelay, TierServers

from lb.clock import MonotonicClock
from lb.config.schema.tables import PeersConfig, TableConfig, table_plan
from lb.control import table_peers
from lb.control.kept_tables import TablesBefore
from lb.control.table_peers import FIELD, Message, Row, Sealer, TablePeers
from lb.control.tables import TableKeeper
from lb.control.upgrade.handover import SharedTableHandover
from lb.shared.segment import Segment
from lb.shared.stick_tables import StickTable

SECRET = b"a secret that all of the daemons have in common"
ALLOWED = ("+xadd", "+xread", "+pexpire", "+time")
USER = "\U000f0010header.x-user\U000f0012"


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TierServers]:
    made = TierServers(request.param, tmp_path)
    start(made)
    yield made
    made.stop()


def start(server: TierServers) -> None:
    """With a user that may do what docs/howto/limit-by-key.md says."""
    server.start()
    with redis.Redis(port=server.ports[0]) as client:
        client.execute_command("ACL", "SETUSER", "lb", "on", ">hidden", "~tidegate:*", "~another:*", *ALLOWED)


class Peer:
    """What the master has of peers, over a segment with one worker."""

    def __init__(
        self,
        folder: Path,
        port: int,
        secret: bytes = SECRET,
        before: TablesBefore | None = None,
        handed: tuple[tuple[SharedTableHandover, ...], int] = ((), 0),
        **table: Any,
    ) -> None:
        file = folder / f"secret-{len(secret)}"
        file.write_bytes(secret)
        self.segment = Segment.create(
            1, endpoint_capacity=1, series_capacity=1, stick_sets=4096, stick_secret=before.secret if before else None
        )
        self.keeper = TableKeeper(self.segment, MonotonicClock(), before, handed[0])
        self.port, self.file = port, file
        self.apply(**table)
        config = lambda: self.config  # noqa: E731
        self.peers = TablePeers(self.keeper, config, MonotonicClock(), handed[1])  # type: ignore[arg-type]

    def apply(self, prefix: str = "tidegate:", **table: Any) -> None:
        """A reload."""
        stored: dict[str, Any] = {
            "key": USER,
            "size": 1000,
            "store": ["requests", "request_rate(1h)", "gpt0"],
            "shared": True,
        }
        tables = {name: TableConfig(**(stored | table)) for name in ("users", "others")}
        url = f"redis://lb:hidden@127.0.0.1:{self.port}/0"
        peers = PeersConfig(redis={"url": url}, secret_file=self.file, prefix=prefix)
        places = self.keeper.places(tables)
        plans = [table_plan(name, each, places[name]) for name, each in tables.items()]
        self.keeper.commit(plans)
        self.worker = StickTable(Segment.attach(os.dup(self.segment.fd), 0), plans[0])
        self.config = SimpleNamespace(peers=peers)

    def count(self, key: bytes, n: int = 1) -> None:
        ref = self.worker.track(key)
        assert ref is not None
        self.worker.count(ref, "requests", n)
        self.worker.let_go(ref)

    def value(self, key: str, field: str = "requests") -> int:
        rows = self.keeper.entries("users", key)
        return rows[0][field] if rows else 0

    def status(self) -> dict[str, Any]:
        status = self.peers.status()
        assert status is not None
        return status

    async def upgraded(self, folder: Path, **table: Any) -> Peer:
        """The next program, with one worker of this one that drains."""
        before = TablesBefore(Segment.attach(os.dup(self.segment.fd)), self.keeper.kept)
        async with self.peers.handed_over() as handed:
            wire = msgspec.msgpack.decode(msgspec.msgpack.encode(handed), type=type_of_handed)
            return Peer(folder, self.port, before=before, handed=wire, **table)

    async def close(self) -> None:
        self.keeper.let_go()
        await self.peers.close()
        self.segment.close()


type_of_handed = tuple[tuple[SharedTableHandover, ...], int]


@pytest.fixture
async def made() -> AsyncIterator[list[Peer]]:
    peers: list[Peer] = []
    yield peers
    for peer in peers:
        await peer.close()


async def test_a_message_whose_answer_is_lost_counts_once(
    server: TierServers, tmp_path: Path, made: list[Peer]
) -> None:
    async with CuttingRelay(server.ports[0]) as relay:
        one, two = Peer(tmp_path, relay.port), Peer(tmp_path, server.ports[0])
        made += [one, two]
        assert await one.peers.exchange()
        for n, key in enumerate((b"anna", b"anna", b"bert"), 1):
            one.count(key)
            relay.left = 0  # what is asked reaches the server, no answer comes back
            assert not await one.peers.exchange()
            assert await two.peers.exchange()
            assert sum(two.value(each) for each in ("anna", "bert")) == n  # it has arrived
            relay.left = None
            assert await one.peers.exchange()
            assert await one.peers.exchange()
            assert await two.peers.exchange()
            assert sum(two.value(each) for each in ("anna", "bert")) == n
        assert (two.value("anna"), two.value("bert"), one.value("anna")) == (2, 1, 2)
        assert relay.cut >= 3
        # A daemon that starts finds what the stream has, its own predecessor's counts included.
        three = Peer(tmp_path, server.ports[0])
        made.append(three)
        assert await three.peers.exchange()
        assert (three.value("anna"), three.value("bert")) == (2, 1)
        # So does one that reads it all once more, without counting it twice.
        three.apply("another:")
        assert await three.peers.exchange()
        three.apply()
        assert await three.peers.exchange()
        assert (three.value("anna"), three.value("bert")) == (2, 1)
        await three.peers.exchange()


async def test_an_upgrade_goes_on_as_the_same_sender(
    server: TierServers, tmp_path: Path, made: list[Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with CuttingRelay(server.ports[0]) as relay:
        one, two = Peer(tmp_path, relay.port), Peer(tmp_path, server.ports[0])
        made.append(two)
        for peer, key in ((one, b"anna"), (two, b"anna"), (two, b"bert")):
            peer.count(key, 5)
            assert await peer.peers.exchange()
        one.keeper.put("users", "carl", {"gpt0": 7})
        assert await one.peers.exchange()
        assert await two.peers.exchange()
        # A message whose answer was lost, and what was counted since; a message of the other that was not read.
        one.count(b"anna")
        relay.left = 0
        assert not await one.peers.exchange()
        relay.left = None
        one.count(b"anna")
        two.count(b"bert")
        assert await two.peers.exchange()
        after = await one.upgraded(tmp_path)
        made.append(after)
        one.count(b"dora")  # by a worker that drains
        after.keeper.bring()
        assert [after.value(key) for key in ("anna", "bert", "dora")] == [12, 5, 1]
        for _ in range(2):
            assert await after.peers.exchange()
            assert await two.peers.exchange()
        for peer in (after, two):
            assert [peer.value(key) for key in ("anna", "bert", "dora")] == [12, 6, 1]
            assert peer.value("carl", "gpt0") == 7
        assert two.status()["received"] == 4, "and none twice"

        # A table that is laid out otherwise begins with what the stream has, the predecessor's messages included.
        third = await after.upgraded(tmp_path, size=2000)
        made.append(third)
        assert third.value("anna") == 0
        assert await third.peers.exchange()
        assert [third.value(key) for key in ("anna", "bert", "dora")] == [12, 6, 1]
        assert await two.peers.exchange()
        assert [two.value(key) for key in ("anna", "bert", "dora")] == [12, 6, 1]
        await one.peers._disconnect()
        one.segment.close()

        # A server that keeps an exchange for long does not keep an upgrade.
        monkeypatch.setattr(table_peers, "HANDOVER", 0.05)
        async with third.peers._busy:
            fourth = await third.upgraded(tmp_path, size=2000)
        made.append(fourth)
        assert fourth.value("anna") == 0
        assert await fourth.peers.exchange()
        assert [fourth.value(key) for key in ("anna", "bert", "dora")] == [12, 6, 1]


async def test_a_reload_keeps_what_peers_know(server: TierServers, tmp_path: Path, made: list[Peer]) -> None:
    one, two = Peer(tmp_path, server.ports[0]), Peer(tmp_path, server.ports[0])
    made += [one, two]
    one.count(b"anna", 5)
    assert await one.peers.exchange()
    one.apply(expire="1h")
    one.count(b"anna")
    assert await one.peers.exchange()
    assert await two.peers.exchange()
    assert (one.value("anna"), two.value("anna")) == (6, 6)
    # Another meaning of the table is another stream: nothing of it is added to this one.
    two.apply(store=["requests"])
    two.count(b"anna", 100)
    assert await two.peers.exchange()
    assert await one.peers.exchange()
    assert one.value("anna") == 6


async def test_messages_of_others_are_ignored(server: TierServers, tmp_path: Path, made: list[Peer]) -> None:
    one, stranger = Peer(tmp_path, server.ports[0]), Peer(tmp_path, server.ports[0], b"another secret, " * 3)
    made += [one, stranger]
    stranger.count(b"anna", 7)
    assert await stranger.peers.exchange()
    one.count(b"carla")
    assert await one.peers.exchange()
    assert (one.value("anna"), one.status()["ignored"]) == (0, 1)
    with redis.Redis(port=server.ports[0]) as client:
        (name,) = [each for each in client.scan_iter() if b"users" in each]
        stream = name.decode()
        (data,) = [fields[FIELD] for _, fields in client.xrange(name) if Sealer(SECRET).open(stream, fields[FIELD])]
        assert b"carla" not in data
        assert 0 < client.pttl(name) <= 600_000
        sealer = Sealer(SECRET)
        counts = [1] * 6
        row: Any = Row(b"anna", counts, counts, None)
        bad: list[Any] = [
            sealer.seal(stream + "x", Message(b"s" * 16, 1, [row])),  # of another stream
            sealer.seal(stream, Message(b"s" * 16, 1, [msgspec.structs.replace(row, counts=[1] * 5)])),
            sealer.seal(stream, Message(b"s" * 16, 1, [msgspec.structs.replace(row, counts=[-1] * 6)])),
            sealer.seal(stream, Message(b"s" * 16, 1, [msgspec.structs.replace(row, key=b"x" * 89)])),
            sealer.seal(stream, Message(b"s" * 15, 1, [row])),
            data[:-1],
            data[:12],
            b"",
            os.urandom(300),
        ]
        for each in bad:
            client.xadd(name, {FIELD: each})
        client.xadd(name, {b"else": b"1"})
        good = sealer.seal(stream, Message(b"s" * 16, 1, [row]))
        for _ in range(3):  # whoever can write there repeats what he has seen
            client.xadd(name, {FIELD: good})
            client.xadd(name, {FIELD: data})
    assert await one.peers.exchange()
    assert (one.value("anna"), one.value("carla")) == (1, 1)
    assert (one.status()["ignored"], one.status()["received"]) == (1 + len(bad) + 1, 1)
    assert (one.status()["dropped"], one.status()["failures"]) == (0, 0)
    with redis.Redis(port=server.ports[0]) as client:  # what is older than an entry may be
        client.delete(name)
        client.xadd(name, {FIELD: sealer.seal(stream, Message(b"s" * 16, 2, [row]))}, id="1-1")
    late = Peer(tmp_path, server.ports[0])
    made.append(late)
    assert await late.peers.exchange()
    status = late.status()
    assert (late.value("anna"), status["received"], status["dropped"], status["lag_s"]) == (0, 1, 1, 365 * 86400)
    assert 0 <= status["exchanged_s"] < 100


async def test_a_stream_that_is_something_else_hinders_no_other_table(
    server: TierServers, tmp_path: Path, made: list[Peer], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = Peer(tmp_path, server.ports[0]), Peer(tmp_path, server.ports[0])
    made += [one, two]
    assert one.keeper.put("others", "anna", {"gpt0": 4}) is None
    with redis.Redis(port=server.ports[0]) as client:
        client.set(f"tidegate:table:users:{one.keeper.shared()[0].meaning[:16]}", b"foreign")
    one.count(b"anna")
    for _ in range(2):
        assert not await one.peers.exchange()
        assert not await two.peers.exchange()
    assert two.keeper.entries("others", "anna")[0]["gpt0"] == 4
    assert "WRONGTYPE" in one.status()["trouble"]
    assert "hidden" not in str(one.status()) + caplog.text
    # What could not be told is told once it can.
    server.stop()
    start(server)
    assert await one.peers.exchange()
    assert await two.peers.exchange()
    assert (two.value("anna"), one.status()["trouble"]) == (1, None)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n" * 20, b"*-1\r\n" * 20, b":7\r\n" * 20, b"$-1\r\n" * 20,
     b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n:3\r\n" * 20, b"-ERR no\r\n" * 20, b"\0\r\n" * 20, b""],
    ids=["http", "ok", "null", "number", "nothing", "nested", "error", "zeros", "closed"],
)  # fmt: skip
async def test_a_server_that_is_none_is_trouble_and_no_more(tmp_path: Path, made: list[Peer], answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1 << 16):
                writer.write(answer)
                if not answer:
                    break
        except OSError:
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        one = Peer(tmp_path, listening.sockets[0].getsockname()[1])
        made.append(one)
        one.count(b"anna")
        assert not await one.peers.exchange()
        assert one.status()["trouble"]
        assert one.value("anna") == 1
