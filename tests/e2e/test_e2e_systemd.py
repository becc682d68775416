"""Under a systemd that is booted for the test, with the unit as it is shipped: what a restart, an upgrade and a kill
lose."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from booted import Systemd
from daemon import ROOT, digits_pool, eventually, http_listener, route
from ports import free_port
from test_e2e_cache_models import infer, release
from traffic import ask_once
from versioned_server import VersionedServer

Boot = Callable[..., Systemd]


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    booted: list[Systemd] = []

    def boot(config: dict[str, Any], more: str = "") -> Systemd:
        booted.append(Systemd(tmp_path, config, more))
        return booted[-1]

    yield boot
    for systemd in booted:
        print(systemd.log[-20_000:])
        systemd.close()


PLAIN = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def plain(port: int) -> dict[str, Any]:
    """A daemon that answers by itself."""
    return {"listeners": {"web": {**http_listener({"respond": {"status": 200}}), "bind": f"127.0.0.1:{port}"}}}


class Clients:
    """Ask one request after another, each on a connection of its own, and count those that got no answer."""

    def __init__(self, ports: list[int]) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._tasks = [asyncio.create_task(self._ask(port)) for port in ports]
        self._going = True

    async def _ask(self, port: int) -> None:
        while self._going:
            try:
                assert release(await asyncio.wait_for(ask_once(port, infer("m")), 30)) == 1
                self.answered += 1
            except (OSError, EOFError, AssertionError, TimeoutError) as error:
                self.failed.append(repr(error))
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)


async def cached(systemd: Systemd, port: int, server: VersionedServer) -> None:
    """Has answers of both models in the cache, with what the daemon has to know of these for a restart."""
    await ask_once(port, infer("m", 1))
    await ask_once(port, infer("n", 1))
    described = server.described
    await asyncio.to_thread(eventually, lambda: server.described > described + 1, "a look at the models")
    await asyncio.sleep(1.5)  # in which it is noted


async def test_a_restart_and_a_killed_master_lose_no_socket_and_no_cached_answer(
    boot: Boot,
) -> None:
    server = await VersionedServer().start()
    port = free_port()
    config: dict[str, Any] = {
        "cache": {"ttl": "1h"},
        "tables": {"paths": {"key": "${request.path}", "size": 100, "store": ["requests", "gpt0"]}},
        "listeners": {
            "web": {**http_listener(route("/v2", "models"), track="paths"), "bind": f"127.0.0.1:{port}"},
            "local": {
                **http_listener({**route("/v2", "models"), "name": "local"}),
                "bind": "unix:/run/tidegate/web.sock",
            },
            "raw": {"bind": f"127.0.0.1:{free_port()}", "protocol": "udp", "pool": "raw"},
        },
        "pools": {
            "models": {"protocol": "oip", "endpoints": [server.address]},
            "raw": {"protocol": "udp", "endpoints": ["127.0.0.1:9"]},
        },
    }
    systemd = await asyncio.to_thread(boot, config)
    call = asyncio.to_thread
    await call(systemd.systemctl, "start", "tidegate.service")
    names = await call(systemd.stored)
    assert sum("listen,tcp" in name for name in names) == 1
    assert sum("listen,udp" in name for name in names) == 2, "one for each worker"
    assert sum("listen,unix" in name for name in names) == 2, "the admin server's, too"
    assert {"tidegate,segment", "tidegate,segment-facts", "tidegate,segment-tables"} < names.keys()

    def counted() -> tuple[int, int]:
        """Requests of a path, and its mark: they are counted on."""
        shown = json.loads(systemd.tidegate("table", "show", "paths", "--key", "/v2/models/m/infer", "--json"))
        (entry,) = shown["entries"]
        return entry["requests"], entry["gpt0"]

    await ask_once(port, infer("m", 1))
    await call(systemd.tidegate, "table", "set", "paths", "/v2/models/m/infer", "gpt0=7")
    counts = [await call(counted)]

    async def goes_on(what: Callable[[], Awaitable[Any]], failures: int = 2) -> None:
        await cached(systemd, port, server)
        said = systemd.log.count("answers from before are in the cache")
        clients = Clients([port, port])
        await asyncio.sleep(0.2)
        await what()
        words = "answers from before are in the cache"
        await call(eventually, lambda: systemd.log.count(words) > said, words)
        await clients.stop()
        # What a killed worker was answering breaks off; nobody is refused, or waits in vain.
        assert not [error for error in clients.failed if "Refused" in error or "Timeout" in error]
        assert len(clients.failed) <= failures
        assert clients.answered > 10
        for model in ("m", "n"):
            assert (await ask_once(port, infer(model, 1))).cache == "tidegate; hit"
        assert await call(systemd.stored) == names
        counts.append(await call(counted))
        assert counts[-1][0] > counts[-2][0], counts
        assert counts[-1][1] == 7, "its mark"

    await goes_on(lambda: call(systemd.systemctl, "restart", "tidegate.service"))
    pid = await call(systemd.show, "MainPID")
    await goes_on(lambda: call(systemd.tidegate, "upgrade"), failures=0)
    program = (await call(systemd.status))["program"]
    assert (program["upgrades"], program["last_upgrade"]["ok"]) == (1, True)
    assert await call(systemd.show, "MainPID") == pid
    await call(eventually, lambda: systemd.show("SubState") == "running", "the end of the reload")
    await call(systemd.systemctl, "reload", "tidegate.service")
    await goes_on(lambda: call(systemd.kill_master))
    assert await call(systemd.show, "NRestarts") == "1"

    # A listener that is gone is closed for good, and a stop lets go of all.
    del config["listeners"]["local"]
    systemd.write(config)
    await call(systemd.systemctl, "restart", "tidegate.service")
    assert sum("listen,unix" in name for name in await call(systemd.stored)) == 1
    await call(systemd.systemctl, "stop", "tidegate.service")
    assert not await call(systemd.stored)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    assert os.path.exists(systemd.path)
    await server.stop()


def test_wrk_meets_no_error_over_reloads_and_upgrades(boot: Boot) -> None:
    port = free_port()
    systemd = boot(plain(port))
    systemd.systemctl("start", "tidegate.service")
    command = ["wrk", "-t1", "-c16", "-d10", f"http://127.0.0.1:{port}/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        for _ in range(2):
            systemd.tidegate("upgrade")
            systemd.systemctl("reload", "tidegate.service")
        said, _ = wrk.communicate()
    assert "requests in" in said
    assert "errors" not in said
    assert "Non-2xx" not in said
    assert systemd.status()["program"]["upgrades"] == 2


def test_the_death_of_each_process_is_mended(boot: Boot) -> None:
    port = free_port()
    systemd = boot({**plain(port), "pools": {"digits": digits_pool(min=1)}}, "WatchdogSec=3s")
    systemd.systemctl("start", "tidegate.service")

    def answered() -> bool:
        return asyncio.run(ask_once(port, PLAIN)).status == 200

    def processes() -> dict[str, int]:
        """Of a daemon that is whole."""
        status = systemd.status()
        found = {f"worker {row['index']}": row["pid"] for row in status["workers"] if row["state"] == "running"}
        (pool,) = status["pools"]
        found.update(("server", row["pid"]) for row in pool["managed"]["replicas"] if row["state"] == "ready")
        lines = systemd.inside("ps", "-eo", "pid,args").splitlines()
        found.update(("fork server", int(line.split()[0])) for line in lines if "tidegate: fork server" in line)
        return found

    whole = {"worker 0", "worker 1", "server", "fork server"}
    eventually(lambda: processes().keys() == whole, "all processes", 30)
    main = systemd.show("MainPID")
    for name in sorted(whole):
        before = processes()[name]
        systemd.inside("kill", "-KILL", str(before))
        assert answered()
        eventually(lambda: processes().keys() == whole and processes()[name] != before, f"another {name}", 30)  # noqa: B023
    assert systemd.show("MainPID") == main

    systemd.inside("kill", "-STOP", main)
    assert answered(), "workers serve while the master hangs"
    eventually(lambda: systemd.show("NRestarts") == "1", "the watchdog", 30)
    eventually(lambda: systemd.show("SubState") == "running", "another daemon", 30)
    assert answered()
    eventually(lambda: processes().keys() == whole, "all processes", 30)


def test_a_client_starts_the_daemon(boot: Boot) -> None:
    """Socket activation; the sockets stay systemd's over a restart and an upgrade."""
    port = free_port()
    systemd = boot(plain(port))
    systemd.activate(f"127.0.0.1:{port}")
    assert systemd.show("ActiveState") == "inactive"
    assert asyncio.run(ask_once(port, PLAIN)).status == 200
    eventually(lambda: systemd.show("ActiveState") == "active", "its readiness")  # the admin server is last
    systemd.tidegate("upgrade")
    assert systemd.status()["listeners"][0]["inherited"]
    assert not [name for name in systemd.stored() if "listen,tcp" in name]
    systemd.systemctl("restart", "tidegate.service")
    assert asyncio.run(ask_once(port, PLAIN)).status == 200
    systemd.systemctl("stop", "tidegate.service")
    assert asyncio.run(ask_once(port, PLAIN)).status == 200, "it starts again"


