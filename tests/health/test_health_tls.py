"""Health checks through TLS: each type believes and shows what the workers' connections do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import grpc.aio
import pytest
from authority import Authority, Pair, server_context
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from health_servers import redis_server
from msgspec.structs import replace
from readiness import Inference
from speaking_servers import SPEAKING

from lb.config.plan.plan import EndpointPlan, PolicyPlan, PoolPlan
from lb.config.plan.tls import PoolTlsPlan
from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed
from lb.health.checks.tls import CheckTls, check_tls
from lb.health.registry import build

AUTHORITY = Authority()
CLIENTS = Authority("Clients")
PLAN = PoolTlsPlan(
    ca=AUTHORITY.pem, certificate=b"", key=b"", server_name="", min_version="tls1.2", alpn=(), verify=True
)
# A pool of UDP has no TLS; servers that are spoken to in TLS in their own ways are in test_speaking_checks.
TYPES = sorted(set(get_args(HealthConfig.model_fields["type"].annotation)) - {"udp", *SPEAKING})


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def serving(kind: str, pair: Pair, folder: Path, clients: Authority | None = None) -> AsyncIterator[str]:
    if kind in ("grpc", "oip"):
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Inference().handlers(),))
        servicer = health.aio.HealthServicer()
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        asked = clients.pem if clients else None
        credentials = grpc.ssl_server_credentials([(pair.key, pair.chain)], asked, clients is not None)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)
        return
    if kind == "redis":
        chain, key = pair.write(folder, "endpoint")
        trusted = folder / "clients.pem"
        trusted.write_bytes((clients or AUTHORITY).pem)
        files = ("--tls-cert-file", chain, "--tls-key-file", key, "--tls-ca-cert-file", str(trusted))
        async with redis_server(
            socket.AF_INET, folder, *files, "--tls-auth-clients", "yes" if clients else "no"
        ) as address:
            yield address
        return

    async with await asyncio.start_server(
        answer, "127.0.0.1", 0, ssl=server_context(pair, folder, clients)
    ) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def ask(kind: str, address: str, tls: CheckTls) -> None:
    await asyncio.wait_for(build(HealthConfig(type=kind), tls).run(address), 20)


@pytest.mark.parametrize("kind", TYPES)
async def test_an_endpoint_that_proves_who_it_is(kind: str, tmp_path: Path) -> None:
    async with serving(kind, AUTHORITY.issue("127.0.0.1", "models.test"), tmp_path) as address:
        for name in ("127.0.0.1", "models.test"):
            if (kind, name) != ("grpc", "127.0.0.1"):
                await ask(kind, address, CheckTls(PLAN, name))


@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_behind_a_unix_socket(kind: str, tmp_path: Path) -> None:
    context = server_context(AUTHORITY.issue("models.test"), tmp_path)
    async with await asyncio.start_unix_server(answer, tmp_path / "s.sock", ssl=context):
        await ask(kind, f"unix:{tmp_path}/s.sock", CheckTls(PLAN, "models.test"))
        with pytest.raises(CheckFailed, match="certificate"):
            await ask(kind, f"unix:{tmp_path}/s.sock", CheckTls(PLAN, "other.test"))


@pytest.mark.parametrize("kind", TYPES)
async def test_a_certificate_that_is_revoked(kind: str, tmp_path: Path) -> None:
    good, bad = AUTHORITY.issue("models.test"), AUTHORITY.issue("models.test")
    plan = replace(PLAN, crl=AUTHORITY.revoke(bad))
    async with serving(kind, good, tmp_path) as address:
        await ask(kind, address, CheckTls(plan, "models.test"))
        with pytest.raises(CheckFailed, match="CRL has expired"):
            await ask(kind, address, CheckTls(replace(PLAN, crl=AUTHORITY.revoke(days=-1)), "models.test"))
    async with serving(kind, bad, tmp_path) as address:
        await ask(kind, address, CheckTls(PLAN, "models.test"))
        with pytest.raises(CheckFailed, match="certificate revoked"):
            await ask(kind, address, CheckTls(plan, "models.test"))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "pair",
    [
        AUTHORITY.issue("other.test"),
        AUTHORITY.issue("models.test", start=-9, days=-1),
        Authority("Nobody").issue("models.test"),
    ],
)
async def test_an_endpoint_that_does_not(kind: str, pair: Pair, tmp_path: Path) -> None:
    async with serving(kind, pair, tmp_path) as address:
        with pytest.raises(CheckFailed, match=r"(?i)tls|ssl|certificate|handshake|connect"):
            await ask(kind, address, CheckTls(PLAN, "models.test"))


@pytest.mark.parametrize("kind", TYPES)
async def test_our_own_certificate_is_shown(kind: str, tmp_path: Path) -> None:
    ours = CLIENTS.issue(subject="tidegate", client=True)
    with_ours = replace(PLAN, certificate=ours.chain, key=ours.key)
    async with serving(kind, AUTHORITY.issue("models.test"), tmp_path, CLIENTS) as address:
        await ask(kind, address, CheckTls(with_ours, "models.test"))
        if kind == "http":  # with TLS 1.3 a refusal comes behind the handshake
            with pytest.raises(CheckFailed):
                await ask(kind, address, CheckTls(PLAN, "models.test"))


@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_verification_may_be_off(kind: str, tmp_path: Path) -> None:
    async with serving(kind, Authority("Nobody").issue("x.test", start=-9, days=-1), tmp_path) as address:
        await ask(kind, address, CheckTls(replace(PLAN, ca=b"", verify=False), ""))


# Whom the system trusts is the process's, so this needs one of its own.
BY_THE_SYSTEM = """
import asyncio, os, sys
from pathlib import Path
from lb.config.schema.file import HealthConfig
from lb.config.plan.tls import PoolTlsPlan
from lb.health.check import CheckFailed
from lb.health.registry import build
from lb.health.checks.tls import CheckTls

