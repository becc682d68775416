"""Datagrams through the real daemon: name servers, killed workers, reloads, forged senders, the end."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import psutil
import pytest
from daemon import Daemon, alive, eventually, open_files
from datagrams import LISTENER, ForgedSender, UdpClient, echoes, udp_load
from ports import free_port

Start = Callable[..., Daemon]
DEATHS = 8  # more than a worker that cannot start has before it is tried slowly
WHERE = f"{os.environ.get('PATH', '')}:/usr/sbin"
DNSMASQ, UNBOUND, DNSPERF = (shutil.which(name, path=WHERE) for name in ("dnsmasq", "unbound", "dnsperf"))


def config(addresses: list[Any], listener: dict[str, Any] | None = None, **pool: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"echo": {**LISTENER, **(listener or {})}},
        "pools": {"echo": {"protocol": "udp", "endpoints": addresses, **pool}},
    }


def value(daemon: Daemon, name: str, **labels: str) -> float:
    found = daemon.metrics(f"tidegate_udp_{name}")
    return sum(v for k, v in found.items() if set(labels.items()) <= k)


@pytest.fixture
def name_server() -> Iterator[Callable[[str], str]]:
    """`name_server(answer)` starts dnsmasq, which says `answer` to every name below example.test; its address."""
    processes = []

    def make(answer: str) -> str:
        port = free_port()
        processes.append(
            subprocess.Popen(
                [str(DNSMASQ), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
                 "--listen-address=127.0.0.1", "--bind-interfaces", f"--port={port}", "--user=", "--pid-file=",
                 "--edns-packet-max=4096",
                 f"--address=/example.test/{answer}", f"--txt-record=long.example.test,{','.join(['x' * 200] * 12)}"],
                stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
        query = dns.message.make_query("up.example.test", "A")

        def up() -> bool:
            try:
                return bool(dns.query.udp(query, "127.0.0.1", port=port, timeout=1).answer)
            except dns.exception.Timeout as late:
                raise OSError("no answer") from late

        eventually(up, "dnsmasq", 30)
        return f"127.0.0.1:{port}"

    make.processes = processes  # type: ignore[attr-defined]
    yield make
    for process in processes:
        process.kill()
        process.wait()


def resolve(port: int, name: str, kind: str = "A", host: str = "127.0.0.1", tries: int = 1) -> dns.message.Message:
    """Asks as a stub resolver does: again when no answer comes."""
    query = dns.message.make_query(name, kind, use_edns=0, payload=4096)
    for turn in range(tries):
        try:
            return dns.query.udp(query, host, port=port, timeout=1 if turn + 1 < tries else 10)
        except dns.exception.Timeout:
            if turn + 1 == tries:
                raise
    raise AssertionError("unreachable")


@pytest.mark.skipif(DNSMASQ is None, reason="dnsmasq is not installed (apt-get install dnsmasq-base)")
def test_name_servers(start: Start, name_server: Any) -> None:
    servers = [name_server(answer) for answer in ("192.0.2.1", "192.0.2.2")]
    check = {
        "type": "udp", "interval": "100ms", "fall": 2,
        "send": "TG\x01\0\0\x01\0\0\0\0\0\0\x02up\x07example\x04test\0\0\x01\0\x01",
        "expect": "^TG[\x80-\xff].*\xc0\0\x02",
    }  # fmt: skip
    daemon = start(config(servers, {"udp": {"responses": 1}, "bind": "0.0.0.0:0"}, health=check, policy="round_robin"))
    port = daemon.port("echo")
    given = []
    for number in range(100):
        answer = resolve(port, f"n{number}.example.test", host=f"127.0.0.{number % 3 + 1}")
        assert answer.rcode() == dns.rcode.NOERROR
        given.append(answer.answer[0][0].to_text())
    assert 30 < given.count("192.0.2.1") < 70
    assert set(given) == {"192.0.2.1", "192.0.2.2"}
    long = resolve(port, "long.example.test", "TXT")
    assert len(long.to_wire()) > 2400
    assert not long.flags & dns.flags.TC
    assert value(daemon, "listener_received_datagrams_total") == value(daemon, "listener_sent_datagrams_total") == 101
    assert value(daemon, "listener_open_sessions") == 0
    assert daemon.in_flight() == 0
    eventually(lambda: all(e["check"]["last"].get("ok") for e in daemon.pool("echo")["endpoints"]), "good checks")
    # One goes away: its next question is refused, later ones do not meet it, and then its checks take it out.
    name_server.processes[0].kill()
    name_server.processes[0].wait()
    assert {resolve(port, f"m{n}.example.test", tries=4).answer[0][0].to_text() for n in range(50)} == {"192.0.2.2"}
    eventually(lambda: daemon.pool("echo")["endpoints"][0]["health"] == "down", "the check")


async def test_a_killed_worker_costs_only_its_sessions(start: Start) -> None:
    with echoes(b"a", b"b") as endpoints:
        daemon = start(config([e.address for e in endpoints], policy={"type": "maglev", "key": {"source": True}}))
        port = daemon.port("echo")
        async with udp_load(port, clients=32) as load:
            await load.until(500)
            for _ in range(DEATHS):
                victim = daemon.worker_pids()[0]
                os.kill(victim, signal.SIGKILL)

                def replaced(victim: int = victim) -> bool:
                    return all(w["state"] == "running" and w["pid"] != victim for w in daemon.status()["workers"])

                await asyncio.to_thread(eventually, replaced, "the worker was not replaced")
                await load.until(500)
        # What each had read is lost; what came meanwhile waited in its socket, which the master holds.
        assert load.lost < 32 * DEATHS
        assert load.refused == 0
        assert load.wrong == []
        assert len(load.seen) == 1  # affinity does not depend on the worker
        daemon.write(config([e.address for e in endpoints], {"idle_timeout": "200ms"}))
        await asyncio.to_thread(daemon.reload)
        client = UdpClient(port)
        assert (await client.ask(b"x"))[1:] == b"x"
        client.close()


async def test_the_receive_buffer_is_as_configured_also_after_a_reload(start: Start) -> None:
    with echoes(b"a") as (server,):
        settings = {"udp": {"receive_buffer": "64KiB"}}
        daemon = start(config([server.address], settings))
        row = lambda: daemon.status()["listeners"][0]["receive_buffer"]  # noqa: E731
        assert row() == {"asked": 64 << 10, "given": 64 << 10}
        settings["udp"]["receive_buffer"] = "32KiB"
        assert (await asyncio.to_thread(daemon.reload, config([server.address], settings)))["ok"]
        assert row() == {"asked": 32 << 10, "given": 32 << 10}
        assert (await asyncio.to_thread(daemon.reload, config([server.address])))["ok"]
        assert row()["asked"] == 0


@pytest.mark.parametrize("limit", ["max_sessions", "max_sessions_per_source"])
async def test_limits_hold_over_all_workers(start: Start, limit: str) -> None:
    clients: list[UdpClient] = []

    async def come(host: str = "127.0.0.1") -> float:
        """Forty new clients, one after the other; the sessions that are open then."""
        for _ in range(40):
            clients.append(UdpClient(port, host))
            clients[-1].sock.send(b"x")
            came = len(clients)
            await asyncio.to_thread(eventually, lambda n=came: received() == n, "the datagram")
        return value(daemon, "listener_open_sessions")

    def received() -> float:
        return value(daemon, "listener_received_datagrams_total")

    def settings(most: int) -> dict[str, Any]:
        return config([endpoints[0].address], {"udp": {limit: most}})

    with echoes(b"a") as endpoints:
        daemon = start(settings(10))
        port = daemon.port("echo")
        assert await come() == 10
        victim = daemon.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(eventually, lambda: victim not in daemon.worker_pids(), "the worker's end")
        await asyncio.to_thread(eventually, lambda: len(daemon.worker_pids()) == 2, "its successor")
        assert await come() == 10
        assert (await asyncio.to_thread(daemon.reload, settings(15)))["ok"]
        assert await come() == 15
        for client in clients:
            client.close()


async def test_reloads_under_traffic_lose_nothing(start: Start) -> None:
    dice = random.Random(8)
    with echoes(b"a", b"b", b"c", b"d") as endpoints:
        addresses = [e.address for e in endpoints]
        daemon = start(config(addresses, {"udp": {"requests": 20, "responses": 1}}))
        port = daemon.port("echo")
        before = [open_files(pid) for pid in daemon.worker_pids()]
        async with udp_load(port, clients=24) as load:
            for turn in range(15):
                await load.until(50)
                some = [
                    {"address": a, "weight": dice.randint(1, 3)} for a in dice.sample(addresses, dice.randint(1, 4))
                ]
                limits = {"requests": 20, "responses": 1, "max_sessions": 1000 + turn}
                outcome = await asyncio.to_thread(daemon.reload, config(some, {"udp": limits}))
                assert outcome["ok"], outcome
            await load.until(200)
        assert (load.lost, load.refused, load.wrong) == (0, 0, [])
        assert daemon.port("echo") == port
        short = config(addresses, {"idle_timeout": "200ms", "udp": {"responses": 1}})
        await asyncio.to_thread(daemon.reload, short)
        client = UdpClient(port)
        assert (await client.ask(b"x"))[1:] == b"x"
        client.close()
        assert len(load.seen) == 4
        # Sessions that wait for the rest of their requests have the timeout that they were last armed with.
        assert value(daemon, "listener_open_sessions") <= 24
        assert all(open_files(p) <= b + 24 for p, b in zip(daemon.worker_pids(), before, strict=True))


async def served(client: UdpClient) -> None:
    """An answer within five tries: the kernel drops what comes faster than a worker takes it."""
    for _ in range(5):
        try:
            assert await client.ask(b"mine", 1) == b"amine"
        except TimeoutError:
            continue
        return
    raise AssertionError("a client that was there first is not served")


async def test_forged_senders_leave_memory_bounded(start: Start) -> None:
    try:
        forged = ForgedSender()
    except PermissionError:
        pytest.skip("needs CAP_NET_RAW")
    dice = random.Random(5)
    with echoes(b"a") as endpoints:
        daemon = start(config([endpoints[0].address], {"idle_timeout": "1s", "udp": {"max_sessions": 500}}))
        port = daemon.port("echo")
        workers = [psutil.Process(pid) for pid in daemon.worker_pids()]
        client = UdpClient(port)
        assert await client.ask(b"mine") == b"amine"
        files = [open_files(w.pid) for w in workers]
        memory = [w.memory_info().rss for w in workers]
        for number in range(20_000):
            source = f"127.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(1, 255)}"
            forged.send((source, dice.randrange(1024, 65536)), ("127.0.0.1", port), b"x" * 100)
            if number % 200 == 0:
                await served(client)
                assert all(open_files(w.pid) <= f + 501 for w, f in zip(workers, files, strict=True))
        forged.close()
        assert all(w.memory_info().rss - m < 16 << 20 for w, m in zip(workers, memory, strict=True))
        assert value(daemon, "dropped_datagrams_total", reason="sessions") > 1000
        await asyncio.to_thread(eventually, lambda: value(daemon, "listener_open_sessions") == 0, "the sessions' end")
        assert daemon.in_flight() == 0
        assert [open_files(w.pid) for w in workers] <= files
        client.close()


async def test_a_stop_waits_for_busy_sessions_and_not_for_idle_ones(start: Start) -> None:
    with echoes(b"a") as endpoints:
        daemon = start({**config([endpoints[0].address]), "shutdown": {"drain_timeout": "30s"}})
        port = daemon.port("echo")
        family = [daemon.process.pid, *daemon.worker_pids()]
        idle, busy = UdpClient(port), UdpClient(port)
        assert await idle.ask(b"x") == b"ax"
        assert await busy.ask(b"x") == b"ax"
        daemon.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(eventually, lambda: "stopping" in daemon.log, "the drain")
        for _ in range(10):
            await asyncio.sleep(0.2)
            assert await busy.ask(b"y") == b"ay"
        assert daemon.process.poll() is None
        assert await asyncio.to_thread(daemon.process.wait, 15) == 0
        assert not any(alive(pid) for pid in family)
        with pytest.raises(ConnectionRefusedError):
            await idle.ask(b"x")
        idle.close()
        busy.close()


async def test_the_access_log_and_status_know_datagrams(start: Start, tmp_path: Path) -> None:
    with echoes(b"a") as endpoints:
        path = tmp_path / "access.log"
        daemon = start({**config([endpoints[0].address], {"udp": {"responses": 1}}), "log": {"access": str(path)}})
        port = daemon.port("echo")
        client = UdpClient(port)
        for _ in range(3):
            assert await client.ask(b"xyz") == b"axyz"
        await asyncio.to_thread(eventually, lambda: len(path.read_text().splitlines()) == 3, "the log lines")
        assert '"method":"UDP"' in path.read_text()
        (row,) = daemon.status()["listeners"]
        assert (row["protocol"], row["address"]) == ("udp", f"127.0.0.1:{port}")
        client.close()


async def test_the_next_daemon_starts_while_workers_of_a_killed_master_drain(start: Start) -> None:
    async def until_its_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    tcp = await asyncio.start_server(until_its_end, "127.0.0.1", 0)
    with echoes(b"a") as endpoints:
        file = config([endpoints[0].address])
        file["listeners"]["raw"] = {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw"}
        file["pools"]["raw"] = {"protocol": "tcp", "endpoints": [f"127.0.0.1:{tcp.sockets[0].getsockname()[1]}"]}
        file["shutdown"] = {"drain_timeout": "60s"}
        first = await asyncio.to_thread(start, file)
        port, workers = first.port("echo"), first.worker_pids()
        _, session = await asyncio.open_connection("127.0.0.1", first.port("raw"))
        async with udp_load(port, clients=4) as load:
            await load.until(100)
            eventually(lambda: sum(worker["busy"] for worker in first.status()["workers"]) >= 5, "all sessions")
            os.kill(first.process.pid, signal.SIGKILL)
            await asyncio.to_thread(eventually, lambda: first.log.count("draining") == 2, "the drain")
            file["listeners"]["echo"]["bind"] = f"127.0.0.1:{port}"
            await asyncio.to_thread(start, file)
            await load.until(100)
        assert any(alive(pid) for pid in workers), "the TCP session goes on"
        assert load.wrong == []
        session.close()
        await asyncio.to_thread(eventually, lambda: not any(alive(pid) for pid in workers), "the end of the drain")
    tcp.close()


def test_a_second_daemon_is_told_that_the_address_is_taken(start: Start) -> None:
    first = start(config(["127.0.0.1:9"]))
    taken = first.status()["listeners"][0]["address"]
    second = start(config(["127.0.0.1:9"], {"bind": taken}), ready=False)
    assert second.process.wait(60) != 0
    assert f"cannot listen on {taken} (udp): the address is in use" in second.log


def test_a_name_server_is_told_the_client(start: Start, tmp_path: Path) -> None:
    """By a PROXY header in front of each datagram: Unbound's log has the clients' addresses, each with its queries."""
    port, log = free_port(), tmp_path / "unbound.log"
    (tmp_path / "unbound.conf").write_text(
        f"""
