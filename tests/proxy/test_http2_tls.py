"""HTTP/2 over TLS: agreed on by ALPN in front, and towards endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from authority import Authority
from datapath import SECOND, Site, settle
from h2_client import h2_client
from test_grpc import GRPC_POOL, UNLIMITED, Service
from tls_site import AUTHORITY, CLIENTS, answer_ok, https

from lb.config.plan.tls import PoolTlsPlan

ALPN = ("h2", "http/1.1")
ENDPOINTS = Authority("Endpoints")


def h2_context() -> ssl.SSLContext:
    context = AUTHORITY.client_context()
    context.set_alpn_protocols(["h2"])
    return context


async def test_alpn_agrees_on_http2(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(alpn=ALPN))
    async with h2_client(gate.port, secured=h2_context(), name="default.test") as client:
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        answers = await asyncio.gather(*(client.fetch(f"/{i}") for i in range(30)))
        assert {a.status for a in answers} == {200}
        assert b"X-Forwarded-Proto: https\r\n" in answers[0].body
        posted = await client.fetch("/", body=b"x" * 300_000, fields=[("content-length", "300000")])
        assert posted.status == 200
        gate.proxy.drain()
        await asyncio.wait_for(client.closed.wait(), 60)
    assert gate.in_flight() == 0


async def test_http1_is_still_spoken(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(alpn=ALPN))
    context = AUTHORITY.client_context()
    context.set_alpn_protocols(["http/1.1"])
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, ssl=context, server_hostname="default.test")
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(-1), 10)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_the_clients_certificate_is_told(site: Site, tmp_path: Path) -> None:
    gate = await site.gate(
        [await site.endpoint(answer_ok)],
        listener=https(alpn=ALPN, client_auth="required", client_ca=CLIENTS.pem),
    )
    context = h2_context()
    context.load_cert_chain(*CLIENTS.issue(subject="someone", client=True).write(tmp_path))
    async with h2_client(gate.port, secured=context, name="default.test") as client:
        answer = await client.fetch("/", fields=[("x-forwarded-client-cert", "forged")])
    told = [line for line in answer.body.decode().lower().split("\r\n") if line.startswith("x-forwarded-client-cert: ")]
    assert len(told) == 1
    assert "forged" not in told[0]
    assert "hash=" in told[0]


@contextlib.asynccontextmanager
async def secured_service() -> AsyncIterator[tuple[Service, str]]:
    made = Service()
    pair = ENDPOINTS.issue("models.test")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.chain)])
    await made.start(credentials)
    try:
        yield made, made.address
    finally:
        await made.server.stop(None)


def pool_tls(authority: Authority) -> PoolTlsPlan:
    return PoolTlsPlan(
        ca=authority.pem, certificate=b"", key=b"", server_name="models.test", min_version="tls1.2", alpn=("h2",),
        verify=True,
    )  # fmt: skip


async def test_grpc_through_tls_on_both_sides(site: Site) -> None:
    async with secured_service() as (_, address):
        gate = await site.gate([address], listener=https(alpn=ALPN), pool={**GRPC_POOL, "tls": pool_tls(ENDPOINTS)})
        credentials = grpc.ssl_channel_credentials(AUTHORITY.pem)
        options = [*UNLIMITED, ("grpc.ssl_target_name_override", "default.test")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{gate.port}", credentials, options=options) as channel:
            message = bytes(1 << 20)
            assert await channel.unary_unary("/test.Kinds/Unary")(message, timeout=20) == message
            assert len([m async for m in channel.unary_stream("/test.Kinds/Down")(b"100")]) == 100
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_an_endpoint_that_is_somebody_else_gets_nothing(site: Site) -> None:
    async with secured_service() as (server, address):
        gate = await site.gate([address], pool={**GRPC_POOL, "tls": pool_tls(AUTHORITY), "connect_timeout_ns": SECOND})
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Kinds/Unary")(b"secret", timeout=10)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not server.metadata
