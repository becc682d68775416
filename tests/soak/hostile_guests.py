"""Hostile clients and a hostile endpoint in the mix of a soak: whoever is honest must not notice them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import http1_attacks
import http2_attacks
from flooding_peer import FLOODS, FloodingPeer
from hostile_site import Attack, Cut, Hostile

# One connection of each at a time, so that attackers do not take the machine from the honest clients' side of it.
NAMES = {
    "h2-ping", "h2-settings", "h2-rapid-reset", "h2-refused", "h2-settings-of-many", "tiny-requests", "tiny-chunks",
}  # fmt: skip
ATTACKS = [
    attack
    for attack in (*http1_attacks.ATTACKS, *http2_attacks.ATTACKS)
    if attack.name in NAMES or attack.name.startswith("h2-made-reset")
]
PAUSE = 0.5  # seconds between two attacks
POOL = "hostile"
PATH = "/hostile"


async def attackers(port: Callable[[], int], stop: asyncio.Event, counts: Counter[str], dice: random.Random) -> None:
    """One attack after another, at random. An attack that the daemon does not end is given up after a while."""
    while not stop.is_set():
        attack: Attack = dice.choice(ATTACKS)
        hostile = Hostile(port(), attack.receive_buffer)
        try:
            async with asyncio.timeout(5):
                await hostile.connect()
                await attack.script(hostile)
            counts["attack over"] += 1
        except (Cut, OSError):
            counts["attack cut"] += 1
        except TimeoutError:
            counts["attack given up"] += 1
        finally:
            hostile.close()
        await asyncio.sleep(PAUSE)


async def victims(port: Callable[[], int], stop: asyncio.Event, counts: Counter[str]) -> None:
    """Requests to the pool of hostile endpoints: each has to get an answer of the daemon's own."""
    while not stop.is_set():
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", port())
                writer.write(f"GET {PATH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
                writer.close()
            counts[f"hostile endpoint {line[9:12].decode() or 'cut'}"] += 1
        except TimeoutError:
            counts["hang: hostile endpoint"] += 1
        except OSError:
            counts["hostile endpoint cut"] += 1
        await asyncio.sleep(PAUSE)


async def flooding_peers() -> list[FloodingPeer]:
    peers = [FloodingPeer(FLOODS[name]) for name in ("ping", "settings")]
    for peer in peers:
        await peer.start()
    return peers


def hostile_pool(peers: list[FloodingPeer], check: str) -> dict[str, Any]:
    """Checked over HTTP/2 as well, and taken for up as long as that can be."""
    health = {"type": check, "interval": "500ms", "timeout": "500ms", "fall": 100, "initial": "up"}
    return {
        "protocol": "http2", "endpoints": [peer.address for peer in peers], "retries": 0, "response_timeout": "5s",
        "health": health,
    }  # fmt: skip