server:
  interface: 127.0.0.1@{port}
  proxy-protocol-port: {port}
  username: ""
  chroot: ""
  directory: "{tmp_path}"
  pidfile: "{tmp_path}/unbound.pid"
  use-syslog: no
  do-daemonize: no
  module-config: "iterator"
  logfile: "{log}"
  log-queries: yes
  local-zone: "example.test." static
  local-data: "www.example.test. A 192.0.2.9"
remote-control:
  control-enable: no
"""
    )
    server = subprocess.Popen([str(UNBOUND), "-c", str(tmp_path / "unbound.conf")], stderr=subprocess.DEVNULL)
    queries = tmp_path / "queries"
    queries.write_text("www.example.test A\n" * 500)
    try:
        question = dns.message.make_query("www.example.test", "A", id=7).to_wire().decode("latin-1")
        pool = {
            "protocol": "udp",
            "endpoints": [f"127.0.0.1:{port}"],
            "send_proxy": {"version": "v2", "checksum": True},
            "health": {"type": "udp", "send": question, "expect": "example", "initial": "down", "rise": 1},
        }
        binds = ["127.0.0.1:0", {"address": f"[::]:{free_port()}", "ipv6only": False}]
        listener = {"bind": binds, "protocol": "udp", "pool": "dns"}
        daemon = start({"workers": 2, "listeners": {"dns": listener}, "pools": {"dns": pool}})
        first = daemon.port("dns")
        both = int(str(binds[1]["address"]).rpartition(":")[2])  # type: ignore[index]

        def code(source: str, to: int = first, host: str = "127.0.0.1") -> dns.rcode.Rcode:
            query = dns.message.make_query("www.example.test", "A")
            return dns.query.udp(query, host, port=to, source=source, timeout=5).rcode()

        def up() -> bool:
            try:
                return code("127.0.0.4") == dns.rcode.NOERROR
            except dns.exception.Timeout as late:
                raise OSError("no answer") from late

        eventually(up, "unbound", 30)
        assert code("127.0.0.6", both) == dns.rcode.NOERROR  # a client of IPv4 at a socket of both families
        assert code("::1", both, "::1") == dns.rcode.NOERROR
        command = [str(DNSPERF), "-s", "127.0.0.1", "-a", "127.0.0.5", "-p", str(first), "-d", str(queries)]
        done = subprocess.run([*command, "-n", "2", "-q", "20"], capture_output=True, text=True, timeout=30, check=True)
        assert "Queries completed:    1000 (100.00%)" in done.stdout, done.stdout
        assert "NOERROR 1000 (100.00%)" in done.stdout
        clients = Counter(re.findall(r"info: (\S+) www\.example\.test\. A IN", log.read_text()))
        assert clients.pop("127.0.0.4") >= 1
        assert clients.pop("127.0.0.1") >= 1  # the checks, whose header says LOCAL
        assert clients == {"127.0.0.5": 1000, "127.0.0.6": 1, "::1": 1}
    finally:
        server.kill()
        server.wait()
