"""NTLM and Negotiate authenticate a connection: it is never another client's (RFC 4559 section 6)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from datapath import Gate, Site, settle
from h2_client import h2_client


@dataclass
class Office:
    """Authenticates connections as such servers do: whoever speaks through one that is, is `joe`."""

    name: str = "a"
    scheme: bytes = b"NTLM"
    connections: int = 0
    seen: list[tuple[int, bytes]] = field(default_factory=list)  # connection, target

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number, steps = self.connections, 0
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.seen.append((number, head.split(b" ")[1]))
            if b"authorization: " + self.scheme.lower() in head.lower():
                steps += 1
            if b" /open" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nopen")
            elif steps < 2:
                challenge = b'WWW-Authenticate: Basic realm="x, y", %s%s\r\n' % (self.scheme, b" abc" if steps else b"")
                writer.write(b"HTTP/1.1 401 Unauthorized\r\n" + challenge + b"Content-Length: 0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\njoe")


async def ask(pair: tuple[asyncio.StreamReader, asyncio.StreamWriter], target: str = "/", proof: str = "") -> bytes:
    reader, writer = pair
    line = f"Authorization: {proof}\r\n" if proof else ""
    writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\n{line}\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head.split(b" ")[1] + b" " + await reader.readexactly(length)


async def sign_in(gate: Gate, scheme: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    joe = await gate.connect()
    assert (await ask(joe)).startswith(b"401")
    assert (await ask(joe, proof=f"{scheme} one")).startswith(b"401")
    assert await ask(joe, proof=f"{scheme} two") == b"200 joe"
    return joe


@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate", "negotiate"])
async def test_the_next_client_is_not_the_last_one(site: Site, scheme: str) -> None:
    office = Office(scheme=scheme.encode())
    gate = await site.gate([await site.endpoint(office)])
    joe = await sign_in(gate, scheme)
    for _ in range(3):
        eve = await gate.connect()
        assert (await ask(eve)).startswith(b"401")
        eve[1].close()
    assert await ask(joe) == b"200 joe"
    assert len({number for number, _ in office.seen[:3]}) == 1  # one connection for the whole handshake
    assert office.seen[-1][0] == office.seen[0][0]
    joe[1].close()
    await settle(lambda: gate.proxy.busy() == 0, "an exchange is left")
    late = await gate.connect()
    assert (await ask(late)).startswith(b"401")
    late[1].close()


async def test_it_closes_with_its_client(site: Site) -> None:
    ended = asyncio.Event()
    office = Office()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await office(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            ended.set()

    gate = await site.gate([await site.endpoint(endpoint)])
    joe = await sign_in(gate, "NTLM")
    assert not ended.is_set()
    joe[1].close()
    await asyncio.wait_for(ended.wait(), 60)


async def test_its_requests_keep_to_the_endpoint(site: Site) -> None:
    offices = [Office("a"), Office("b")]
    gate = await site.gate([await site.endpoint(office) for office in offices])
    joe = await sign_in(gate, "NTLM")
    assert [await ask(joe) for _ in range(4)] == [b"200 joe"] * 4
    assert sorted(len(office.seen) for office in offices) == [0, 7]


async def test_proof_that_comes_unasked_counts_as_well(site: Site) -> None:
    office = Office()
    gate = await site.gate([await site.endpoint(office)])
    joe = await gate.connect()
    assert await ask(joe, "/open", "NTLM one") == b"200 open"
    eve = await gate.connect()
    assert await ask(eve, "/open") == b"200 open"
    assert [number for number, _ in office.seen] == [1, 2]


async def test_others_share_connections(site: Site) -> None:
    office = Office()
    gate = await site.gate([await site.endpoint(office)])
    for _ in range(3):
        client = await gate.connect()
        assert await ask(client, "/open", "Basic abc") == b"200 open"
        client[1].close()
    assert office.connections == 1


async def test_a_client_of_http2_leaves_none_behind(site: Site) -> None:
    office = Office()
    gate = await site.gate([await site.endpoint(office)])
    async with h2_client(gate.port) as client:
        for proof in ("NTLM one", "NTLM two", "NTLM three"):
            assert (await client.fetch("/", fields=[("authorization", proof)])).status == 401
        assert (await client.fetch("/")).status == 401
    assert [number for number, _ in office.seen] == [1, 2, 3, 4]
