"""What an upload over HTTP/1.1 hears of the room that its endpoint makes."""

from __future__ import annotations

import asyncio
import socket

import pytest
from compiled.http1_upload import UploadProbe


@pytest.mark.parametrize("flushed", [False, True])
async def test_an_upload_hears_that_all_has_gone_out(flushed: bool) -> None:
    """The endpoint makes room between a write that found none and the end of the same batch, or after it."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        upload = UploadProbe(loop, f"127.0.0.1:{server.getsockname()[1]}")
        peer, _ = server.accept()
        with peer:
            peer.settimeout(10)
            while not upload.connected:
                await asyncio.sleep(0.001)
            sent = 0
            while not upload.pending:
                upload.send(bytes(1 << 16))
                sent += 1 << 16
            read = 0
            while sent - read > upload.pending:
                read += len(peer.recv(1 << 20))
            if flushed:
                upload.flush()
                assert upload.pending == 0
            async with asyncio.timeout(10):
                while not upload.drained:
                    await asyncio.sleep(0.001)
            assert upload.pending == 0
            upload.close()
