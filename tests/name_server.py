"""A name server for tests: authoritative for what a test writes into `records`, over real UDP and TCP sockets."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

SOA = "ns.test. root.test. 1 60 60 60 {minimum}"


class NameServer:
    """`records[name, type]` is (TTL, values); a name without any record does not exist. All names are absolute.

    `fault` is what happens to every question: None, an rcode, or "silence". `negative` is the SOA record's minimum, in
    seconds; None: denials have no SOA record. `truncate` makes UDP answers empty, so that TCP is needed. `questions`
    has what was asked, as (name, type, "udp" or "tcp").
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.extra: list[tuple[str, str, int, list[str]]] = []  # additional section of every answer
        self.fault: dns.rcode.Rcode | str | None = None
        self.negative: int | None = 60
        self.truncate = False
        self.chase = True  # whether the end of a CNAME chain comes along
        self.questions: list[tuple[str, str, str]] = []
        self.address = ""

    def set(self, name: str, kind: str, *values: str, ttl: int = 1) -> None:
        self.records[name, kind] = (ttl, list(values))

    def asked(self, name: str, kind: str) -> int:
        return sum((n, k) == (name, kind) for n, k, _ in self.questions)

    def answer(self, wire: bytes, by: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.questions.append((name, kind, by))
        if self.fault == "silence":
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        if self.fault is not None:
            response.set_rcode(self.fault)
        elif self.truncate and by == "udp":
            response.flags |= dns.flags.TC
        else:
            self._fill(response, name, kind)
        return response.to_wire()

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> None:
        while (name, kind) not in self.records and (name, "CNAME") in self.records:
            ttl, values = self.records[name, "CNAME"]
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", "CNAME", *values))
            name = values[0]
            if not self.chase:
                return
        if (name, kind) in self.records:
            ttl, values = self.records[name, kind]
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *values))
            for owner, other, seconds, more in self.extra:
                response.additional.append(dns.rrset.from_text(owner, seconds, "IN", other, *more))
            return
        if not any(owner == name for owner, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        if self.negative is not None:
            soa = SOA.format(minimum=self.negative)
            response.authority.append(dns.rrset.from_text("test.", 3600, "IN", "SOA", soa))


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.answer(data, "udp")
        if answer is not None:
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """A running one; its `address` is IP:PORT."""
    server = NameServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = server.answer(await reader.readexactly(length), "tcp")
                if answer is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
        writer.close()

    tcp = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(server), local_addr=("127.0.0.1", port))
    server.address = f"127.0.0.1:{port}"
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
