"""TLS that ended at a TCP listener, as its endpoint is told of it by the PROXY protocol (PP2_TYPE_SSL)."""

from __future__ import annotations

import asyncio
import ssl
import struct
from typing import Any

import pytest
from authority import Authority
from compiled.bytes_to_values import proxy_header
from datapath import Gate, Site
from msgspec.structs import replace
from test_proxy_protocol import CLIENT, SITE, TRUSTED, header_keeper
from test_tls_tcp import AUTHORITY, TLS, idle

from lb.config.plan.tls import CertificatePlan

CLIENTS = Authority("Clients")
VERSION, CN, CIPHER, SIG_ALG, KEY_ALG = 0x21, 0x22, 0x23, 0x24, 0x25  # 2.2.6
SSL, CERT_CONN, CERT_SESS = 1, 2, 4


def fields(block: bytes) -> list[tuple[int, bytes]]:
    found = []
    while block:
        kind, length = struct.unpack_from("!BH", block)
        assert len(block) >= 3 + length
        found.append((kind, block[3 : 3 + length]))
        block = block[3 + length :]
    return found


def secured(value: bytes) -> tuple[int, int, dict[int, str]]:
    """The client's flags, the verdict, and the texts of PP2_TYPE_SSL; each type comes once."""
    flags, verdict = struct.unpack_from("!BI", value)
    listed = fields(value[5:])
    assert len(dict(listed)) == len(listed)
    return flags, verdict, {kind: text.decode() for kind, text in listed}


async def ask(gate: Gate, context: ssl.SSLContext, name: str = "default.test", header: bytes = b"") -> Any:
    """A byte there and back, by a client that `header` goes before: its ssl object."""
    reader, writer = await gate.connect()
    writer.write(header)
    await writer.start_tls(context, server_hostname=name)
    writer.write(b"x")
    assert await asyncio.wait_for(reader.readexactly(1), 20) == b"x"
    writer.close()
    return writer.get_extra_info("ssl_object")


def listener(**changes: Any) -> dict[str, Any]:
    return {"protocol": "tcp", "tls": replace(TLS, alpn=("h2", "mqtt"), **changes)}


async def test_a_client_without_a_certificate(site: Site) -> None:
    heads: list[dict[str, Any]] = []
    gate = await site.gate(
        [await site.endpoint(header_keeper(heads))],
        listener=listener(),
        pool={"send_proxy": "v2", "send_checksum": True},
    )
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = AUTHORITY.client_context()
        context.maximum_version = version
        context.set_alpn_protocols(["mqtt"])
        own = await ask(gate, context)
        said = heads.pop()
        assert (said["authority"], said["alpn"]) == (b"default.test", b"mqtt")
        flags, verdict, texts = secured(said["ssl"])
        assert (flags, verdict != 0) == (SSL, True)
        assert texts == {
            VERSION: own.version(),
            CIPHER: own.cipher()[0],
            SIG_ALG: "ecdsa-with-SHA256",
            KEY_ALG: "EC256",
        }
    await idle(gate)


async def test_the_algorithms_are_those_of_the_certificate_that_was_shown(site: Site) -> None:
    heads: list[dict[str, Any]] = []
    pair = AUTHORITY.issue("rsa.test", use_rsa=True)
    both = (*TLS.certificates, CertificatePlan(("rsa.test",), pair.chain, pair.key))
    gate = await site.gate(
        [await site.endpoint(header_keeper(heads))], listener=listener(certificates=both), pool={"send_proxy": "v2"}
    )
    await ask(gate, AUTHORITY.client_context(), "rsa.test")
    said = heads.pop()
    assert (said["authority"], said["alpn"]) == (b"rsa.test", b"")
    assert secured(said["ssl"])[2][KEY_ALG] == "RSA2048"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_with_a_certificate(site: Site, version: ssl.TLSVersion, tmp_path: Any) -> None:
    heads: list[dict[str, Any]] = []
    chain, key = CLIENTS.issue("c.test", subject="Jürgen Ölmüller", client=True).write(tmp_path)
    asked = listener(client_auth="optional", client_ca=CLIENTS.pem)
    gate = await site.gate([await site.endpoint(header_keeper(heads))], listener=asked, pool={"send_proxy": "v2"})
    context = AUTHORITY.client_context()
    context.maximum_version = version
    context.load_cert_chain(chain, key)
    await ask(gate, context)
    flags, verdict, texts = secured(heads.pop()["ssl"])
    assert (flags, verdict, texts[CN]) == (SSL | CERT_CONN | CERT_SESS, 0, "Jürgen Ölmüller")
    await idle(gate)


async def test_what_we_see_goes_before_what_a_header_says(site: Site) -> None:
    """The addresses, the unique id and the fields of unknown types are the header's."""
    heads: list[dict[str, Any]] = []
    gate = await site.gate(
        [await site.endpoint(header_keeper(heads))],
        listener={**listener(), "proxy_protocol": TRUSTED},
        pool={"send_proxy": "v2"},
    )
    custom = struct.pack("!BH", 0xE4, 3) + b"abc" + struct.pack("!BH", 0xEA, 2) + b"\1v"
    lies = {"authority": b"other.test", "alpn": b"h3", "unique_id": b"me", "ssl": b"\7\0\0\0\0", "tlvs": custom}
    context = AUTHORITY.client_context()
    context.set_alpn_protocols(["h2"])
    await ask(gate, context, header=proxy_header(2, CLIENT, SITE, **lies))  # type: ignore[arg-type]
    said = heads.pop()
    assert (said["source"], said["target"], said["unique_id"]) == (CLIENT, SITE, b"me")
    assert (said["authority"], said["alpn"], said["ssl"][0]) == (b"default.test", b"h2", SSL)
    assert fields(said["tlvs"])[-2:] == [(0xE4, b"abc"), (0xEA, b"\1v")]
    assert [kind for kind, _ in fields(said["tlvs"])] == [1, 2, 5, 0x20, 0xE4, 0xEA]


async def test_fields_of_unknown_types_are_passed_on(site: Site) -> None:
    """Without TLS, and where they are all that the header has beside the addresses."""
    heads: list[dict[str, Any]] = []
    gate = await site.gate(
        [await site.endpoint(header_keeper(heads))],
        listener={"protocol": "tcp", "proxy_protocol": TRUSTED},
        pool={"send_proxy": "v2", "send_checksum": True},
    )
    for tlvs in (b"\xe0\0\1a", b"\xe0\0\0\xe0\0\1b\xef\0\2cd", b"\xee\x07\xd0" + bytes(2000)):
        reader, writer = await gate.connect()
        writer.write(proxy_header(2, CLIENT, SITE, tlvs=tlvs) + b"x")
        assert await asyncio.wait_for(reader.readexactly(1), 20) == b"x"
        writer.close()
        assert heads.pop()["tlvs"][:-7] == tlvs
    await idle(gate)


async def test_version_1_has_no_room_for_it(site: Site) -> None:
    heads: list[dict[str, Any]] = []
    gate = await site.gate([await site.endpoint(header_keeper(heads))], listener=listener(), pool={"send_proxy": "v1"})
    await ask(gate, AUTHORITY.client_context())
    assert (heads[0]["version"], heads[0]["ssl"]) == (1, b"")
