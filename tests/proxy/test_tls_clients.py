"""Client certificates, and sessions that resume."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import ssl
from typing import Any

import pytest
from authority import Pair
from datapath import Site, settle
from msgspec.structs import replace
from tls_site import AUTHORITY, CLIENTS, KEY, TLS, answer_ok, certificate, connect, get, https, version

# Client certificates.


def with_certificate(pair: Pair, folder: Any, name: str = "TLSv1_3") -> ssl.SSLContext:
    context = version(name)
    context.load_cert_chain(*pair.write(folder, "client"))
    return context


@pytest.mark.parametrize("name", ["TLSv1_2", "TLSv1_3"])
async def test_client_certificates_reach_the_endpoint(site: Site, tmp_path: Any, name: str) -> None:
    asks = https(client_auth="required", client_ca=CLIENTS.pem)
    gate = await site.gate([await site.endpoint(answer_ok)], listener=asks)
    pair = CLIENTS.issue("pc.test", subject="alice", uris=("spiffe://test/alice",), client=True)
    reader, writer = await connect(gate, with_certificate(pair, tmp_path, name))
    forged = "X-Forwarded-Client-Cert: Hash=00\r\nx_forwarded_client-CERT: Hash=00\r\n"
    for _ in range(2):
        lines = [x for x in (await get(reader, writer, forged)).split("\r\n") if "client" in x.lower()]
        assert lines == [lines[0]]
        assert re.fullmatch(
            r'X-Forwarded-Client-Cert: Hash=[0-9a-f]{64};Subject="CN=alice";URI=spiffe://test/alice;DNS=pc.test',
            lines[0],
        )
    writer.close()


@pytest.mark.parametrize("name", ["TLSv1_2", "TLSv1_3"])
async def test_without_a_certificate_nobody_gets_in_where_one_is_required(site: Site, tmp_path: Any, name: str) -> None:
    asks = https(client_auth="required", client_ca=CLIENTS.pem)
    gate = await site.gate([await site.endpoint(answer_ok)], listener=asks)
    for context in (
        version(name),
        with_certificate(AUTHORITY.issue("x.test", client=True), tmp_path, name),  # of another authority
        with_certificate(CLIENTS.issue("x.test", client=True, start=-9, days=-1), tmp_path, name),  # expired
        with_certificate(CLIENTS.issue("x.test"), tmp_path, name),  # for servers only
    ):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await get(*await connect(gate, context))
    await settle(lambda: gate.total(1)["tls_handshakes.failed"] == 4, "failed handshakes are not counted")
    assert gate.total(2)["started"] == 0  # no request was begun


async def test_a_certificate_may_be_optional(site: Site, tmp_path: Any) -> None:
    asks = https(client_auth="optional", client_ca=CLIENTS.pem)
    gate = await site.gate([await site.endpoint(answer_ok)], listener=asks)
    reader, writer = await connect(gate, AUTHORITY.client_context())
    assert "client" not in (await get(reader, writer, "X-Forwarded-Client-Cert: Hash=00\r\n")).lower()
    writer.close()
    reader, writer = await connect(gate, with_certificate(CLIENTS.issue(subject="bob", client=True), tmp_path))
    assert 'Subject="CN=bob"' in await get(reader, writer)
    writer.close()


async def test_a_plain_listener_removes_forged_client_certificates(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)])
    reader, writer = await gate.connect()
    assert "Hash" not in await get(reader, writer, "x-forwarded-client-cert: Hash=00\r\n")
    writer.close()


# Resumption, with blocking sockets: asyncio gives no session away.


def visit(port: int, context: ssl.SSLContext, session: Any = None) -> tuple[bool, Any]:
    """One request; whether the session was resumed, and a session for the next time."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="default.test", session=session) as secured,
    ):
        secured.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert secured.recv(65536).startswith(b"HTTP/1.1 200")
        return bool(secured.session_reused), secured.session


@pytest.mark.parametrize("name", ["TLSv1_2", "TLSv1_3"])
async def test_sessions_resume_with_every_worker_while_their_key_is_known(site: Site, name: str) -> None:
    endpoint = await site.endpoint(answer_ok)
    one = await site.gate([endpoint], listener=https(), tickets=(KEY,))
    two = await site.gate([endpoint], listener=https(), tickets=(KEY,))
    context = version(name)
    resumed, session = await asyncio.to_thread(visit, one.port, context)
    assert not resumed
    assert (await asyncio.to_thread(visit, one.port, context, session))[0]
    assert (await asyncio.to_thread(visit, two.port, context, session))[0]
    assert two.total(1)["tls_handshakes.resumed"] == 1

    newer = secrets.token_bytes(80)
    site.reload(two, tickets=(newer, KEY))
    resumed, renewed = await asyncio.to_thread(visit, two.port, context, session)
    assert resumed
    site.reload(two, generation=3, tickets=(newer,))
    assert not (await asyncio.to_thread(visit, two.port, context, session))[0]
    assert (await asyncio.to_thread(visit, two.port, context, renewed))[0]  # was sealed with the newer key


@pytest.mark.parametrize("name", ["TLSv1_2", "TLSv1_3"])
async def test_a_session_without_a_certificate_opens_no_door_that_needs_one(site: Site, name: str) -> None:
    endpoint = await site.endpoint(answer_ok)
    free = await site.gate([endpoint], listener=https(), tickets=(KEY,))
    asks = https(client_auth="required", client_ca=CLIENTS.pem)
    strict = await site.gate([endpoint], listener=asks, tickets=(KEY,))
    context = version(name)
    _, session = await asyncio.to_thread(visit, free.port, context)
    with pytest.raises(OSError, match=r"(?i)alert|reset|eof|closed"):
        await asyncio.to_thread(visit, strict.port, context, session)
    assert strict.total(1)["tls_handshakes.resumed"] == 0


async def test_a_resumed_session_still_has_its_client_certificate(site: Site, tmp_path: Any) -> None:
    asks = https(client_auth="required", client_ca=CLIENTS.pem)
    gate = await site.gate([await site.endpoint(answer_ok)], listener=asks, tickets=(KEY,))
    context = with_certificate(CLIENTS.issue(subject="carol", client=True), tmp_path)

    def ask(session: Any = None) -> tuple[bool, bytes, Any]:
        with (
            socket.create_connection(("127.0.0.1", gate.port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="default.test", session=session) as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return bool(secured.session_reused), secured.recv(65536), secured.session

    resumed, answer, session = await asyncio.to_thread(ask)
    assert not resumed
    assert b'Subject="CN=carol"' in answer
    resumed, answer, _ = await asyncio.to_thread(ask, session)
    assert resumed
    assert b'Subject="CN=carol"' in answer


async def test_a_new_certificate_is_shown_to_new_connections_only(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(), tickets=(KEY,))
    reader, writer = await connect(gate, AUTHORITY.client_context())
    await get(reader, writer)
    fresh = AUTHORITY.issue("default.test", subject="fresh")
    changed = replace(gate.plan.listeners[0], tls=replace(TLS, certificates=(certificate(fresh, "default.test"),)))
    site.reload(gate, listeners=(changed,))
    await get(reader, writer)
    other_reader, other_writer = await connect(gate, AUTHORITY.client_context())
    await get(other_reader, other_writer)
    assert other_writer.get_extra_info("peercert")["subject"] == ((("commonName", "fresh"),),)
    await get(reader, writer)
    writer.close()
    other_writer.close()
