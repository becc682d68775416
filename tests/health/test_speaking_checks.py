"""Checks that speak to real servers of databases, mail and directories: who is well, and that their logs stay quiet."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from authority import Authority
from speaking_servers import SPEAKING, SpeakingServer
from waiting import until

from lb.config.plan.tls import PoolTlsPlan
from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed
from lb.health.checks.tls import CheckTls
from lb.health.registry import build

AUTHORITY = Authority()
USERS = {"postgres": "guest", "mysql": "tidegate"}
NOISE = ("error", "warning", "aborted", "denied", "fatal", "lost", "incomplete", "could not", "unexpected")


@pytest.fixture(scope="module", params=SPEAKING)
def server(request: pytest.FixtureRequest) -> Iterator[SpeakingServer]:
    with SpeakingServer(request.param) as started:
        yield started


@pytest.fixture(scope="module", params=SPEAKING)
def secure_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeakingServer]:
    chain, key = AUTHORITY.issue("models.test").write(tmp_path_factory.mktemp("tls"))
    with SpeakingServer(request.param, (Path(chain), Path(key))) as started:
        yield started


async def ask(config: HealthConfig, address: str, tls: CheckTls | None = None) -> None:
    await asyncio.wait_for(build(config, tls).run(address), 20)


def trusting(name: str) -> CheckTls:
    plan = PoolTlsPlan(
        ca=AUTHORITY.pem, certificate=b"", key=b"", server_name="", min_version="tls1.2", alpn=(), verify=True
    )
    return CheckTls(plan, name)


async def test_the_log_stays_quiet(server: SpeakingServer) -> None:
    config = HealthConfig(type=server.kind, user=USERS.get(server.kind))
    await ask(config, server.address(socket.AF_INET))
    await asyncio.sleep(0.5)  # for what the server says of those who waited for its port
    before = len(server.log())
    for _ in range(120):  # more than MySQL's max_connect_errors
        await ask(config, server.address(socket.AF_INET))
    if server.kind == "postgres":  # who is asked for a password and leaves
        await ask(HealthConfig(type="postgres"), server.address(socket.AF_INET))
    await asyncio.sleep(0.2)
    written = server.log()[before:].lower()
    if server.kind == "smtp":  # aiosmtpd calls the end of every session a lost connection; a client that quit is well
        assert written.count("'quit'") == 120
        written = written.replace("connection lost", "")
    assert not [line for line in written.splitlines() if any(word in line for word in NOISE)], written


async def test_users_that_the_server_does_not_know(server: SpeakingServer) -> None:
    if server.kind in USERS:
        await ask(HealthConfig(type=server.kind, user="nobody"), server.address(socket.AF_INET))
    if server.kind == "mysql":
        await until(lambda: "Access denied for user 'nobody'" in server.log(), "the server names the user")


async def test_tls(secure_server: SpeakingServer) -> None:
    config = HealthConfig(type=secure_server.kind, user=USERS.get(secure_server.kind))
    address = secure_server.address(socket.AF_INET)
    for _ in range(3):
        await ask(config, address, trusting("models.test"))
    with pytest.raises(CheckFailed, match="certificate is not accepted"):
        await ask(config, address, trusting("other.test"))


async def test_tls_that_the_server_does_not_speak(server: SpeakingServer) -> None:
    with pytest.raises(CheckFailed, match=r"TLS|closed|reset|MySQL"):
        await ask(HealthConfig(type=server.kind), server.address(socket.AF_INET), trusting("models.test"))


async def test_postgres_that_has_no_connection_left() -> None:
    with SpeakingServer("postgres") as server:
        held = []
        try:
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                held.append(writer)
                fields = b"user\0guest\0database\0postgres\0\0"
                writer.write((8 + len(fields)).to_bytes(4) + (196_608).to_bytes(4) + fields)
                await reader.readexactly(1)
            with pytest.raises(CheckFailed, match=r"53300|too many"):
                await ask(HealthConfig(type="postgres", user="guest"), server.address(socket.AF_INET))
        finally:
            for writer in held:
                writer.close()


REFUSALS = {
    # The database system is starting up (57P03), as PostgreSQL says it.
    "postgres": (b"E\0\0\0\x2eSFATAL\0C57P03\0Mthe system is starting up\0\0", "starting up \\(57P03\\)"),
    "mysql": (b"\x17\0\0\0\xff\x10\x04Too many connections", "Too many connections \\(1040\\)"),
    "smtp": (b"421-busy\r\n421 come back later\r\n", "the greeting: '421-busy'"),
    "ldap": (bytes.fromhex("300c02010161070a013304000400"), "refused with 51"),
}


@contextlib.asynccontextmanager
async def saying(kind: str, answer: bytes) -> AsyncIterator[str]:
    """A server that says no more than `answer`, after the question where the client speaks first."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if kind in ("postgres", "ldap", "redis"):
                await reader.read(10)
            writer.write(answer)
            await writer.drain()
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("kind", SPEAKING)
async def test_a_server_that_does_not_serve_now(kind: str) -> None:
    answer, reason = REFUSALS[kind]
    async with saying(kind, answer) as address:
        with pytest.raises(CheckFailed, match=reason):
            await ask(HealthConfig(type=kind), address)


HOSTILE = {
    "nothing": b"",
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(200_000),
    "ones": b"\xff" * 200_000,
    "lines": b"220-x\r\n" * 20_000,
    "one long line": b"2" * 200_000,
    "a huge length": b"R\x7f\xff\xff\xff" + b"x" * 100,
    "a huge element": bytes.fromhex("3084ffffffff") + b"x" * 100,
    "a huge packet": b"\xff\xff\xff\0" + b"x" * 100,
    "notices without end": (b"N\0\0\0\x05x") * 30_000,
    "questions without end": b"\x02\0\0\0\xfex" * 30_000,
    "half of an element": bytes.fromhex("300c02"),
    "an element in an element that is longer": bytes.fromhex("300502010161ff"),
    "another message": bytes.fromhex("300c02010261070a010004000400"),
}


@pytest.mark.parametrize("kind", [*SPEAKING, "redis"])
@pytest.mark.parametrize("said", HOSTILE)
async def test_what_is_no_answer(kind: str, said: str) -> None:
    """The check fails, or waits for the rest as long as it may; it reads a bounded amount, and raises nothing else."""
    async with saying(kind, HOSTILE[said]) as address:
        with pytest.raises((CheckFailed, TimeoutError)):
            async with asyncio.timeout(1):
                await build(HealthConfig(type=kind)).run(address)
