"""The contract of cache tiers, which every kind of server keeps, against real servers. Asserted on content: an answer
is the one that was put, or none."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tier_servers import KINDS, SECRET, CuttingRelay, TierServers, make_tier
from waiting import until

from lb.cache.tiers.entry import Codec, Entry
from lb.cache.tiers.keys import entry_name, short_tag_name, tag_name
from lb.cache.tiers.registry import store
from lb.cache.tiers.tier import MOST_IN_FLIGHT, NOTHING, QUEUE, Found, Tier
from lb.config.plan.tier import TierPlan
from lb.config.units import HOUR, MILLISECOND, SECOND

TAGS = (b"model:chat", b"version:chat/3")


def key_of(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=32).digest()


def value_of(number: int, size: int = 700) -> bytes:
    """What the model answers to request `number`, and to no other."""
    return hashlib.shake_128(str(number).encode()).digest(size)


def entry_of(value: bytes, found: Found, fresh: int = HOUR, stale: int = HOUR) -> Entry:
    assert found.generations is not None
    now = time.time_ns()
    return Entry(value, now + fresh, now + fresh + stale, 1500, found.generations)


@asynccontextmanager
async def running(plan: TierPlan, told: list[bytes | None] | None = None) -> AsyncIterator[Tier]:
    tier = make_tier(plan, told)
    tier.start()
    try:
        await until(lambda: tier.available, f"the tier is up: {tier.status().last_error}")
        yield tier
    finally:
        await tier.stop()


async def filled(tier: Tier, number: int, tags: tuple[bytes, ...] = TAGS, **times: int) -> Entry:
    """Puts the answer to a request that was a miss, and returns when the server has it."""
    found = await tier.get(key_of(number), tags)
    entry = entry_of(value_of(number), found, **times)
    stored = tier.counts.stored
    assert tier.put(key_of(number), entry)
    await until(lambda: tier.counts.stored > stored)
    return entry


@pytest.fixture(params=KINDS)
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TierServers]:
    made = TierServers(request.param, tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture(params=["redis", "memcached"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TierServers]:
    """One server of each protocol, for what does not go by how many there are."""
    made = TierServers(request.param, tmp_path)
    made.start()
    yield made
    made.stop()


async def test_what_one_daemon_puts_every_daemon_gets(servers: TierServers) -> None:
    async with running(servers.plan()) as here, running(servers.plan()) as there:
        for number in range(20):
            assert (await there.get(key_of(number), TAGS)).entry is None
        entries = [await filled(here, number) for number in range(20)]
        for number, entry in enumerate(entries):
            assert (await there.get(key_of(number), TAGS)).entry == entry
        assert (there.counts.hits, there.counts.misses) == (20, 20)
        assert here.counts.dropped == here.counts.errors == here.counts.timeouts == 0
        # One who asks with other tags, or another secret, finds nothing.
        assert (await there.get(key_of(0), TAGS[:1])).entry is None
        async with running(servers.plan(secret=SECRET[1:])) as stranger:
            assert (await stranger.get(key_of(0))).entry is None


async def test_large_values_come_back_whole(server: TierServers) -> None:
    async with running(server.plan()) as tier:
        for number, size in enumerate((0, 1, 1 << 16, 3 << 20)):
            value = value_of(number, size)
            assert tier.put(key_of(number), entry_of(value, await tier.get(key_of(number), TAGS)))
            await until(lambda number=number: tier.counts.stored == number + 1)
            found = (await tier.get(key_of(number), TAGS)).entry
            assert found is not None
            assert found.value == value


async def test_what_has_expired_is_a_miss(server: TierServers) -> None:
    async with running(server.plan()) as tier:
        await filled(tier, 1, fresh=0, stale=300 * MILLISECOND)
        found = await tier.get(key_of(1), TAGS)
        assert found.entry is None or found.entry.fresh_until <= time.time_ns()  # stale, and said to be

        await asyncio.sleep(0.4)
        assert (await tier.get(key_of(1), TAGS)).entry is None
        stale = entry_of(b"", await tier.get(key_of(1), TAGS), fresh=-2 * SECOND, stale=SECOND)
        assert not tier.put(key_of(1), stale)


async def test_the_server_forgets_after_the_longest_time(server: TierServers) -> None:
    async with running(server.plan(ttl_max_ns=SECOND)) as tier:
        await filled(tier, 1)
        name = entry_name(b"tidegate:", key_of(1))
        assert server.read(name) is not None
        await until(lambda: server.read(name) is None)


async def test_one_daemon_refreshes_a_stale_entry(servers: TierServers) -> None:
    async with running(servers.plan()) as here, running(servers.plan()) as there:
        for number in range(5):
            claims = await asyncio.gather(*(tier.claim(key_of(number)) for tier in (here, there) * 5))
            assert sum(claims) == 1


# Purges.


async def test_a_purge_is_of_its_tag_and_for_every_daemon(servers: TierServers) -> None:
    async with running(servers.plan()) as here, running(servers.plan()) as there:
        chat = await filled(here, 1, (b"model:chat",))
        code = await filled(here, 2, (b"model:code",))
        await there.purge(b"model:chat")
        for tier in (here, there):
            assert (await tier.get(key_of(1), (b"model:chat",))).entry is None
            assert (await tier.get(key_of(2), (b"model:code",))).entry == code
        again = await filled(there, 1, (b"model:chat",))
        assert again.tags != chat.tags
        assert (await here.get(key_of(1), (b"model:chat",))).entry == again


async def test_a_purge_during_a_fill_wins(servers: TierServers) -> None:
    async with running(servers.plan()) as here, running(servers.plan()) as there:
        found = await here.get(key_of(1), TAGS)
        await there.purge(TAGS[0])
        here.put(key_of(1), entry_of(b"of the model before", found))
        await until(lambda: here.counts.stored == 1)
        for tier in (here, there):
            assert (await tier.get(key_of(1), TAGS)).entry is None


async def test_purges_at_random_among_fills_never_leave_an_answer_of_before(servers: TierServers) -> None:
    """The model's version goes up, with a purge after each; what a get gives after the purge is of this version or a
    later one, however gets, puts and purges of two daemons interleave."""
    version = purged = 0
    over = False

    async def ask(tier: Tier, number: int) -> None:
        while not over:
            least = purged
            found = await tier.get(key_of(number), TAGS)
            if found.entry is not None:
                assert int(found.entry.value) >= least
            elif found.generations is not None:
                value = b"%d" % version
                await asyncio.sleep(0.002 * (number % 3))
                tier.put(key_of(number), entry_of(value, found))

    async with running(servers.plan()) as here, running(servers.plan()) as there:
        asking = [asyncio.ensure_future(ask(tier, number)) for tier in (here, there) for number in range(4)]
        for i in range(40):
            await asyncio.sleep(0.01)
            version += 1
            now = version
            await (here, there)[i % 2].purge(TAGS[i % 2])
            purged = max(purged, now)
        over = True
        await asyncio.gather(*asking)
        assert here.counts.hits + there.counts.hits > 40
        assert here.counts.errors + there.counts.errors == 0


async def test_a_purge_while_the_server_is_away_is_not_lost(server: TierServers) -> None:
    async with running(server.plan(timeout_ns=200 * MILLISECOND, connect_timeout_ns=500 * MILLISECOND)) as tier:
        await filled(tier, 1)
        server.pause()
        purge = tier.purge(TAGS[0])
        await until(lambda: tier.status().state != "closed")
        assert (await tier.get(key_of(1), TAGS)).entry is None
        assert not purge.done()
        server.resume()
        await purge
        assert (await tier.get(key_of(1), TAGS)).entry is None
        assert tier.status().pending_purges == 0


@pytest.mark.parametrize("kind", ["redis", "valkey", "redis cluster", "redis sentinel"])
async def test_purges_by_others_are_told_where_the_servers_tell(kind: str, tmp_path: Path) -> None:
    servers = TierServers(kind, tmp_path)
    servers.start()
    try:
        told: list[bytes | None] = []
        async with running(servers.plan(), told), running(servers.plan()) as there:
            await until(lambda: len(_listeners(servers)) == 2 * len(servers.ports))
            listening = _listeners(servers)
            for number in range(8):  # on all nodes of a cluster
                await there.purge(b"tag %d" % number)
            await until(lambda: set(told) == {b"tag %d" % number for number in range(8)})
            # Entries come and go without a word, and so do first generations; and nothing of that ends the listening.
            told.clear()
            for number in range(20):
                await filled(there, number, (b"new tag %d" % number, b"newer tag %d" % number))
            servers.write(b"tidegate:g:last", b"")
            await until(lambda: bool(told))
            assert told == [b"last"]
            assert _listeners(servers) == listening
            # What was missed meanwhile may be any tag.
            servers.kill()
            servers.start()
            await until(lambda: None in told)
    finally:
        servers.stop()


async def test_purges_in_quick_succession_are_no_silence(tmp_path: Path) -> None:
    """A push is a word of the server, whether it has answered a PING meanwhile or not."""
    told: list[bytes | None] = []
    pushes = [b">2\r\n$10\r\ninvalidate\r\n*1\r\n$13\r\ntidegate:g:%d\r\n" % number for number in range(10, 20)]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.readuntil(b"\r\n"):
            parts = []
            for _ in range(int(command[1:])):
                size = int((await reader.readuntil(b"\r\n"))[1:])
                parts.append((await reader.readexactly(size + 2))[:-2].upper())
            if parts[0] == b"HELLO":
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            elif parts[0] != b"PING":
                writer.write(b"+OK\r\n")
            if b"TRACKING" in parts:
                for push in pushes:
                    await asyncio.sleep(0.02)
                    writer.write(push)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    servers = TierServers("redis", tmp_path)
    servers.ports = [server.sockets[0].getsockname()[1]]
    listening = store(servers.plan())
    watching = asyncio.create_task(listening.watch(told.append))
    await until(lambda: watching.done() or len(told) == 11)
    assert told == [None, *(b"%d" % number for number in range(10, 20))]
    assert not watching.done()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await listening.close()
    server.close()


def _listeners(servers: TierServers) -> set[tuple[int, str]]:
    """The connections that are told."""
    import redis

    found = set()
    for port in servers.ports:
        with redis.Redis(port=port) as client:
            found |= {(port, one["id"]) for one in client.client_list() if "t" in one["flags"]}
    return found


# Servers that fail.


@pytest.mark.parametrize("kind", ["redis", "valkey", "redis cluster", "redis sentinel", "memcached", "memcacheds"])
async def test_servers_that_are_killed_under_load_and_come_back(kind: str, tmp_path: Path) -> None:
    servers = TierServers(kind, tmp_path)
    servers.start()
    over = False

    async def ask(tier: Tier, first: int) -> None:
        number = first
        while not over:
            number = first + (number + 7 - first) % 50
            found = await tier.get(key_of(number), TAGS)
            if found.entry is not None:
                assert found.entry.value == value_of(number)
            elif found.generations is not None:
                tier.put(key_of(number), entry_of(value_of(number), found))
            await asyncio.sleep(0.001)

    try:
        async with running(servers.plan()) as tier:
            asking = [asyncio.ensure_future(ask(tier, first)) for first in range(4)]
            for _ in range(2):
                hits = tier.counts.hits
                await until(lambda hits=hits: tier.counts.hits > hits + 50)
                servers.kill()
                await until(lambda: tier.status().state != "closed")
                assert await tier.get(key_of(1), TAGS) == NOTHING
                servers.start()
                await until(lambda: tier.available)
            hits = tier.counts.hits
            await until(lambda: tier.counts.hits > hits + 50)
            over = True
            await asyncio.gather(*asking)
            assert tier.status().opened >= 2
    finally:
        servers.stop()


async def test_one_server_of_three_that_is_away_costs_its_own_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And no time, once that has been noticed. A purge of a tag that it has waits for it, others do not."""
    servers = TierServers("memcacheds", tmp_path)
    servers.start()
    tags = [b"model:%d" % number for number in range(30)]
    try:
        async with running(servers.plan(timeout_ns=200 * MILLISECOND)) as tier:
            entries = {number: await filled(tier, number, (tag,)) for number, tag in enumerate(tags)}
            servers.processes[1].send_signal(signal.SIGSTOP)
            hits = set()

            async def ask() -> int:
                before = tier.counts.timeouts + tier.counts.errors
                hits.clear()
                for number, tag in enumerate(tags):
                    found = (await tier.get(key_of(number), (tag,))).entry
                    assert found is None or found == entries[number]
                    hits.update([number] if found is not None else [])
                return tier.counts.timeouts + tier.counts.errors - before

            while await ask() or not hits:  # the tier itself may open for a moment
                await asyncio.sleep(0.05)
            assert 0 < len(hits) < len(tags)
            assert 1 <= len(caplog.records) <= 3

            purges = [tier.purge(tag) for tag in tags]
            await until(lambda: tier.status().pending_purges < len(tags) and not tier._queue)
            await asyncio.sleep(0.2)
            pending = tier.status().pending_purges
            assert 0 < pending < len(tags)
            assert await filled(tier, min(hits), ()) is not None
            servers.resume()
            await asyncio.gather(*purges)
            await ask()
            assert not hits
            await until(lambda: tier.available)
            again = await filled(tier, 7, (b"model:7",))
            assert (await tier.get(key_of(7), (b"model:7",))).entry == again
    finally:
        servers.stop()