def test_a_reload_says_nothing_of_the_daemons_own_addresses(boot: Boot) -> None:
    """And `tidegate init` knows how the unit takes a file."""
    port = free_port()
    systemd = boot(plain(port))
    systemd.systemctl("start", "tidegate.service")
    systemd.systemctl("reload", "tidegate.service")
    assert f"{systemd.path}: valid: 1 listener" in systemd.log
    assert "somebody" not in systemd.log
    command = [
        "env",
        f"PYTHONPATH={ROOT}",
        sys.executable,
        "-m",
        "lb.cli",
        "init",
        str(systemd.path),
        "--yes",
        "--force",
    ]
    answers = ["--kind", "http", "--endpoints", "127.0.0.1:9", "--listen", f"127.0.0.1:{port}", "--admin"]
    said = systemd.inside(*command, *answers, "unix:/run/tidegate/admin.sock")
    assert said.splitlines()[-1] == "  systemctl reload tidegate.service"
    systemd.systemctl("reload", "tidegate.service")
    assert "somebody" not in systemd.log
    systemd.systemctl("stop", "tidegate.service")
    said = systemd.inside(*command, *answers, f"127.0.0.1:{free_port()}")  # /run/tidegate is gone
    assert said.splitlines()[-1] == "  systemctl enable --now tidegate.service"
