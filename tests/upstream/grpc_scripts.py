"""What a peer over gRPC does in a test, as a list of actions."""

from __future__ import annotations

from scripted_peer import Peer


async def forever(peer: Peer) -> None:
    while True:
        await peer.next_frame()


async def echo(peer: Peer) -> None:
    await peer.settle()
    while True:
        stream, _, body = await peer.request()
        peer.answer(stream, body[5:])