async def test_answers_that_are_cut_off_are_none(server: TierServers) -> None:
    """At every length: after it no answer is wrong, and the tier goes on."""
    async with CuttingRelay(server.ports[0]) as relay:
        plan = server.plan(servers=(f"127.0.0.1:{relay.port}",))
        async with running(server.plan()) as near:
            entry = await filled(near, 1)
        whole = Codec(SECRET).encode(key_of(1), entry)
        hits = 0
        for most in (*range(0, 40, 3), *range(100, 3 * len(whole), 97)):
            relay.left = None
            async with running(plan) as tier:
                relay.left = most
                for _ in range(3):
                    found = (await tier.get(key_of(1), TAGS)).entry
                    assert found is None or found == entry
                    hits += found is not None
        assert relay.cut
        assert hits


async def test_a_server_that_answers_no_more_costs_a_few_timeouts_and_then_nothing(
    server: TierServers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidegate.cache")
    async with running(server.plan(timeout_ns=100 * MILLISECOND)) as tier:
        entry = await filled(tier, 1)
        server.pause()
        tries = 0
        while tier.available:
            assert await tier.get(key_of(1), TAGS) == NOTHING
            tries += 1
        assert tries <= 5
        # A get does not even give the loop up.
        for _ in range(100):
            with pytest.raises(StopIteration) as ended:
                tier.get(key_of(1), TAGS).send(None)
            assert ended.value.value is NOTHING
        assert tier.counts.skipped >= 100
        assert not tier.put(key_of(2), entry)
        server.resume()
        await until(lambda: tier.available)
        assert (await tier.get(key_of(1), TAGS)).entry == entry
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert len([record for record in caplog.records if "used again" in record.message]) == 1


async def test_a_server_that_is_never_there_is_one_line_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("redis", "memcached"):
        caplog.clear()
        servers = TierServers(kind, Path("/nowhere"))
        tier = make_tier(servers.plan())
        tier.start()
        try:
            await until(lambda caplog=caplog: bool(caplog.records))
            for _ in range(10):
                assert await tier.get(key_of(1), TAGS) == NOTHING
                assert await tier.claim(key_of(1))
                assert not tier.put(key_of(1), Entry(b"", time.time_ns() + HOUR, time.time_ns() + HOUR))
            await asyncio.sleep(1.5)  # a probe or two
            assert len(caplog.records) == 1
            assert str(servers.ports[0]) in caplog.records[0].message
            assert tier.status().to_dict()["counts"]["skipped"] == 10
        finally:
            await tier.stop()


async def test_only_so_many_gets_are_in_flight(server: TierServers) -> None:
    async with running(server.plan(timeout_ns=SECOND)) as tier:
        server.pause()
        found = await asyncio.gather(*(tier.get(key_of(number), TAGS) for number in range(3 * MOST_IN_FLIGHT)))
        assert found == [NOTHING] * len(found)
        assert tier.counts.skipped >= 2 * MOST_IN_FLIGHT
        server.resume()


async def test_puts_beyond_the_queue_are_dropped(server: TierServers) -> None:
    async with running(server.plan()) as tier:
        found = await tier.get(key_of(1), TAGS)
        large = entry_of(bytes(1 << 20), found)
        put = [tier.put(key_of(number), large) for number in range(20)]
        assert sum(put) == QUEUE >> 20
        assert tier.counts.dropped == 20 - sum(put)
        await until(lambda: tier.counts.stored == sum(put))
        assert tier.status().queued_bytes == 0
        wide = Entry(b"", large.fresh_until, large.stale_until, 0, found.generations[:1] * 65)
        assert not tier.put(key_of(1), wide)


async def test_what_the_server_has_no_room_for_is_dropped(tmp_path: Path) -> None:
    servers = TierServers("memcached", tmp_path)
    servers.start()
    try:
        async with running(servers.plan()) as tier:
            found = await tier.get(key_of(1), TAGS)
            assert tier.put(key_of(1), entry_of(bytes(6 << 20), found))  # items of 4 MiB at most
            await until(lambda: tier.counts.dropped == 1)
            await filled(tier, 2)
            assert tier.status().state == "closed"
    finally:
        servers.stop()


async def test_a_full_redis_still_answers(tmp_path: Path) -> None:
    servers = TierServers("redis", tmp_path)
    servers.start()
    try:
        async with running(servers.plan()) as tier:
            entry = await filled(tier, 1)
            with servers._client(b"") as client:
                client.config_set("maxmemory", 1)
            tier.put(key_of(2), entry_of(b"no room", await tier.get(key_of(2), TAGS)))
            await until(lambda: tier.counts.dropped == 1)
            assert (await tier.get(key_of(1), TAGS)).entry == entry
            # A tag without a generation gets none: nothing is put under it.
            assert (await tier.get(key_of(3), (b"new",))).generations is None
            assert tier.status().state == "closed"
    finally:
        servers.stop()


# Wrong data.


async def test_what_is_not_an_entry_of_ours_is_a_miss(server: TierServers) -> None:
    async with running(server.plan()) as tier:
        entry = await filled(tier, 1)
        name = entry_name(b"tidegate:", key_of(1))
        whole = server.read(name)
        assert whole is not None
        other = Codec(SECRET).encode(key_of(2), entry)
        foreign = Codec(b"another secret").encode(key_of(1), entry)
        torn = [whole[:at] for at in range(0, len(whole), 31)]
        flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 31)]
        for wrong in (
            b"",
            b"hello",
            os.urandom(2000),
            b"TgC2" + whole[4:],
            whole + b"x",
            other,
            foreign,
            *torn,
            *flipped,
        ):
            server.write(name, wrong)
            invalid = tier.counts.invalid
            assert (await tier.get(key_of(1), TAGS)).entry is None
            assert tier.counts.invalid == invalid + 1
        server.write(name, whole)
        assert (await tier.get(key_of(1), TAGS)).entry == entry


