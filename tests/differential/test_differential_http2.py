"""The same exchanges over HTTP/2 directly and through Tidegate, and translated from and to HTTP/1.1."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from exchanges import ADDED, EXAMPLES, Answer, Seen, Server, ask, length, often, same_length
from http2_exchanges import MARK, Call, Message, answered, asked, calls
from http2_peers import Http2Server, ask_http2
from http2_rig import Rig, running
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def rig() -> Iterator[Rig]:
    with running() as made:
        yield made


@dataclass
class Results:
    """What the server saw and what the client got, by the number of the exchange."""

    seen: dict[int, Seen]
    got: list[Answer]


def results(rig: Rig, server: Server | Http2Server, port: int, exchanges: Sequence[Call], version: int) -> Results:
    """All exchanges at once: on one connection of HTTP/2, or on one of HTTP/1.1 each."""

    async def ask_all() -> list[Answer]:
        if version == 2:
            return await ask_http2(port, exchanges)
        return list(await asyncio.gather(*(ask(port, call.method, call.request()) for call in exchanges)))

    server.seen.clear()
    server.pick = lambda seen: exchanges[number(seen)]
    got = rig.runner.run(ask_all())
    assert server.violations == []
    assert len(server.seen) == len(exchanges), [(answer.status, answer.body) for answer in got]
    return Results({number(seen): seen for seen in server.seen}, got)


def number(seen: Seen) -> int:
    return int(dict(seen.fields)[MARK])


def same(call: Call, plain: Results, passed: Results, *, http1: bool) -> None:
    """`http1`: HTTP/1.1 is spoken on one side of Tidegate, so that trailers need chunks."""
    sent, came = plain.seen[call.number], passed.seen[call.number]
    assert asked(came) == asked(sent)
    assert {name for name, _ in came.fields} >= ADDED - {b"x-forwarded-port"}
    assert same_length(came.fields, sent.fields, sent.body) if http1 else length(came.fields) == length(sent.fields)
    said = call.content is not None and call.content.said
    assert came.trailers == ([] if http1 and said else sent.trailers)
    given, got = plain.got[call.number], passed.got[call.number]
    assert answered(got) == answered(given)
    assert same_length(got.fields, given.fields, given.body) if http1 else length(got.fields) == length(given.fields)
    assert got.trailers == ([] if http1 and call.answer_length else given.trailers)


def all_ways(rig: Rig, made: Sequence[Call]) -> None:
    exchanges = [replace(call, number=i) for i, call in enumerate(made)]
    plain = results(rig, rig.http2, rig.direct, exchanges, 2)
    # The test's own server and client hide nothing.
    for call in exchanges:
        assert plain.seen[call.number].body == (call.content or Message()).data
        assert plain.got[call.number].body == (b"" if call.bodiless else call.answer.data)
    for server, port, version in (
        (rig.http2, rig.to_http2.port, 2),
        (rig.http1, rig.to_http1.port, 2),
        (rig.http2, rig.to_http2.port, 1),
    ):
        passed = results(rig, server, port, exchanges, version)
        for call in exchanges:
            same(call, plain, passed, http1=version == 1 or server is rig.http1)


def test_valid_exchanges_give_the_same_result(rig: Rig) -> None:
    @often(EXAMPLES)
    @given(st.lists(calls(), min_size=1, max_size=3))
    def check(made: list[Call]) -> None:
        all_ways(rig, made)

    check()


def test_what_may_not_be_a_trailer_stays_behind(rig: Rig) -> None:
    """RFC 9110 section 6.5.1, whatever the versions are."""
    trailers = ((b"x-forwarded-for", b"9.9.9.9"), (b"cookie", b"a"), (b"content-type", b"b"), (b"x-a", b"c"))
    content = Message(b"abc", trailers=trailers)
    call = Call(b"POST", b"/", b"example.org", "none", (), (), content, 1 << 24, None, 200, (), (), content)
    for server, port, version in (
        (rig.http2, rig.to_http2.port, 2),
        (rig.http1, rig.to_http1.port, 2),
        (rig.http2, rig.to_http2.port, 1),
    ):
        passed = results(rig, server, port, [call], version)
        assert passed.seen[0].trailers == passed.got[0].trailers == [(b"x-a", b"c")]
