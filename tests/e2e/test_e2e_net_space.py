"""What needs a network of its own: transparent addresses, link-local ones, sources towards endpoints, clients' own
included. As root only; skipped elsewhere."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from daemon import ROOT, Daemon, environment
from net_space import NetSpace, ip
from net_space import net_space as net_space

Start = Callable[..., Daemon]
FIRST, LAST = 40_000, 40_999


def listeners(kind: str, **binds: Any) -> dict[str, Any]:
    return {
        f"{kind}-{name}": {"bind": bind, "protocol": kind, "pool": f"{kind}-{name}"} for name, bind in binds.items()
    }


def pools(kind: str, **settings: Any) -> dict[str, Any]:
    return {
        f"{kind}-{name}": {"protocol": kind, "endpoints": ["10.78.0.2:9000"], **each} for name, each in settings.items()
    }


async def test_addresses_of_a_network(start: Start, net_space: NetSpace) -> None:
    net_space.serve("10.78.0.2", 9000)
    net_space.serve("fe80::2", 9001)
    binds = {"own": "10.77.0.1:1", "fixed": "10.77.0.1:2", "ports": "10.77.0.1:3", "local": "[fe80::1%front0]:4"}
    sources = {
        "own": {"source": "client"},
        "fixed": {"source": "10.77.0.1"},
        "ports": {"source": f"10.78.0.1:{FIRST}-{LAST}"},
        "local": {"endpoints": ["[fe80::2%back0]:9001"]},
        "nobody": {},
    }
    nobody = {"address": "10.88.0.5:5", "transparent": True}  # no interface has it
    settings = {
        "workers": 1,
        "listeners": {x: y for kind in ("tcp", "udp") for x, y in listeners(kind, **binds, nobody=nobody).items()},
        "pools": {x: y for kind in ("tcp", "udp") for x, y in pools(kind, **sources).items()},
    }
    ip("-n", net_space.name, "route", "add", "10.88.0.9", "dev", "front0")
    daemon = start(settings, shell=f'set -- ip netns exec {net_space.name} "$@"')
    # The answers of the endpoint to a client come here, and are ours (docs/howto/bind.md).
    ip("-n", net_space.name, "rule", "add", "iif", "back0", "lookup", "100")
    ip("-n", net_space.name, "route", "add", "local", "default", "dev", "lo", "table", "100")
    ip("-n", net_space.name, "route", "add", "local", "10.88.0.0/24", "dev", "lo")

    def check() -> None:
        for kind in ("tcp", "udp"):
            (own,) = net_space.ask("10.77.0.1", 1, kind)
            assert own.split()[::2] == ["10.77.0.2", "hello"]
            (fixed,) = net_space.ask("10.77.0.1", 2, kind)
            assert fixed.split()[::2] == ["10.77.0.1", "hello"]
            for answer in net_space.ask("10.77.0.1", 3, kind, 8):
                host, port, _ = answer.split()
                assert host == "10.78.0.1"
                assert FIRST <= int(port) <= LAST
            (local,) = net_space.ask("fe80::1", 4, kind)
            assert local.split()[0].partition("%")[0] == "fe80::1"
            (transparent,) = net_space.ask("10.88.0.5", 5, kind)
            assert transparent.split()[::2] == ["10.78.0.1", "hello"]

    await asyncio.to_thread(check)
    # A reload is refused with the place of what is wrong, and nothing changes.
    settings["pools"]["tcp-fixed"]["source"] = "10.99.0.1"
    settings["pools"]["udp-ports"]["source"] = "10.78.0.1:1000-2000"
    outcome = await asyncio.to_thread(daemon.reload, settings)
    assert not outcome["ok"]
    text = str(outcome)
    assert "pools.tcp-fixed.source: no interface of this machine has 10.99.0.1" in text
    assert "pools.udp-ports.source: 1000-2000 is not within" in text
    (own,) = await asyncio.to_thread(net_space.ask, "10.77.0.1", 1)
    assert own.split()[0] == "10.77.0.2"


def test_transparent_sockets_need_a_capability() -> None:
    code = (
        "import os; from lb.control.sockets import listen; from lb.control.sources import check_sources;"
        "from lb.config.schema.file import Config; from lb.errors import StartError\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: listen('10.88.0.5:8080 transparent')\n"
        "except StartError as error: print(error)\n"
        "pool = {'protocol': 'tcp', 'endpoints': ['127.0.0.1:1'], 'source': 'client'}\n"
        "web = {'bind': '127.0.0.1:1', 'protocol': 'tcp', 'pool': 'p'}\n"
        "print(check_sources(Config.model_validate({'listeners': {'w': web}, 'pools': {'p': pool}})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), cwd=ROOT, check=True
    )
    first, second = done.stdout.splitlines()
    assert "cannot listen on 10.88.0.5:8080 transparent: transparent is not permitted (it needs CAP_NET_ADMIN" in first
    assert "('pools.p.source', 'client needs CAP_NET_ADMIN" in second
