"""Identical requests of the HTTP cache over all workers of a daemon: one of them asks the endpoint, whatever becomes
of who asks it; nobody gets an answer from before a purge or a change that was done when the request came."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from crowd import Crowd, all_wait, in_routes
from daemon import Daemon, http_listener
from traffic import Answer, ask_once, request
from waiting import until, until_in_thread

Start = Callable[..., Daemon]
WORKERS = 4


class HeldOrigin:
    """Answers GET when `release` is set, each time with another number, and POST of "new" at once."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []  # heads of GET
        self.left = 0  # of them, connections that ended before they had an answer
        self.release = asyncio.Event()
        self.status = "200 OK"
        self.fields = "Cache-Control: max-age=600\r\n"
        self.size = 100
        self.chunked = False
        self.first: str = ""  # what becomes of the first answer, behind which the others are held again; and of the
        # second, where that is none

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"GET"):
                    await reader.readexactly(len(b"new"))
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
                self.asked.append(head)
                body = self.body(len(self.asked), head)
                await self.release.wait()
                if self.first and len(self.asked) <= (2 if self.first == "no answer" else 1):
                    self.release.clear()
                    if self.first == "no answer":
                        writer.write(b"no HTTP\r\n\r\n")
                        break
                await self.answer(writer, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        length = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {len(body)}"
        writer.write(f"HTTP/1.1 {self.status}\r\n{self.fields}{length}\r\n\r\n".encode())
        if self.chunked:
            for at in range(0, len(body), 50_000):
                piece = body[at : at + 50_000]
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        else:
            writer.write(body)
        await writer.drain()

    def body(self, number: int, head: bytes) -> bytes:
        kind = b"a" if b"X-Kind: a" in head else b"b" if b"X-Kind: b" in head else b"-"
        return (b"%d %s;" % (number, kind) * (self.size // 4))[: self.size]


@pytest.fixture
async def origin() -> AsyncIterator[HeldOrigin]:
    made = HeldOrigin()
    await made.start()
    yield made
    made.release.set()
    made.server.close()


def config(origin: HeldOrigin, **rules: Any) -> dict[str, Any]:
    return {
        "workers": WORKERS,
        "cache": {"size": "64MiB"},
        "listeners": {"web": http_listener({"pool": "pages", "retry": "off", "hedge": "off", "http_cache": rules})},
        "pools": {"pages": {"protocol": "http", "endpoints": [origin.address], "response_timeout": "60s"}},
    }


def get(number: int, **fields: str) -> bytes:
    return request("GET", "/page", **fields)


def numbers(answers: list[Answer]) -> Counter[int]:
    """How many have which answer of the endpoint."""
    return Counter(int(answer.body.partition(b" ")[0]) for answer in answers)


def results(daemon: Daemon) -> dict[str, float]:
    found = daemon.metrics("tidegate_cache_requests_total")
    return {dict(labels)["result"]: count for labels, count in found.items() if count}


async def lead(daemon: Daemon, origin: HeldOrigin, crowd: Crowd) -> tuple[int, list[asyncio.Task[Answer]]]:
    """The first client asks, then all others: the worker that leads, and their tasks."""
    await crowd.connect()
    assert len(set(crowd.owners)) == WORKERS
    first = asyncio.create_task(crowd.clients[0].ask(get(0)))
    await until(lambda: len(origin.asked) == 1, "the endpoint was not asked")
    tasks = crowd.ask(get, but=0)
    await all_wait(daemon, len(crowd.clients))
    return crowd.owners[0] or 0, [first, *tasks]


async def test_a_crowd_over_four_workers_is_one_request(start: Start, origin: HeldOrigin) -> None:
    daemon = start(config(origin))
    crowd = Crowd(daemon, 600)
    await crowd.connect()
    for chunked in (False, True):
        origin.chunked = chunked
        origin.release.clear()
        tasks = crowd.ask(lambda i, chunked=chunked: request("GET", f"/{chunked}"))
        await all_wait(daemon, 600)
        origin.release.set()
        answers = await asyncio.gather(*tasks)
        assert len(origin.asked) == 1 + chunked
        assert numbers(answers) == {1 + chunked: 600}
        said = Counter(answer.cache for answer in answers)
        assert said == {
            "tidegate; fwd=uri-miss; fwd-status=200; stored": 1,
            "tidegate; fwd=uri-miss; collapsed": 599,
        }
    assert results(daemon) == {"miss": 2, "collapsed": 1198, "stored": 2}
    crowd.close()


async def test_the_leaders_worker_is_killed(start: Start, origin: HeldOrigin) -> None:
    daemon = start(config(origin))
    crowd = Crowd(daemon, 200)
    leader, tasks = await lead(daemon, origin, crowd)
    os.kill(leader, signal.SIGKILL)
    await until(lambda: len(origin.asked) == 2, "nobody took over")
    origin.release.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(answers):
        if number in crowd.of(leader):
            assert isinstance(answer, (OSError, EOFError))
        else:
            assert isinstance(answer, Answer)
            assert numbers([answer]) == {2: 1}
    assert len(origin.asked) == 2
    crowd.close()


async def test_a_worker_that_hangs_loses_the_flight(start: Start, origin: HeldOrigin) -> None:
    daemon = start(config(origin))
    crowd = Crowd(daemon, 100)
    leader, tasks = await lead(daemon, origin, crowd)
    os.kill(leader, signal.SIGSTOP)
    try:
        await until(lambda: len(origin.asked) == 2, "nobody took over")
        origin.release.set()
        others = [task for number, task in enumerate(tasks) if number not in crowd.of(leader)]
        assert numbers(await asyncio.gather(*others)) == {2: len(others)}
    finally:
        os.kill(leader, signal.SIGCONT)
    assert sum(numbers(await asyncio.gather(*tasks)).values()) == 100
    assert len(origin.asked) == 2
    crowd.close()


async def test_the_leaders_client_leaves(start: Start, origin: HeldOrigin) -> None:
    """The answer is made for those who wait, wherever they do."""
    daemon = start(config(origin))
    crowd = Crowd(daemon, 60)
    _, tasks = await lead(daemon, origin, crowd)
    crowd.clients[0].close()
    await until_in_thread(lambda: in_routes(daemon) <= 60, "the client's leaving was not seen")
    origin.release.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], (OSError, EOFError))
    assert numbers([answer for answer in answers if isinstance(answer, Answer)]) == {1: 59}
    assert len(origin.asked) == 1
    crowd.close()


async def test_those_who_wait_leave(start: Start, origin: HeldOrigin) -> None:
    daemon = start(config(origin))
    crowd = Crowd(daemon, 80)
    _, tasks = await lead(daemon, origin, crowd)
    for client in crowd.clients[1:40]:
        client.close()
    await until_in_thread(lambda: in_routes(daemon) == 41, "those who left are waited for")
    origin.release.set()
    answers = [each for each in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(each, Answer)]
    assert numbers(answers) == {1: 41}
    assert len(origin.asked) == 1
    crowd.close()


@pytest.mark.parametrize("fields", ["Cache-Control: no-store\r\n", "Cache-Control: private\r\n", "Set-Cookie: a=b\r\n"])
async def test_an_answer_that_is_one_clients_is_nobody_elses(start: Start, origin: HeldOrigin, fields: str) -> None:
    origin.fields = fields
    daemon = start(config(origin))
    crowd = Crowd(daemon, 100)
    _, tasks = await lead(daemon, origin, crowd)
    origin.release.set()
    answers = await asyncio.gather(*tasks)
    assert numbers(answers) == dict.fromkeys(range(1, 101), 1)
    assert len(origin.asked) == 100
    crowd.close()


async def test_errors_are_not_waited_for_one_by_one(start: Start, origin: HeldOrigin) -> None:
    origin.status = "503 Service Unavailable"
    origin.fields = ""
    daemon = start(config(origin))
    crowd = Crowd(daemon, 100)
    _, tasks = await lead(daemon, origin, crowd)
    origin.release.set()
    assert {answer.status for answer in await asyncio.gather(*tasks)} == {503}
    crowd.close()


@pytest.mark.parametrize("first", ["no answer", "stale at once"])
async def test_workers_do_not_wait_for_each_other_in_turn(start: Start, origin: HeldOrigin, first: str) -> None:
    """Those who have waited for an answer that is of no use to them ask at once; where there is none, one of them asks
    once more before."""
    origin.first = first
    origin.fields = 'Cache-Control: no-cache\r\nETag: "1"\r\n'
    daemon = start(config(origin))
    crowd = Crowd(daemon, 40)
    await crowd.connect()
    clients = [crowd.clients[crowd.of(worker)[0]] for worker in sorted(set(map(int, filter(None, crowd.owners))))]
    assert len(clients) == WORKERS
    tasks = [asyncio.create_task(clients[0].ask(get(0)))]
    await until(lambda: len(origin.asked) == 1, "the endpoint was not asked")
    tasks += [asyncio.create_task(client.ask(get(0))) for client in clients[1:]]
    await all_wait(daemon, WORKERS)
    origin.release.set()
    if first == "no answer":
        await until(lambda: len(origin.asked) == 2, "nobody asked once more")
        origin.release.set()
    await until(lambda: len(origin.asked) == WORKERS, "they did not all ask")
    origin.release.set()
    statuses = sorted(answer.status for answer in await asyncio.gather(*tasks))
    assert statuses == ([200, 200, 502, 502] if first == "no answer" else [200] * WORKERS)
    crowd.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_answers_are_not_waited_for_to_their_end(start: Start, origin: HeldOrigin, chunked: bool) -> None:
    """Each worker asks for itself: its clients have the beginning while the end is on its way."""
    origin.size = 2_000_000
    origin.chunked = chunked
    plan = config(origin)
    plan["cache"]["max_object"] = "4MiB"
    daemon = start(plan)
    crowd = Crowd(daemon, 40)
    _, tasks = await lead(daemon, origin, crowd)
    origin.release.set()
    answers = await asyncio.gather(*tasks)
    assert {len(answer.body) for answer in answers} == {origin.size}
    assert all(len(set(answer.body.split(b";")[:-1])) == 1 for answer in answers)  # each is of one answer
    assert len(origin.asked) <= WORKERS + 1
    crowd.close()


async def test_other_variants_are_other_answers(start: Start, origin: HeldOrigin) -> None:
    origin.fields = "Cache-Control: max-age=600\r\nVary: X-Kind\r\n"
    daemon = start(config(origin))
    crowd = Crowd(daemon, 200)
    await crowd.connect()
    tasks = crowd.ask(lambda i: get(i, **{"X-Kind": "ab"[i % 2]}))
    await all_wait(daemon, 200)
    origin.release.set()
    for number, answer in enumerate(await asyncio.gather(*tasks)):
        assert answer.body.partition(b" ")[2][:1] == b"ab"[number % 2 : number % 2 + 1]
    assert len(origin.asked) <= 3  # one of each, and one more in the worker that had the first
    crowd.close()


async def test_a_purge_begins_another_flight(start: Start, origin: HeldOrigin) -> None:
    daemon = start(config(origin))
    crowd, later = Crowd(daemon, 60), Crowd(daemon, 60)
    _, tasks = await lead(daemon, origin, crowd)
    await later.connect()
    done = await asyncio.to_thread(daemon.command, "cache", "purge", "--url", "http://test/page")
    assert done.returncode == 0, done.stderr
    tasks_after = later.ask(get)
    await all_wait(daemon, 120)
    origin.release.set()
    await asyncio.gather(*tasks)
    after = numbers(await asyncio.gather(*tasks_after))
    assert 1 not in after
    assert numbers([await ask_once(daemon.port(), get(0)) for _ in range(12)]).keys() <= after.keys()
    assert len(origin.asked) <= 3  # those of before may have asked once more
    crowd.close()
    later.close()


async def test_a_change_in_any_worker_begins_another_flight(start: Start, origin: HeldOrigin) -> None:
    """What was asked for before a POST is neither given to who comes after it, nor kept."""
    daemon = start(config(origin))
    crowd, later = Crowd(daemon, 60), Crowd(daemon, 60)
    leader, tasks = await lead(daemon, origin, crowd)
    await later.connect()
    poster = next(i for i, owner in enumerate(later.owners) if owner != leader)
    assert (await later.clients[poster].ask(request("POST", "/page", b"new"))).status == 200
    tasks_after = later.ask(get)
    await all_wait(daemon, 120)
    origin.release.set()
    await asyncio.gather(*tasks)
    assert 1 not in numbers(await asyncio.gather(*tasks_after))
    assert 1 not in numbers([await ask_once(daemon.port(), get(0)) for _ in range(12)])
    crowd.close()
    later.close()


async def test_one_worker_makes_a_stale_answer_anew(start: Start, origin: HeldOrigin) -> None:
    origin.fields = "Cache-Control: max-age=1, stale-while-revalidate=600\r\n"
    origin.release.set()
    daemon = start(config(origin))
    crowd = Crowd(daemon, 200)
    await crowd.connect()
    await asyncio.gather(*crowd.ask(get))
    assert len(origin.asked) == 1
    await asyncio.sleep(2.1)
    origin.release.clear()
    answers = await asyncio.gather(*crowd.ask(get))
    assert numbers(answers) == {1: 200}
    await until(lambda: len(origin.asked) == 2, "the answer is not made anew")
    origin.release.set()
    await until_in_thread(lambda: results(daemon).get("refreshed") == 1, "the answer is not kept")
    assert len(origin.asked) == 2
    crowd.close()


async def test_a_stale_answer_is_validated_once(start: Start, origin: HeldOrigin) -> None:
    origin.fields = 'Cache-Control: max-age=1\r\nETag: "1"\r\n'
    origin.release.set()
    daemon = start(config(origin))
    await ask_once(daemon.port(), get(0))
    await asyncio.sleep(2.1)
    origin.release.clear()
    origin.status, origin.size = "304 Not Modified", 0
    origin.fields = 'Cache-Control: max-age=600\r\nETag: "1"\r\n'
    crowd = Crowd(daemon, 200)
    await crowd.connect()
    tasks = crowd.ask(get)
    await all_wait(daemon, 200)
    origin.release.set()
    assert numbers(await asyncio.gather(*tasks)) == {1: 200}
    assert len(origin.asked) == 2
    assert b'if-none-match: "1"' in origin.asked[1].lower()
    crowd.close()


async def test_a_reload_during_a_flight(start: Start, origin: HeldOrigin) -> None:
    daemon = start(config(origin))
    crowd = Crowd(daemon, 60)
    _, tasks = await lead(daemon, origin, crowd)
    plain = config(origin)
    del plain["cache"]
    del plain["listeners"]["web"]["routes"][0]["http_cache"]
    assert (await asyncio.to_thread(daemon.reload, config(origin, stale_if_error="1m")))["ok"]
    assert (await asyncio.to_thread(daemon.reload, plain))["ok"]
    origin.release.set()
    assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}
    crowd.close()
