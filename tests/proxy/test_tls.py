"""TLS in front: versions, names, client certificates, resumption, and those who do not play by the rules."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
import shutil
import socket
import ssl
from dataclasses import replace
from typing import Any

import pytest
from authority import Authority, Pair
from datapath import SECOND, Gate, Site, settle

from lb.config.tls_plan import CertificatePlan, TlsPlan

AUTHORITY = Authority()
CLIENTS = Authority("Clients")
DEFAULT = AUTHORITY.issue("default.test")
EXACT = AUTHORITY.issue("a.example.org", use_rsa=True)
WILDCARD = AUTHORITY.issue("*.example.org")
BLOCK = random.Random(5).randbytes(1 << 20)
KEY = secrets.token_bytes(80)

FULL, RESUMED, FAILED = 15, 16, 17  # words of a listener's series


def certificate(pair: Pair, *names: str) -> CertificatePlan:
    return CertificatePlan(names, pair.chain, pair.key)


TLS = TlsPlan(
    certificates=(
        certificate(DEFAULT, "default.test"),
        certificate(WILDCARD, "*.example.org"),
        certificate(EXACT, "a.example.org"),
    ),
    min_version="tls1.2",
    ciphers="",
    alpn=("http/1.1",),
    client_auth="none",
    client_ca=b"",
    handshake_timeout_ns=10 * SECOND,
)


def https(**changes: Any) -> dict[str, Any]:
    return {"protocol": "https", "tls": replace(TLS, **changes)}


async def answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the head of the request as the body."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head))


async def echo_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for i in range(0, len(body), 100_000):
            writer.write(body[i : i + 100_000])
            await writer.drain()


async def connect(
    gate: Gate, context: ssl.SSLContext, name: str = "default.test"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "127.0.0.1", gate.port, ssl=context, server_hostname=name, limit=1 << 24, ssl_handshake_timeout=20
    )


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, extra: str = "") -> str:
    writer.write(f"GET / HTTP/1.1\r\nHost: default.test\r\n{extra}\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 200"), head
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    return (await reader.readexactly(int(length[1]))).decode()


def version(name: str) -> ssl.SSLContext:
    context = AUTHORITY.client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[name]
    return context


@pytest.mark.parametrize("name", ["TLSv1_2", "TLSv1_3"])
async def test_requests_pass_and_the_endpoint_learns_of_tls(site: Site, name: str) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    reader, writer = await connect(gate, version(name))
    for _ in range(3):
        head = await get(reader, writer, "X-Forwarded-Proto: http\r\n")
        assert "X-Forwarded-Proto: https\r\n" in head
        assert "X-Forwarded-Proto: http\r\n" not in head
    secured = writer.get_extra_info("ssl_object")
    assert secured.version() == name.replace("_", ".")
    assert secured.selected_alpn_protocol() is None
    writer.close()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")
    assert gate.total(1)[FULL : FAILED + 1] == [1, 0, 0]


@pytest.mark.parametrize("name", ["TLSv1_2", "TLSv1_3"])
async def test_big_bodies_pass_both_ways(site: Site, name: str) -> None:
    gate = await site.gate([await site.endpoint(echo_body)], listener=https())
    reader, writer = await connect(gate, version(name))
    for size in (1, 16383, 16384, 16385, 65536, len(BLOCK), 3):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(BLOCK[:size])
        await writer.drain()
        await asyncio.sleep(0.05 if size > 100_000 else 0)  # the answer piles up meanwhile
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert await asyncio.wait_for(reader.readexactly(size), 20) == BLOCK[:size]
    writer.close()


async def test_pipelined_requests_in_one_record(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    reader, writer = await connect(gate, AUTHORITY.client_context())
    writer.write(
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    for i in (1, 2, 3):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None
        assert (await reader.readexactly(int(length[1]))).startswith(b"GET /%d " % i)
    writer.close()


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("a.example.org", "a.example.org"),
        ("A.EXAMPLE.org", "a.example.org"),
        ("b.example.org", "*.example.org"),
        ("default.test", "default.test"),
        ("unknown.test", "default.test"),
        ("deep.b.example.org", "default.test"),  # a wildcard is for one label
        ("example.org", "default.test"),
        (None, "default.test"),
    ],
)
async def test_the_name_chooses_the_certificate(site: Site, asked: str | None, shown: str) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    context = AUTHORITY.client_context()
    context.check_hostname = False
    reader, writer = await connect(gate, context, asked or "")
    await get(reader, writer)
    found = writer.get_extra_info("peercert")["subjectAltName"]
    assert found == (("DNS", shown),)
    writer.close()


async def test_alpn(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    context = AUTHORITY.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    reader, writer = await connect(gate, context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    await get(reader, writer)
    writer.close()
    context = AUTHORITY.client_context()
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        await connect(gate, context)


async def test_old_versions_are_refused(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(min_version="tls1.3"))
    with pytest.raises(ssl.SSLError):
        await connect(gate, version("TLSv1_2"))
    await settle(lambda: gate.total(1)[FAILED] == 1, "the failed handshake is not counted")


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
    await settle(lambda: gate.total(1)[FAILED] == 4, "failed handshakes are not counted")
    assert gate.total(2)[6] == 0  # no request was begun


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
    assert two.total(1)[RESUMED] == 1

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
    assert strict.total(1)[RESUMED] == 0


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


# Those who do not play by the rules.


async def test_http_without_tls_is_answered_in_plain_words(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer
    assert b"https" in answer
    assert gate.total(1)[FAILED] == 1


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"A" * 200, b"SSH-2.0-nobody\r\n"],
    ids=["zeros", "too-long", "ssh"],
)
async def test_garbage_ends_the_connection(site: Site, garbage: bytes) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    answer = await gate.exchange(garbage)
    assert len(answer) < 100  # an alert at most
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")
    assert gate.total(1)[FAILED] == 1
    reader, writer = await connect(gate, AUTHORITY.client_context())
    await get(reader, writer)
    writer.close()


async def test_a_slow_handshake_is_ended(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(handshake_timeout_ns=SECOND // 5))
    reader, writer = await gate.connect()
    started = asyncio.get_running_loop().time()
    for byte in b"\x16\x03\x01\x02\x00":
        writer.write(bytes((byte,)))
        await asyncio.sleep(0.01)
    assert await asyncio.wait_for(reader.read(-1), 20) == b""
    assert asyncio.get_running_loop().time() - started < 10
    writer.close()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")
    assert gate.total(1)[FAILED] == 1


class Raw:
    """A TLS client whose records can be had before they are sent."""

    def __init__(self, port: int) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.secured = AUTHORITY.client_context().wrap_bio(self.incoming, self.outgoing, server_hostname="default.test")
        self.plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        while True:
            try:
                self.secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.plain.sendall(self.outgoing.read())
                self.incoming.write(self.plain.recv(65536))
        self.plain.sendall(self.outgoing.read())

    def record(self, data: bytes) -> bytes:
        self.secured.write(data)
        return self.outgoing.read()

    def read(self) -> bytes:
        """What comes next; raises ssl.SSLError for an alert."""
        while True:
            try:
                return self.secured.read(65536)
            except ssl.SSLWantReadError:
                data = self.plain.recv(65536)
                if not data:
                    return b""
                self.incoming.write(data)


def trickle(port: int) -> bytes:
    """Sends a record with a request byte by byte; what comes back."""
    client = Raw(port)
    record = client.record(b"GET / HTTP/1.1\r\nHost: a\r\nX-Filler: %s\r\n\r\n" % (b"x" * 5000))
    with client.plain:
        client.plain.settimeout(0.02)
        for i in range(1000):
            client.plain.sendall(record[i : i + 1])
            with contextlib.suppress(TimeoutError):
                return client.read()
    return b""


async def test_a_slow_record_is_a_slow_head(site: Site) -> None:
    listener = {**https(), "header_timeout_ns": SECOND // 5}
    gate = await site.gate([await site.endpoint(answer_ok)], listener=listener)
    assert (await asyncio.to_thread(trickle, gate.port)).startswith(b"HTTP/1.1 408")
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")


async def test_a_damaged_record_ends_the_connection(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    dice = random.Random(8)

    def damaged() -> str:
        client = Raw(gate.port)
        record = bytearray(client.record(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
        record[dice.randrange(5, len(record))] ^= 1 << dice.randrange(8)
        with client.plain:
            client.plain.sendall(record)
            try:
                return f"{client.read()!r}"
            except ssl.SSLError as error:
                return str(error)

    for _ in range(20):
        assert "BAD_RECORD_MAC" in (await asyncio.to_thread(damaged)).upper()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "a connection stays")
    assert gate.total(2)[6] == 0  # no request was begun


async def test_a_client_that_takes_nothing_is_given_up(site: Site) -> None:
    async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        for _ in range(64):
            writer.write(BLOCK)
            await writer.drain()

    listener = {**https(), "send_timeout_ns": SECOND // 2}
    gate = await site.gate([await site.endpoint(much)], listener=listener)
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(plain.connect, ("127.0.0.1", gate.port))
        secured = AUTHORITY.client_context().wrap_socket(
            plain, server_hostname="default.test", do_handshake_on_connect=False
        )
        await asyncio.to_thread(secured.do_handshake)
        secured.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await settle(lambda: gate.in_flight() == 1, "the request does not come")
        await settle(lambda: gate.proxy.stats()["connections"] == 0, "the client is waited for")
        secured.close()
    await settle(lambda: gate.in_flight() == 0, "an exchange stays")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_a_renegotiation_is_refused(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    client = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{gate.port}", "-tls1_2"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert client.stdin is not None
    await settle(lambda: gate.total(1)[FULL] == 1, "the first handshake")
    client.stdin.write(b"R\n")
    output, _ = await asyncio.wait_for(client.communicate(), 20)
    assert b"no renegotiation" in output
    assert gate.total(1)[FULL : FAILED + 1] == [1, 0, 0]


async def test_many_handshakes_at_once(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(), tickets=(KEY,))

    async def one() -> None:
        reader, writer = await connect(gate, AUTHORITY.client_context())
        await get(reader, writer)
        writer.close()

    await asyncio.gather(*(one() for _ in range(100)))
    assert gate.total(1)[FULL] == 100


async def test_a_client_that_vanishes_takes_nothing_along(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo_body)], listener=https())
    for _ in range(5):
        _, writer = await connect(gate, AUTHORITY.client_context())
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + BLOCK[:1000])
        await writer.drain()
        writer.transport.abort()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "a connection stays")
    await settle(lambda: gate.in_flight() == 0, "an exchange stays")


async def test_close_notify_says_that_an_answer_is_whole(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    context = AUTHORITY.client_context()

    def ask() -> bytes:
        # suppress_ragged_eofs off: an end without close_notify is an error.
        with (
            socket.create_connection(("127.0.0.1", gate.port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="default.test", suppress_ragged_eofs=False) as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            received = b""
            while data := secured.recv(65536):
                received += data
            return received

    assert (await asyncio.to_thread(ask)).startswith(b"HTTP/1.1 200")
