"""Workers that are killed again and again, on Tidegate, HAProxy and nginx: what clients notice. A report, not a test.

    python tests/faults/deaths.py                       all rows
    python tests/faults/deaths.py --proxies tidegate    of one proxy
    python tests/faults/deaths.py --kills 20 --every 1  more kills, seconds apart

Each proxy has two workers, or what it has instead, and no retries. Every `--every` seconds one worker is killed with
SIGKILL, in turn. HAProxy's master ends with its worker; a loop starts HAProxy again after 100 ms, as its unit does.
The last row kills every process of the proxy at once and starts the proxy again at once, under the same load.
Prints the tables of docs/reliability.md. Not part of `make test`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

for folder in ("..", "../e2e", "../.."):
    sys.path.insert(0, str((Path(__file__).parent / folder).resolve()))

import psutil  # noqa: E402
from daemon import Daemon, http_listener, route  # noqa: E402
from fault_site import Clients, load, victims  # noqa: E402
from ports import free_port, wait_for_port  # noqa: E402

UDP_RATE = 5_000  # datagrams/s
KINDS = {"http": "HTTP/1.1, GET", "oip": "HTTP/1.1, POST", "grpc": "gRPC"}

HAPROXY = """
global
  nbthread 2
  maxconn 4000
  master-worker
  stats socket {folder}/haproxy.sock mode 600 level admin
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  retries 0
frontend web
  bind 127.0.0.1:{port}
  default_backend app
backend app
  server app {address} {protocol}
"""
# Ubuntu and Debian build the stream module apart from nginx.
NGINX = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; {user} worker_processes 2; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 8000; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  upstream app {{ server {address}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port} {http2};
    location / {{ {forward} }}
  }}
}}
stream {{
  server {{ listen 127.0.0.1:{udp} udp reuseport; proxy_pass {echo}; }}
}}
"""
TO_HTTP = 'proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";'
TO_GRPC = "grpc_pass grpc://app;"


@dataclass
class Proxy:
    """A proxy under test: its ports, its workers' processes, and how all of it is started again."""

    port: int
    udp: int | None
    workers: Callable[[], list[int]]
    family: Callable[[], list[int]]  # every process of it
    again: Callable[[], None]


class Started:
    """A command that is started again as soon as it has ended, `pause` seconds later."""

    def __init__(self, command: list[str], pause: float) -> None:
        self._command, self.pause, self._over = command, pause, False
        self.process = self._start()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _keep(self) -> None:
        while not self._over:
            self.process.wait()
            if not self._over:
                time.sleep(self.pause)
                self.process = self._start()

    def children(self) -> list[int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.process.pid).children()]
        return []

    def close(self) -> None:
        self._over = True
        for pid in [*self.children(), self.process.pid]:
            kill(pid)
        self._keeper.join()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def tidegate(folder: Path, address: str, kind: str, echo: str) -> Iterator[Proxy]:
    config = {
        "workers": 2,
        "listeners": {
            "web": http_listener(route("/", "app"), bind=f"127.0.0.1:{free_port()}"),
            "datagrams": {"bind": f"127.0.0.1:{free_port()}", "protocol": "udp", "pool": "echo"},
        },
        "pools": {
            "app": {"protocol": "grpc" if kind == "grpc" else "http", "endpoints": [address]},
            "echo": {"protocol": "udp", "endpoints": [echo]},
        },
    }
    daemons = [Daemon(folder, config).wait_ready()]

    def family() -> list[int]:
        master = psutil.Process(daemons[-1].process.pid)
        return [master.pid, *(child.pid for child in master.children(recursive=True))]

    def again() -> None:
        daemons.append(Daemon(folder, config))

    try:
        yield Proxy(daemons[0].port(), daemons[0].port("datagrams"), lambda: daemons[-1].worker_pids(), family, again)
    finally:
        daemons[-1].kill()


@contextlib.contextmanager
def peer(command: list[str], port: int, udp: int | None, pause: float) -> Iterator[Proxy]:
    started = Started(command, pause)

    def again() -> None:
        """The keeper has seen the end already."""

    try:
        wait_for_port(port)
        yield Proxy(port, udp, started.children, lambda: [started.process.pid, *started.children()], again)
    finally:
        started.close()


@contextlib.contextmanager
def haproxy(folder: Path, address: str, kind: str, echo: str) -> Iterator[Proxy]:
    port, path = free_port(), folder / "haproxy.cfg"
    protocol = "proto h2" if kind == "grpc" else ""
    path.write_text(HAPROXY.format(folder=folder, port=port, address=address, protocol=protocol))
    with peer(["haproxy", "-db", "-f", str(path)], port, None, 0.1) as proxy:
        yield proxy


@contextlib.contextmanager
def nginx(folder: Path, address: str, kind: str, echo: str) -> Iterator[Proxy]:
    port, udp, path = free_port(), free_port(), folder / "nginx.conf"
    grpc = kind == "grpc"
    path.write_text(
        NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",
            folder=folder,
            port=port,
            udp=udp,
            address=address,
            echo=echo,
            http2="http2" if grpc else "",
            forward=TO_GRPC if grpc else TO_HTTP,
        )
    )
    with peer(["nginx", "-c", str(path)], port, udp, 0.1) as proxy:
        yield proxy


