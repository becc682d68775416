"""Sends the worst body of each parser to a daemon of one worker, and measures what another client feels of it.

`python tests/hostile/sweep.py [--size MIB] [--at-once N] [PATTERN]` runs the cases whose names have PATTERN and prints
a table: the longest wait of another client, the memory that the worker took more than before for each byte of a body,
and the answers. `make test-long` runs all cases at their size limits, alone and four at once.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for folder in ("..", "../e2e", "../.."):
    sys.path.insert(0, str((Path(__file__).parent / folder).resolve()))

from daemon import ROOT, Daemon, environment, http_listener, route  # noqa: E402
from sweep_cases import CASES, MIB, Case, request  # noqa: E402
from waiting import eventually  # noqa: E402

WAIT = 0.05  # seconds that another client may wait at most
MEMORY = 4.0  # bytes that a body may take in the worker for each of its own
FLOOR = 8 * MIB  # memory that no body is charged for: arenas, buffers of connections
RUNS = 3  # of a case: what the machine's other work costs is in a run, what the daemon costs is in all


@dataclass(frozen=True)
class Felt:
    """What one run of a case did: the longest wait of another client (s), memory (bytes), status codes."""

    wait: float
    memory: int
    sent: int
    codes: tuple[str, ...]

    @property
    def times(self) -> float:
        """The memory as a multiple of the bytes that the bodies have once they are decompressed."""
        return max(0, self.memory - FLOOR) / self.sent

    @property
    def holds(self) -> bool:
        return self.wait <= WAIT and self.times <= MEMORY and all(self.codes)


def config(endpoint: str) -> dict[str, Any]:
    return {
        "workers": 1,
        "listeners": {
            "web": http_listener(
                {"name": "watch", "match": {"path": {"exact": "/watch"}}, "respond": {"status": 200, "body": "here"}},
                {"name": "regex", "match": {"path": {"regex": "^/regex/(a|aa)+$"}}, "respond": {"status": 200}},
                {
                    "name": "cookie",
                    "match": {"path": {"prefix": "/cookie/"}, "cookies": {"role": "intruder"}},
                    "respond": {"status": 403},
                },
                {
                    "name": "values",
                    "match": {"path": {"prefix": "/values/"}},
                    "redirect": {"location": "/watch?of=" + "${header.x-long}" * 16},
                },
                route("/v2/", "oip", cache=True),
                {"name": "grpc", "match": {"grpc": {"service": "inference.GRPCInferenceService"}}, "pool": "oip"},
                {"name": "rest", "respond": {"status": 200}},
                max_header_bytes="64KiB",
            )
        },
        "pools": {"oip": {"protocol": "oip", "endpoints": [endpoint]}},
        "cache": {"size": "64MiB"},
        "log": {"access": "/dev/null"},
    }


class Site:
    """A daemon of one worker before a model server with the worst answers of `size` bytes."""

    def __init__(self, folder: Path, size: int) -> None:
        self._peer = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sweep_peer.py")), str(size)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=ROOT,
        )
        assert self._peer.stdout is not None
        self.daemon = Daemon(folder, config(self._peer.stdout.readline().strip()))
        self.daemon.wait_ready()
        self.port = self.daemon.port()

    def close(self) -> None:
        self.daemon.kill()
        self._peer.kill()
        self._peer.communicate()

    def pid(self, case: Case) -> int:
        """The process that reads the case's body."""
        return self.daemon.process.pid if case.admin else self.daemon.worker_pids()[0]

    def run(self, case: Case, size: int, at_once: int) -> Felt:
        """Sends the case's request `at_once` times over connections of their own, while another client asks."""
        data, pid = request(case, size), self.pid(case)
        watched = (self.daemon.socket, "/healthz") if case.admin else (str(self.port), "/watch")
        codes = [""] * at_once
        attackers = [threading.Thread(target=self._attack, args=(case, data, codes, i)) for i in range(at_once)]
        with watching(*watched) as watch:
            before = memory_of(pid, "VmRSS")
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            for attacker in attackers:
                attacker.start()
            for attacker in attackers:
                attacker.join()
            memory = memory_of(pid, "VmHWM") - before
        whole = len(case.body(min(size, case.most))) if case.compressed else len(data)
        if case.name.startswith("answer"):
            whole = size
        return Felt(watch.longest, memory, at_once * whole, tuple(codes))

    def _attack(self, case: Case, data: bytes, codes: list[str], i: int) -> None:
        """One attacker; its place in `codes` stays empty if the connection ends without an answer."""
        sock = socket.socket(socket.AF_UNIX if case.admin else socket.AF_INET)
        sock.settimeout(120)
        with contextlib.closing(sock):
            sock.connect(self.daemon.socket if case.admin else ("127.0.0.1", self.port))
            # An answer may come before the body's end, and the connection may end then.
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
            with contextlib.suppress(ConnectionError):
                answer = sock.recv(65536)
                codes[i] = answer[9:12].decode()
                while sock.recv(1 << 20):
                    pass

    def best(self, case: Case, size: int, at_once: int, runs: int = RUNS) -> Felt:
        """The first run that holds, or the one with the shortest wait."""
        felt: list[Felt] = []
        for _ in range(runs):
            felt.append(self.run(case, size, at_once))
            if felt[-1].holds:
                break
        return min(felt, key=lambda run: (not run.holds, run.wait))


class Watch:
    longest = 0.0


@contextlib.contextmanager
def watching(address: str, path: str) -> Iterator[Watch]:
    """Another client, in a process of its own; `longest` is its longest wait, afterwards."""
    command = [sys.executable, str(Path(__file__).with_name("sweep_watch.py")), address, path]
    watch = Watch()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield watch
    finally:
        out, _ = process.communicate()
    # A watched server that ended has held everybody up for good.
    watch.longest = float(out) if process.returncode == 0 else float("inf")


def memory_of(pid: int, name: str) -> int:
    """A figure of the process's memory in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


@contextlib.contextmanager
def site(size: int) -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as folder:
        made = Site(Path(folder), size)
        try:
            yield made
        finally:
            made.close()


def sweep(size: int, at_once: list[int], pattern: str) -> bool:
    """Prints the table; whether all cases held."""
    cases = [case for name, case in CASES.items() if re.search(pattern, name)]
    print("| body | MiB | " + " | ".join(f"{n} at once: wait, ms | memory | answers" for n in at_once) + " |")
    print("|---|---|" + "---|" * 3 * len(at_once))
    held = True
    with site(size) as made:
        for case in cases:
            line = [case.name, f"{min(size, case.most) / MIB:g}"]
            for n in at_once:
                felt = made.best(case, size, n)
                held &= felt.holds
                line += [f"{felt.wait * 1000:.0f}", f"{felt.times:.1f}", ", ".join(sorted(set(felt.codes)))]
            print("| " + " | ".join(line) + " |", flush=True)
            # The next case begins with a worker that answers, whatever this one did.
            eventually(lambda: made.daemon.admin("/readyz")[0] == 200, "a worker that serves", 60)
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description="the worst body of each parser")
    parser.add_argument("pattern", nargs="?", default="", help="of the cases' names (all)")
    parser.add_argument("--size", type=float, default=64, help="MiB of a body (64)")
    parser.add_argument("--at-once", type=int, action="append", help="bodies at once; may be repeated (1 and 4)")
    given = parser.parse_args()
    return 0 if sweep(int(given.size * MIB), given.at_once or [1, 4], given.pattern) else 1


if __name__ == "__main__":
    sys.exit(main())
