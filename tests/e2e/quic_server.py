"""A server of QUIC (aioquic) that answers each stream with its name and what came: `quic_server.py PORT NAME ID CERT
KEY`. Its connection ids have ID, hexadecimal digits, behind their first byte, as QUIC-LB has it."""

from __future__ import annotations

import asyncio
import os
import sys
from types import SimpleNamespace

import aioquic.quic.connection
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration

CID_LENGTH = 10  # of aioquic's own random numbers none has this length


async def main(port: str, name: str, server_id: str, certificate: str, key: str) -> None:
    """Serves until it is killed."""
    number = bytes.fromhex(server_id)

    def random(n: int) -> bytes:
        return os.urandom(1) + number + os.urandom(n - 1 - len(number)) if n == CID_LENGTH else os.urandom(n)

    aioquic.quic.connection.os = SimpleNamespace(urandom=random)  # type: ignore[attr-defined]
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"], connection_id_length=CID_LENGTH)
    configuration.load_cert_chain(certificate, key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode() + await reader.read())
        writer.write_eof()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(task := asyncio.ensure_future(answer(reader, writer)))
        task.add_done_callback(tasks.discard)

    tasks: set[asyncio.Future[None]] = set()
    await serve("127.0.0.1", int(port), configuration=configuration, stream_handler=begin)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