PROXIES: dict[str, Callable[..., contextlib.AbstractContextManager[Proxy]]] = {
    "tidegate": tidegate,
    "haproxy": haproxy,
    "nginx": nginx,
}


def kill_workers(proxy: Proxy, kills: int, every: float) -> int:
    """Kills one worker after the other; how many there were to kill."""
    done = 0
    for number in range(kills):
        time.sleep(every)
        if workers := sorted(proxy.workers()):
            kill(workers[number % len(workers)])
            done += 1
    return done


def cells(clients: Clients) -> str:
    return f"{clients.answers:,} | {sum(clients.noticed.values())} | {clients.worst:,.0f}"


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    """Gives datagrams back, in a process of its own."""
    port = free_port()
    code = (
        "import socket\n"
        "s = socket.socket(type=socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)\n"
        f"s.bind(('127.0.0.1', {port}))\n"
        "while True: s.sendto(*s.recvfrom(2048))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def datagrams(port: int, seconds: float, during: Callable[[], None]) -> tuple[int, int]:
    """Sends UDP_RATE a second from 50 senders, waits for each to come back: how many were sent, how many were lost."""
    socks = []
    for _ in range(50):
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        socks.append(sock)
    poller = select.epoll()
    by_fd = {sock.fileno(): sock for sock in socks}
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)
    breaking = threading.Thread(target=during)
    breaking.start()
    sent, heard, began = 0, set(), time.monotonic()
    while (now := time.monotonic()) < began + seconds + 1:
        while now < began + seconds and sent < (now - began) * UDP_RATE:
            with contextlib.suppress(ConnectionRefusedError):
                socks[sent % len(socks)].send(sent.to_bytes(8, "big"))
            sent += 1
        for fd, _ in poller.poll(0.001):
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                while True:
                    heard.add(int.from_bytes(by_fd[fd].recv(64), "big"))
    breaking.join()
    poller.close()
    for sock in socks:
        sock.close()
    return sent, sent - len(heard)


def wait_for_answer(port: int) -> None:
    """Returns once a request has been answered: the kernel accepts for a process that is not ready, or that dies."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            if sock.recv(64).startswith(b"HTTP/1.1 "):
                return
        time.sleep(0.01)
    raise SystemExit(f"nothing answers on port {port}")


def kill_all(proxy: Proxy, at: float, seconds: list[float]) -> None:
    """Kills every process, starts the proxy again; appends how long it took until a request was answered."""
    time.sleep(at)
    for pid in proxy.family():
        kill(pid)
    killed = time.monotonic()
    proxy.again()
    wait_for_answer(proxy.port)
    seconds.append(time.monotonic() - killed)


def main(options: argparse.Namespace) -> None:
    seconds = options.kills * options.every + 1.5
    print("| clients |" + "".join(f" {name}: kills | answers | failed | slowest, ms |" for name in options.proxies))
    print("|---|" + "---:|---:|---:|---:|" * len(options.proxies))
    for kind, title in KINDS.items():
        row = []
        for name in options.proxies:
            with (
                tempfile.TemporaryDirectory() as folder,
                victims(Path(folder), 1) as [server],
                PROXIES[name](Path(folder), f"127.0.0.1:{server.port}", kind, "127.0.0.1:9") as proxy,
            ):
                done: list[int] = []
                found = load(
                    Path(folder),
                    proxy.port,
                    lambda p=proxy, d=done: d.append(kill_workers(p, options.kills, options.every)),
                    kinds=[kind],
                    seconds=seconds,
                )
                row.append(f"{done[0]} | {cells(found[kind])}")
        print(f"| {title} | {' | '.join(row)} |", flush=True)
    print("\n| proxy | kills | datagrams | lost |\n|---|---:|---:|---:|")
    for name in options.proxies:
        with (
            tempfile.TemporaryDirectory() as folder,
            echo_server() as echo,
            PROXIES[name](Path(folder), "127.0.0.1:9", "http", echo) as proxy,
        ):
            if proxy.udp is None:
                continue
            done = []
            sent, lost = datagrams(
                proxy.udp,
                seconds,
                lambda p=proxy, d=done: d.append(kill_workers(p, options.kills, options.every)),
            )
            print(f"| {name} | {done[0]} | {sent:,} | {lost:,} |", flush=True)
    print("\n| proxy | all killed, until a request is answered, ms | answers | failed |\n|---|---:|---:|---:|")
    for name in options.proxies:
        with (
            tempfile.TemporaryDirectory() as folder,
            victims(Path(folder), 1) as [server],
            PROXIES[name](Path(folder), f"127.0.0.1:{server.port}", "http", "127.0.0.1:9") as proxy,
        ):
            took: list[float] = []
            found = load(Path(folder), proxy.port, lambda p=proxy, t=took: kill_all(p, 2, t), kinds=["http"], seconds=6)
            clients = found["http"]
            print(
                f"| {name} | {took[0] * 1e3:,.0f} | {clients.answers:,} | {sum(clients.noticed.values())} |", flush=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two kills")
    parser.add_argument("--proxies", nargs="+", default=list(PROXIES), choices=list(PROXIES))
    main(parser.parse_args())
