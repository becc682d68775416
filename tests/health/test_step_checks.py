"""Steps of a TCP check: what is sent, what has to come, and what of it is sent back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from health_servers import redis_server

from lb.config.schema.file import HealthConfig
from lb.config.values import CLOSE, OPEN
from lb.control.configuration import load_configuration
from lb.errors import ConfigError
from lb.health.check import CheckFailed
from lb.health.monitor import _ask
from lb.health.registry import build

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    async with await asyncio.start_server(handler, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def run(address: str, *steps: dict[str, str]) -> None:
    """`steps` as a file has them."""
    marked = [
        {key: text.replace("${capture.", f"{OPEN}capture.").replace("}", CLOSE) for key, text in step.items()}
        for step in steps
    ]
    await asyncio.wait_for(build(HealthConfig.model_validate({"type": "tcp", "steps": marked})).run(address), 20)


async def test_redis_that_is_primary(tmp_path: Path) -> None:
    """The conversation in HAProxy's own documentation of `tcp-check`."""
    async with redis_server(socket.AF_INET, tmp_path) as address:
        steps = (
            {"send": "PING\r\n"},
            {"expect": r"^\+PONG"},
            {"send": "info replication\r\n"},
            {"expect": "role:master"},
            {"send": "QUIT\r\n"},
            {"expect": r"\+OK"},
        )
        await run(address, *steps)
        with pytest.raises(CheckFailed, match="step 6: 'role:slave' did not come: the connection was closed after"):
            await run(address, *steps[:3], steps[4], {"expect": "role:master"}, {"expect": "role:slave"})


async def test_what_came_is_sent_back() -> None:
    said = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in (b"hello <", b"42", b"@host>\x00\xff\r\nmo", b"re\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        said.append(await reader.readline())
        writer.write(b"bye")
        writer.close()

    async with serving(serve) as address:
        await run(
            address,
            {"expect": r"<(?P<number>\d+)@(?P<host>[a-z]+)>\x00\xff\r\n"},
            {"expect": "^more"},
            {"send": "$ {number ${capture.number}-${capture.host}${capture.number} \x80\n"},
            {"expect": "bye"},
        )
    assert said == [b"$ {number 42-host42 \x80\n"]


async def test_a_dot_is_any_byte_and_patterns_are_linear() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"a\n" + b"a" * 40_000 + b"b")
        await writer.drain()
        await reader.read()
        writer.close()

    async with serving(serve) as address:
        await run(address, {"expect": "^a.a"})
        await run(address, {"expect": "^(a|a|.)+b$"})


async def test_a_server_that_says_something_else_for_ever() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"no " * 1000)
                await writer.drain()

    async with serving(serve) as address:
        with pytest.raises(CheckFailed, match=r"step 1: 'yes' did not come: 65536 bytes came"):
            await run(address, {"expect": "yes"})


async def test_a_check_that_waits_in_vain_says_for_what() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"550 go away")
        await reader.read()
        writer.close()

    async with serving(serve) as address:
        check = build(HealthConfig.model_validate({"type": "tcp", "steps": [{"expect": r"^22\d"}]}))
        failed: Any = await _ask(check, address, 200_000_000)
    assert failed.reason == "no answer within 0.2s: step 1 waits for '^22\\d'; '550 go away' came"
    assert failed.timed_out


FILE = """
listeners: {{a: {{bind: "127.0.0.1:18080", protocol: tcp, pool: p}}}}
pools:
  p:
    protocol: tcp
    endpoints: ["127.0.0.1:18081"]
    health: {health}
"""


@pytest.mark.parametrize(
    ("health", "said"),
    [
        ("{type: tcp, steps: [{expect: '('}]}", "steps[0].expect: not a regular expression"),
        ("{type: tcp, steps: [{expect: 'a', send: 'b'}]}", "exactly one of send, expect"),
        ("{type: tcp, steps: [{}]}", "exactly one of send, expect"),
        ("{type: tcp, steps: [{send: '${capture.a}'}]}", "no earlier step captures (?P<a>...)"),
        ("{type: tcp, steps: [{expect: '(?P<host>.)'}, {send: '${capture.hots}'}]}", "did you mean host?"),
        ("{type: tcp, steps: [{send: '${capture.b}'}, {expect: '(?P<b>x)'}]}", "steps[0].send: no earlier step"),
        ("{type: tcp, steps: [{expect: '\\(?P<a>'}]}", "steps[0].expect: (?P<a> is no group where it stands"),
        ("{type: tcp, steps: [{expect: '((((((((((a))))))))))'}]}", "has 10 groups; 9 are captured at most"),
        ("{type: tcp, steps: [{send: '${request.path}'}]}", "a check has captures, such as ${capture.host}"),
        ("{type: tcp, steps: [{send: '${request.hots}'}]}", "request.host"),
        ("{type: http, path: '/${capture.a}'}", "steps of a check have captures"),
        ("{type: http, steps: [{send: a}]}", "steps: only for type tcp"),
        ("{type: tcp, send: hello}", "write steps: [{send: hello}]"),
        ("{type: udp, send: a, expect: '('}", "expect: not a regular expression"),
        ("{type: mysql}", "user: is needed for type mysql"),
        ("{type: mysql, user: 'a b'}", "user: 'a b' does not match ^[!-~]+$"),
        ("{type: tcp, steps: [" + "{send: a}," * 40 + "]}", "steps: has 40 items; 32 are the most"),
        ("{type: redis, user: a}", "user: only for type postgres and mysql"),
        ("{type: tcp, protocol: http2}", "protocol: only for type http"),
    ],
)
def test_what_is_refused(health: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(FILE.format(health=health))
    with pytest.raises(ConfigError) as raised:
        load_configuration(file)
    assert said in str(raised.value)
