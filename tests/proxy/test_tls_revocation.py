"""Certificates that were taken back: clients' and endpoints' by revocation lists, ours by stapled OCSP responses."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from pathlib import Path

import pytest
from authority import Authority, Pair, server_context
from datapath import Gate, Site
from msgspec.structs import replace
from test_tls_upstream import TLS as TOWARDS
from tls_site import AUTHORITY, CLIENTS, DEFAULT, EXACT, KEY, TLS, answer_ok, certificate, connect, get, https

LONG = int(time.time()) + 24 * 3600
GOOD = CLIENTS.issue(subject="good", client=True)
BAD = CLIENTS.issue(subject="bad", client=True)


async def status_of(gate: Gate, name: str, *options: str) -> str:
    """What openssl says of the OCSP response for `name`."""
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{gate.port}", "-servername", name, "-status", *options,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    return out.decode(errors="replace")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_responses_are_stapled_to_their_certificates(site: Site, version: str) -> None:
    certificates = (
        replace(certificate(DEFAULT, "default.test"), staple=AUTHORITY.staple(DEFAULT), staple_until=LONG),
        replace(certificate(EXACT, "a.example.org"), staple=AUTHORITY.staple(EXACT, days=5), staple_until=LONG),
        certificate(AUTHORITY.issue("none.test"), "none.test"),
    )
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(certificates=certificates))
    serials = set()
    for name in ("default.test", "a.example.org"):
        said = await status_of(gate, name, version)
        assert "OCSP Response Status: successful" in said
        assert "Cert Status: good" in said
        serials.add(next(line for line in said.splitlines() if "Serial Number:" in line))
    assert len(serials) == 2
    assert "OCSP response: no response sent" in await status_of(gate, "none.test", version)


async def test_a_response_that_is_too_old_is_left_out(site: Site) -> None:
    old = replace(certificate(DEFAULT), staple=AUTHORITY.staple(DEFAULT), staple_until=int(time.time()) - 1)
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(certificates=(old,)))
    assert "OCSP response: no response sent" in await status_of(gate, "default.test")
    reader, writer = await connect(gate, AUTHORITY.client_context())
    await get(reader, writer)  # and those who do not ask notice nothing
    writer.close()


def client(folder: Path, pair: Pair, version: str) -> ssl.SSLContext:
    context = AUTHORITY.client_context()
    context.load_cert_chain(*pair.write(folder, f"client{id(pair)}"))
    context.maximum_version = context.minimum_version = ssl.TLSVersion[version]
    return context


async def refused(gate: Gate, context: ssl.SSLContext) -> bool:
    try:
        reader, writer = await connect(gate, context)
        await get(reader, writer)
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError) as error:
        return "revoked" in str(error).lower() or not isinstance(error, ssl.SSLError)
    writer.close()
    return False


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("auth", ["required", "optional"])
async def test_a_revoked_client_is_refused(site: Site, tmp_path: Path, version: str, auth: str) -> None:
    tls = https(client_auth=auth, client_ca=CLIENTS.pem, crl=CLIENTS.revoke(BAD))
    gate = await site.gate([await site.endpoint(answer_ok)], listener=tls)
    assert await refused(gate, client(tmp_path, BAD, version))
    assert not await refused(gate, client(tmp_path, GOOD, version))


async def test_a_list_that_is_too_old_or_of_another_authority_refuses_all(site: Site, tmp_path: Path) -> None:
    for crl in (CLIENTS.revoke(days=-1), AUTHORITY.revoke()):
        tls = https(client_auth="required", client_ca=CLIENTS.pem, crl=crl)
        gate = await site.gate([await site.endpoint(answer_ok)], listener=tls)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await get(*await connect(gate, client(tmp_path, GOOD, "TLSv1_3")))


async def test_a_session_does_not_outlive_a_new_list(site: Site, tmp_path: Path) -> None:
    """The client's certificate is looked at once; a session stands for it (RFC 5077 section 5)."""
    plan = replace(TLS, client_auth="required", client_ca=CLIENTS.pem, crl=CLIENTS.revoke())
    gate = await site.gate(
        [await site.endpoint(answer_ok)], listener={"protocol": "https", "tls": plan}, tickets=(KEY,)
    )
    context = client(tmp_path, BAD, "TLSv1_2")

    def handshake(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        plain = socket.create_connection(("127.0.0.1", gate.port), 20)
        with context.wrap_socket(plain, server_hostname="default.test", session=session) as secured:
            secured.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert secured.recv(100).startswith(b"HTTP/1.1 200")
            return secured.session, bool(secured.session_reused)

    session, _ = await asyncio.to_thread(handshake, None)
    session, reused = await asyncio.to_thread(handshake, session)
    assert reused
    (listener,) = gate.plan.listeners
    newer = replace(plan, crl=CLIENTS.revoke(BAD))
    site.reload(gate, listeners=(replace(listener, tls=newer),))
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        await asyncio.to_thread(handshake, session)


@pytest.mark.parametrize("revoked", [True, False])
async def test_a_revoked_endpoint_is_refused(site: Site, tmp_path: Path, revoked: bool) -> None:
    authority = Authority()
    pair = authority.issue("127.0.0.1")
    address = await site.endpoint(answer_ok, server_context(pair, tmp_path))
    crl = authority.revoke(*[pair] if revoked else [])
    gate = await site.gate([address], pool={"tls": replace(TOWARDS, ca=authority.pem, crl=crl)})
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 502 " if revoked else b"HTTP/1.1 200 ")
