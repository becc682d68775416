"""Loads the detector and shows how it is scaled: `python load.py`.

A few clients ask for images one after another, as fast as they are answered, and leave again. The script prints once
a second what is going on, and each change of the number of model servers with its reason. No image is asked for twice,
or the answer would be from the cache.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import scenes
from detect import Detector, pixels

PHASES = ((0, 5.0), (6, 45.0), (0, 45.0))  # clients, seconds
POOL = "detector"


@dataclass
class Load:
    """Clients of `server`, whose number changes."""

    server: str
    clients: int = 0
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, number: int, done: Callable[[], bool]) -> None:
        """Client `number`, which asks while there are to be more clients than that."""
        detector, values = Detector(self.server), pixels(scenes.scene(number).image)
        while not done():
            if number >= self.clients:
                time.sleep(0.05)
                continue
            values[0, 0, 0] = next(self.numbers) / 1e6
            try:
                detector.ask(values)
                self.answered += 1
            except Exception as error:
                self.failed.append(str(error))


def status(admin: str) -> dict[str, Any]:
    """What the daemon says of the pool of the detector; `admin` is `host:port`, or the path of a Unix socket."""
    connection = http.client.HTTPConnection("localhost" if "/" in admin else admin, timeout=10)
    if "/" in admin:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(admin)
    connection.request("GET", "/api/v1/status")
    document = json.loads(connection.getresponse().read())
    connection.close()
    return next(pool for pool in document["pools"] if pool["name"] == POOL)


def main() -> None:
    parser = argparse.ArgumentParser(description="Load the detector and show how it is scaled.")
    parser.add_argument("--server", default="127.0.0.1:8080")
    parser.add_argument("--admin", default="127.0.0.1:9900")
    given = parser.parse_args()
    load, over = Load(given.server), threading.Event()
    most = max(clients for clients, _ in PHASES)
    threads = [threading.Thread(target=load.run, args=(number, over.is_set), daemon=True) for number in range(most)]
    for thread in threads:
        thread.start()
    seen, begun = set(), time.monotonic()
    for clients, seconds in PHASES:
        load.clients = clients
        print(f"-- {clients} clients for {seconds:g} s")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            before = load.answered
            time.sleep(1)
            managed = status(given.admin)["managed"]
            ready = sum(replica["state"] == "ready" for replica in managed["replicas"])
            rate = f"{load.answered - before:3d} images/s"
            print(f"{time.monotonic() - begun:4.0f} s: {rate}, {ready} of {managed['wanted']} model servers ready")
            for event in managed["scaling"]["events"]:
                if event["at"] not in seen:
                    seen.add(event["at"])
                    print(f"        scaled from {event['from']} to {event['to']}: {event['reason']}")
    over.set()
    for thread in threads:
        thread.join()
    print(f"{load.answered} images, {len(load.failed)} failed {load.failed[:3] or ''}")


if __name__ == "__main__":
    main()