async def test_a_generation_that_is_not_ours_is_replaced(server: TierServers) -> None:
    memcached = server.kind == "memcached"
    named = short_tag_name if memcached else tag_name
    async with running(server.plan()) as tier:
        await filled(tier, 1)
        of_another = server.read(named(b"tidegate:", TAGS[1]))
        assert of_another is not None
        for wrong in (b"", b"17", of_another, os.urandom(24)):
            server.write(named(b"tidegate:", TAGS[0]), wrong)
            assert (await tier.get(key_of(1), TAGS)).entry is None
            entry = await filled(tier, 1)
            assert (await tier.get(key_of(1), TAGS)).entry == entry


async def test_a_name_that_is_something_else_is_a_miss(tmp_path: Path) -> None:
    servers = TierServers("redis", tmp_path)
    servers.start()
    try:
        async with running(servers.plan()) as tier:
            with servers._client(b"") as client:
                client.hset(entry_name(b"tidegate:", key_of(1)), "a", "b")
            assert (await tier.get(key_of(1), TAGS)).entry is None
            assert tier.status().state == "closed"
            await filled(tier, 1)
            assert (await tier.get(key_of(1), TAGS)).entry is not None
    finally:
        servers.stop()


@pytest.mark.parametrize("kind", ["redis", "memcached"])
@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"VA 5\r\nhelloXX", b"VA x\r\n", b"*1\r\n", b"%2\r\n:x\r\n", b"\0" * 99],
)
async def test_a_server_of_another_kind_is_down(kind: str, answer: bytes, tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    other = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    tier = make_tier(TierServers(kind, tmp_path).plan(servers=(f"127.0.0.1:{port}",)))
    tier.start()
    try:
        await until(lambda: bool(tier.status().last_error))
        assert await tier.get(key_of(1), TAGS) == NOTHING
    finally:
        await tier.stop()
        other.close()


# Who may.


@pytest.mark.parametrize("kind", ["redis", "valkey", "memcached"])
@pytest.mark.parametrize(("tls", "auth"), [(True, False), (False, True), (True, True)])
async def test_tls_and_passwords(kind: str, tls: bool, auth: bool, tmp_path: Path) -> None:
    servers = TierServers(kind, tmp_path, tls, auth)
    servers.start()
    try:
        told: list[bytes | None] = []
        async with running(servers.plan(), told) as tier:
            entry = await filled(tier, 1)
            assert (await tier.get(key_of(1), TAGS)).entry == entry
            if kind != "memcached":
                await until(lambda: bool(tier.purge(b"a")) and b"a" in told)
        refused = []
        if tls:
            stranger = TierServers(kind, tmp_path / "other", False, auth)
            stranger.folder.mkdir()
            (tmp_path / "other" / "none.pem").write_text("")
            refused += [servers.plan(tls=None)]
            untrusting = TierServers(kind, stranger.folder, True, auth)
            refused += [untrusting.plan(servers=servers.plan().servers)]
        if auth:
            refused += [servers.plan(password=b"wrong"), servers.plan(username="", password=b"")]
        for plan in refused:
            tier = make_tier(plan)
            tier.start()
            await until(lambda tier=tier: bool(tier.status().last_error))
            assert not tier.available
            assert "wrong" not in tier.status().last_error.split()
            await tier.stop()
    finally:
        servers.stop()
