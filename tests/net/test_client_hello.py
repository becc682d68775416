"""ClientHellos: OpenSSL's own, cut anywhere; others made by hand; and every way to get one wrong."""

from __future__ import annotations

import contextlib
import random
import ssl
import struct

import pytest
from compiled.bytes_to_values import parse_hello
from hypothesis import given
from hypothesis import strategies as st


def of_openssl(name: str | None, protocols: list[str] | None = None, version: ssl.TLSVersion | None = None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    if version:
        context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, content)


def names(*given: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in given)))


def alpn(*given: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in given)))


def message(*extensions: bytes, version: bytes = b"\3\3", session: bytes = b"", suites: bytes = b"\x13\1") -> bytes:
    body = version + bytes(32) + vector(1, session) + vector(2, suites) + vector(1, b"\0")
    if extensions:
        body += vector(2, b"".join(extensions))
    return b"\1" + vector(3, body)


def records(handshake: bytes, size: int = 16384) -> bytes:
    parts = [handshake[i : i + size] for i in range(0, len(handshake), size)]
    return b"".join(b"\x16\3\1" + vector(2, part) for part in parts)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["example.org", "a" * 63 + ".b.example", None])
@pytest.mark.parametrize("protocols", [None, ["h2", "http/1.1"]])
def test_openssl(version: ssl.TLSVersion, name: str | None, protocols: list[str] | None) -> None:
    hello = of_openssl(name, protocols, version)
    assert parse_hello(hello) == (name or "", [p.encode() for p in protocols or []])
    for n in range(len(hello)):
        assert parse_hello(hello[:n]) is None


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100])
def test_cut_into_records(size: int) -> None:
    hello = of_openssl("example.org", ["h2"])
    cut = records(hello[5:], size)
    assert parse_hello(cut) == ("example.org", [b"h2"])
    for n in range(0, len(cut), 1 if size > 3 else 13):
        assert parse_hello(cut[:n]) is None


def test_what_follows_is_not_looked_at() -> None:
    assert parse_hello(records(message(names(b"a.example"))) + b"anything") == ("a.example", [])
    assert parse_hello(records(message(names(b"a.example")) + b"\x0b\0\0\1x")) == ("a.example", [])


def test_without_extensions() -> None:
    assert parse_hello(records(message())) == ("", [])
    assert parse_hello(records(message(version=b"\3\1"))) == ("", [])


def test_unknown_values_are_skipped() -> None:
    """GREASE (RFC 8701): reserved cipher suites, extensions, versions and protocols."""
    grease = [extension(n, content) for n, content in ((0x0A0A, b""), (0xFAFA, b"\0"), (0x5A5A, bytes(300)))]
    known = [names(b"a.example"), alpn(b"\x0a\x0a", b"h2")]
    hello = message(grease[0], known[0], grease[1], known[1], grease[2], suites=b"\x2a\x2a\x13\1")
    assert parse_hello(records(hello)) == ("a.example", [b"\x0a\x0a", b"h2"])


def test_the_name_is_brought_to_one_form() -> None:
    assert parse_hello(records(message(names(b"WWW.Example.ORG."))))[0] == "www.example.org"
    assert parse_hello(records(message(names(b"a_b-c.example"))))[0] == "a_b-c.example"
    assert parse_hello(records(message(names(b"x" * 255))))[0] == "x" * 255
    assert parse_hello(records(message(names(b"opaque", kind=7))))[0] == ""


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"\x15\3\1\0\2\2\x28", b"\x16\2\0", b"\x80\x2e\1\0\2", b"\r\n", b"\0"],
)
def test_what_is_no_tls(data: bytes) -> None:
    with pytest.raises(ValueError, match="not TLS"):
        parse_hello(data)


@pytest.mark.parametrize(
    "data",
    [
        records(b"\2" + message()[1:]),
        b"\x16\3\1\0\0",
        b"\x16\3\1\x40\1",
        records(message(version=b"\2\0")),
        records(message(session=bytes(33))),
        records(message(suites=b"")),
        records(message(suites=b"\x13\1\0")),
        records(message(names(b"a.example"), names(b"b.example"))),
        records(message(names(b"a.example", b"b.example"))),
        records(message(alpn(b"h2"), alpn(b"h2"))),
        records(message(alpn(b""))),
        records(message(alpn())),
        records(message(names())),
        records(message(names(b""))),
        records(message(names(b"."))),
        records(message(names(b"a\0b"))),
        records(message(names(b"a b"))),
        records(message(names("é".encode()))),
        records(message(names(b"x" * 256))),
        records(message(extension(0, b""))),
        records(message(extension(0, b"\0\5\0\0\1a"))),
        records(message(extension(0, b"\0\4\0\0\2a"))),
        records(message(b"\0")),
        records(message(b"\0\0\0\5a")),
        records(message() + b"")[:5] + b"\1\0\0\1\3",
        records(b"\1" + vector(3, message(names(b"a.example"))[4:] + b"\0")),
        records(message(names(b"a.example")), 50)[:55] + b"\x17\3\3\0\1x",
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(ValueError, match="no ClientHello"):
        parse_hello(data)


def test_the_size_is_bounded() -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_hello(b"\x16\3\1\0\4\1\0\x40\0")
    largest = message(extension(21, bytes(16384 - len(message(extension(21, b""))))))
    assert len(largest) == 16384
    assert parse_hello(records(largest, 16000)) == ("", [])
    assert parse_hello(records(largest, 16000)[:-1]) is None
    with pytest.raises(ValueError, match="too long"):
        parse_hello(records(message(extension(21, bytes(16384)))))
    # Cut so fine that the record headers are most of it.
    with pytest.raises(ValueError, match="too long"):
        parse_hello(records(largest, 1)[: 1 << 15])


@given(st.binary(max_size=400))
def test_anything_at_all(data: bytes) -> None:
    for start in (b"", b"\x16\3\1", b"\x16\3\1\1\0\1\0\0\x80\3\3" + bytes(32)):
        with contextlib.suppress(ValueError):
            parse_hello(start + data)


def test_random_damage_never_crashes() -> None:
    rng = random.Random(11)
    good = of_openssl("some.example.org", ["h2", "http/1.1"])
    for _ in range(20_000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(ValueError):
            parse_hello(bytes(data[: rng.randrange(len(data) + 1)]))