PLAN = PoolTlsPlan(ca=b"", certificate=b"", key=b"", server_name="", min_version="tls1.2", alpn=(), verify=True)
kind, address, ours = sys.argv[1:]

async def ask():
    try:
        await build(HealthConfig(type=kind, timeout="30s"), CheckTls(PLAN, "models.test")).run(address)
    except CheckFailed as e:
        print(e)
    else:
        print("good")

async def main():
    system = Path(os.environ["SSL_CERT_FILE"])
    await ask()
    system.write_bytes(Path(ours).read_bytes())
    await ask()
    system.unlink()
    await ask()

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", TYPES)
async def test_the_systems_authorities_are_read_once(kind: str, tmp_path: Path) -> None:
    """And again while there are none."""
    ours, system = tmp_path / "ours.pem", tmp_path / "system.pem"
    ours.write_bytes(AUTHORITY.pem)
    system.touch()
    mine = {"SSL_CERT_FILE": str(system)}
    async with serving(kind, AUTHORITY.issue("models.test"), tmp_path) as address:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", BY_THE_SYSTEM, kind, address, str(ours),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **mine}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await process.communicate()
    first, *others = said.decode().splitlines()
    assert first.startswith("TLS: no certificate")
    assert others == ["good", "good"]


@pytest.mark.parametrize("kind", TYPES)
async def test_an_endpoint_without_tls(kind: str) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        with pytest.raises(CheckFailed):
            await ask(kind, f"127.0.0.1:{server.sockets[0].getsockname()[1]}", CheckTls(PLAN, "models.test"))


def test_whom_a_check_expects() -> None:
    pool = PoolPlan("app", "http", PolicyPlan("round_robin"), (), 1, 0, 0, 0, 1)
    assert check_tls(pool, EndpointPlan("10.0.0.1:443", 0, 0, 1)) is None
    secured = replace(pool, tls=PLAN)
    for endpoint, name in (
        (EndpointPlan("10.0.0.1:443", 0, 0, 1), "10.0.0.1"),
        (EndpointPlan("[::1]:443", 0, 0, 1), "::1"),
        (EndpointPlan("10.0.0.1:443", 0, 0, 1, "models.test"), "models.test"),
        (EndpointPlan("unix:/run/s", 0, 0, 1), ""),
    ):
        found = check_tls(secured, endpoint)
        assert found is not None
        assert found.name == name
    named = check_tls(replace(pool, tls=replace(PLAN, server_name="a.test")), EndpointPlan("1.2.3.4:1", 0, 0, 1))
    assert named is not None
    assert named.name == "a.test"


def test_checks_may_have_tls_of_their_own() -> None:
    endpoint = EndpointPlan("10.0.0.1:443", 0, 0, 1, "models.test")
    own = replace(PLAN, server_name="probe.test")
    plain = PoolPlan("app", "http", PolicyPlan("round_robin"), (), 1, 0, 0, 0, 1)
    for pool in (plain, replace(plain, tls=PLAN)):
        found = check_tls(pool, endpoint, own)
        assert found is not None
        assert (found.plan, found.name) == (own, "probe.test")
