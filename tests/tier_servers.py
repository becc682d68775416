"""Real servers of cache tiers, which tests start, stop, kill and lie for."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import redis
import trustme
from ports import free_port, wait_for_port
from waiting import eventually

from lb.cache.tiers.entry import Codec
from lb.cache.tiers.registry import store
from lb.cache.tiers.tier import Tier
from lb.config.plan.tier import TierPlan, TierTlsPlan
from lb.config.units import HOUR, MILLISECOND

SECRET = b"a secret that the daemons of a tier have in common"
USER, PASSWORD = "tidegate", "opensesame"
# What docs/howto/share-a-cache.md says that a user needs.
ALLOWED = ("+get", "+set", "+ping", "+hello", "+client|tracking", "+client|setinfo")
KINDS = ("redis", "valkey", "redis cluster", "redis sentinel", "memcached", "memcacheds")


class TierServers:
    """The servers of one tier on ports of 127.0.0.1. `tls` and `auth`: only who has the authority's certificate, or the
    password."""

    def __init__(self, kind: str, folder: Path, tls: bool = False, auth: bool = False) -> None:
        self.kind, self.folder = kind, folder
        self.tls, self.auth = tls, auth
        self.count = {"redis cluster": 2, "memcacheds": 3}.get(kind, 1)
        self.ports = [free_port() for _ in range(self.count)]
        self.buses = [free_port() for _ in self.ports]
        self.sentinel = free_port() if kind == "redis sentinel" else 0
        self.processes: list[subprocess.Popen[bytes]] = []
        if tls:
            authority = trustme.CA()
            authority.cert_pem.write_to_path(folder / "ca.pem")
            authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")

    def start(self) -> None:
        self.processes = [self._run(port) for port in self.ports]
        for port in self.ports:
            wait_for_port(port)
        if self.kind == "redis cluster":
            self._join()
        if self.sentinel:
            self._watch()

    def kill(self) -> None:
        """kill -9, of all."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Takes connections and requests, and answers nothing."""
        for process in self.processes:
            process.send_signal(signal.SIGSTOP)
        for process in self.processes:
            eventually(lambda process=process: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "a stop")

    def resume(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)

    def plan(self, **other: object) -> TierPlan:
        """Of a tier of these servers, with limits that a busy machine keeps."""
        ports = [self.sentinel] if self.sentinel else self.ports
        fields: dict[str, object] = {
            "type": "memcached" if self.kind.startswith("memcached") else "redis",
            "servers": tuple(f"127.0.0.1:{port}" for port in ports),
            "secret": SECRET,
            "prefix": "tidegate:",
            "timeout_ns": 2000 * MILLISECOND,
            "connect_timeout_ns": 2000 * MILLISECOND,
            "ttl_max_ns": HOUR,
            "cluster": self.kind == "redis cluster",
            "sentinel": "answers" if self.sentinel else "",
        }
        if self.tls:
            fields["tls"] = TierTlsPlan(ca_file=str(self.folder / "ca.pem"))
        if self.auth:
            fields |= {"username": USER, "password": PASSWORD.encode()}
        return TierPlan(**(fields | other))  # type: ignore[arg-type]

    def write(self, name: bytes, value: bytes) -> None:
        """As another program does."""
        if not self.kind.startswith("memcached"):
            with self._client(name) as client:
                client.set(name, value)
            return
        for port in self.ports:  # whichever is asked
            self._say(port, b"ms %b %d\r\n%b\r\n" % (name, len(value), value))

    def read(self, name: bytes) -> bytes | None:
        if not self.kind.startswith("memcached"):
            with self._client(name) as client:
                return client.get(name)  # type: ignore[no-any-return]
        for port in self.ports:
            answer = self._say(port, b"mg %b v\r\n" % name)
            if answer.startswith(b"VA "):
                return answer.partition(b"\r\n")[2][:-2]
        return None

    def names(self) -> list[bytes]:
        """Names of all that is kept; of Redis only."""
        found: list[bytes] = []
        for port in self.ports:
            with redis.Redis(port=port) as client:
                found += client.keys()
        return found

    def _client(self, name: bytes) -> redis.Redis:
        for port in self.ports[1:]:
            slot_owner = redis.Redis(port=port)
            with contextlib.suppress(redis.exceptions.ResponseError):  # MOVED
                slot_owner.get(name)
                return slot_owner
        return redis.Redis(port=self.ports[0])

    def _say(self, port: int, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request + b"mn\r\n")
            answer = b""
            while not answer.endswith(b"MN\r\n"):
                answer += connection.recv(1 << 20)
            return answer[:-4]

    def _run(self, port: int) -> subprocess.Popen[bytes]:
        name = "memcached" if self.kind.startswith("memcached") else f"{self.kind.split()[0]}-server"
        program = shutil.which(name)
        assert program, f"the Debian package {name} is needed"
        arguments = self._of_memcached(port) if name == "memcached" else self._of_redis(port)
        return _popen(program, *arguments)

    def _of_memcached(self, port: int) -> list[str]:
        arguments = ["-u", "root", "-l", "127.0.0.1", "-p", str(port), "-I", "4m"]
        if self.tls:
            arguments += ["-Z", "-o", f"ssl_chain_cert={self.folder}/server.pem,ssl_key={self.folder}/server.pem"]
        if self.auth:
            (self.folder / "users").write_text(f"{USER}:{PASSWORD}\n")
            arguments += ["-Y", str(self.folder / "users")]
        return arguments

    def _of_redis(self, port: int) -> list[str]:
        folder = self.folder / str(port)
        folder.mkdir(exist_ok=True)
        arguments = ["--dir", str(folder), "--save", "", "--bind", "127.0.0.1", "--port", str(0 if self.tls else port)]
        if self.kind == "redis cluster":
            bus = str(self.buses[self.ports.index(port)])  # by default 10000 more, which others may have
            arguments += ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-port", bus]
        if self.tls:
            pem = str(self.folder / "server.pem")
            arguments += ["--tls-port", str(port), "--tls-cert-file", pem, "--tls-key-file", pem]
            arguments += ["--tls-auth-clients", "no", "--tls-ca-cert-file", str(self.folder / "ca.pem")]
        if self.auth:
            arguments += ["--user", "default", "off", "--user", USER, "on", f">{PASSWORD}", "~tidegate:*", *ALLOWED]
        return arguments

    def _join(self) -> None:
        first, second = (redis.Redis(port=port) for port in self.ports)
        if first.execute_command("CLUSTER INFO")["cluster_slots_assigned"] == "0":
            first.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8000)
            second.execute_command("CLUSTER ADDSLOTSRANGE", 8001, 16383)
            first.execute_command("CLUSTER MEET", "127.0.0.1", self.ports[1], self.buses[1])

        def joined() -> bool:
            infos = [one.execute_command("CLUSTER INFO") for one in (first, second)]
            return all(i["cluster_state"] == "ok" and i["cluster_slots_assigned"] == "16384" for i in infos)

        eventually(joined, "the nodes have found each other")

    def _watch(self) -> None:
        file = self.folder / "sentinel.conf"
        file.write_text(f"port {self.sentinel}\nbind 127.0.0.1\nsentinel monitor answers 127.0.0.1 {self.ports[0]} 1\n")
        self.processes.append(_popen("redis-server", str(file), "--sentinel"))
        wait_for_port(self.sentinel)

    def _end(self, number: int) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
        for process in self.processes:
            process.wait(20)
        self.processes = []


