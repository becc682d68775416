"""The same attacks on Tidegate, HAProxy and nginx, one after another, each with one worker: what others had meanwhile.

    python tests/hostile/peers.py                    all attacks
    python tests/hostile/peers.py h2-made-reset      those whose name begins so
    python tests/hostile/peers.py --seconds 3 h2     for so long each

Prints the rows of the table in docs/reliability.md: answers to eight clients that ask ten times a second each, their
p99, and those that failed. The attackers are a process of their own: clients in one process with them would wait for
them, and longest where an attack is ended soonest, since it begins anew. Not part of `make test`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

for folder in ("..", "../e2e", "../.."):
    sys.path.insert(0, str((Path(__file__).parent / folder).resolve()))

import http1_attacks  # noqa: E402
import http2_attacks  # noqa: E402
from daemon import Daemon, http_listener, route  # noqa: E402
from hostile_site import Attack, Server, besieged  # noqa: E402
from ports import free_port, wait_for_port  # noqa: E402

ATTACKS = [*http1_attacks.ATTACKS, *http2_attacks.ATTACKS]
CLIENTS, RATE = 8, 10.0
PATIENCE = 5.0  # seconds after which an answer counts as failed

HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-request 1s
  timeout http-keep-alive 15s
frontend web
  bind 127.0.0.1:{port}
  default_backend app
backend app
  server app {address}
"""
NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 8000; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  client_header_timeout 1s; client_body_timeout 1s; send_timeout 1s; keepalive_timeout 15s;
  upstream app {{ server {address}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{http2} http2;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


@dataclass
class Seen:
    """What the well-behaved clients met."""

    times: list[float] = field(default_factory=list)
    failed: int = 0

    def row(self) -> str:
        p99 = statistics.quantiles(self.times, n=100)[98] * 1e3 if len(self.times) > 1 else float("nan")
        return f"{len(self.times):,} | {p99:,.0f} | {self.failed}"


async def client(port: int, until: float, seen: Seen) -> None:
    while time.monotonic() < until:
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                while time.monotonic() < until:
                    asked = time.monotonic()
                    limit.reschedule(asyncio.get_running_loop().time() + PATIENCE)
                    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(2)
                    if not head.startswith(b"HTTP/1.1 200"):
                        raise ConnectionError
                    seen.times.append(time.monotonic() - asked)
                    await asyncio.sleep(max(0.0, asked + 1 / RATE - time.monotonic()))
                writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            seen.failed += 1


async def attack_for_ever(name: str, port: int) -> None:
    """What the process of the attackers does, until it is killed."""
    (attack,) = (attack for attack in ATTACKS if attack.name == name)
    async with besieged(attack, port):
        print("attacking", flush=True)
        await asyncio.Event().wait()


@contextlib.contextmanager
def attackers(attack: Attack, port: int) -> Iterator[None]:
    command = [sys.executable, __file__, "--attack", str(port), attack.name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"attacking\n"
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def run(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def tidegate(folder: Path, address: str, attack: Attack) -> Iterator[tuple[int, int]]:
    # As many connections as the others are allowed. That fewer hold is what the tests of many connections are about.
    settings = {name: value for name, value in attack.listener.items() if name != "max_connections"}
    config = {
        "workers": 1,
        "listeners": {"web": http_listener(route("/", "app"), **settings)},
        "pools": {"app": {"protocol": "http", "endpoints": [address]}},
        "log": {"access": "/dev/null"},
    }
    daemon = Daemon(folder, config)
    try:
        daemon.wait_ready()
        yield daemon.port(), daemon.port()
    finally:
        daemon.kill()


@contextlib.contextmanager
def haproxy(folder: Path, address: str, attack: Attack) -> Iterator[tuple[int, int]]:
    port = free_port()
    path = folder / "haproxy.cfg"
    path.write_text(HAPROXY.format(port=port, address=address))
    with run(["haproxy", "-db", "-f", str(path)], port):
        yield port, port


@contextlib.contextmanager
def nginx(folder: Path, address: str, attack: Attack) -> Iterator[tuple[int, int]]:
    port, http2 = free_port(), free_port()
    path = folder / "nginx.conf"
    path.write_text(NGINX.format(folder=folder, port=port, http2=http2, address=address))
    with run(["nginx", "-c", str(path)], http2):
        yield port, http2


PROXIES: dict[str, Callable[..., contextlib.AbstractContextManager[tuple[int, int]]]] = {
    "tidegate": tidegate,
    "haproxy": haproxy,
    "nginx": nginx,
}


async def measure(proxy: str, attack: Attack, seconds: float) -> Seen:
    server, seen = Server(), Seen()
    await server.start()
    with (
        tempfile.TemporaryDirectory() as folder,
        PROXIES[proxy](Path(folder), server.address, attack) as (port, http2),
        attackers(attack, http2 if attack.name.startswith("h2") else port),
    ):
        until = time.monotonic() + seconds
        await asyncio.gather(*(client(port, until, seen) for _ in range(CLIENTS)))
    server.close()
    return seen


async def main(options: argparse.Namespace) -> None:
    print("| attack |" + "".join(f" {proxy}: answers | p99, ms | failed |" for proxy in options.proxies))
    print("|---|" + "---:|---:|---:|" * len(options.proxies))
    for attack in ATTACKS:
        if attack.name.startswith(tuple(options.attacks) or ("",)):
            cells = [(await measure(proxy, attack, options.seconds)).row() for proxy in options.proxies]
            print(f"| {attack.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", help="beginnings of their names; none means all")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--proxies", nargs="+", default=list(PROXIES), choices=list(PROXIES))
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.run(main(options) if options.attack is None else attack_for_ever(options.attacks[0], options.attack))