def _popen(*command: str) -> subprocess.Popen[bytes]:
    """A server that does not outlive the tests, however they end."""
    guarded = ["setpriv", "--pdeathsig", "KILL", "--", *command]
    return subprocess.Popen(guarded, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class CuttingRelay:
    """Between a tier and its server: the next `left` bytes of answers pass, then connections are closed."""

    def __init__(self, port: int) -> None:
        self.target, self.port = port, free_port()
        self.left: int | None = None  # None = all
        self.cut = 0  # connections
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CuttingRelay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            theirs, out = await asyncio.open_connection("127.0.0.1", self.target)
            requests = asyncio.ensure_future(self._pass(reader, out))
            while data := await theirs.read(1 << 16):
                if self.left is not None:
                    passed, self.left = data[: self.left], max(0, self.left - len(data))
                    writer.write(passed)
                    if len(passed) < len(data):
                        self.cut += 1
                        break
                else:
                    writer.write(data)
            with contextlib.suppress(OSError):
                await writer.drain()
            requests.cancel()
            out.close()
            writer.close()
        except OSError:
            writer.transport.abort()
        finally:
            self._running.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()


def make_tier(plan: TierPlan, told: list[bytes | None] | None = None) -> Tier:
    """As lb.cache.tiers.registry.build does; `told` gets what others have purged."""
    heard = told if told is not None else []
    return Tier(
        store(plan), Codec(plan.secret), plan.timeout_ns, plan.connect_timeout_ns, plan.ttl_max_ns, heard.append
    )
