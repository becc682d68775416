"""Triton, MLServer and KServe under `serve: {command: …}`: scaled, killed and replaced under load, without a failed
request.

`make test-other-servers` installs them, each into an environment of its own under `build/environments` (about 1.4 GB),
and runs this file; TIDEGATE_ENVIRONMENTS names another folder. `make test` leaves it out for its size.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import pytest
from daemon import DIGITS, ROOT, Daemon, alive, eventually, http_listener, route
from traffic import digit_request, digit_samples, load

from bench.model_servers.others.environments import missing
from bench.model_servers.others.servers import KSERVE, MLSERVER, TRITON, Other

Start = Callable[..., Daemon]
ENVIRONMENTS = Path(os.environ.get("TIDEGATE_ENVIRONMENTS", ROOT / "build" / "environments"))
# Ports that stand for placeholders in a command line.
HTTP, GRPC = 61101, 61102


def command(other: Other, folder: Path) -> list[str]:
    """The server's command line, with placeholders for its two ports."""
    words = other.command(ENVIRONMENTS, folder, HTTP, GRPC)
    return [word.replace(str(HTTP), "{port:http}").replace(str(GRPC), "{port}") for word in words]


def config(words: list[str], **serve: Any) -> dict[str, Any]:
    settings = {"command": words, "start_timeout": "120s", "drain_timeout": "20s", **serve}
    return {
        "workers": 2,
        "listeners": {"web": http_listener(route("/v2", "p"))},
        "pools": {"p": {"protocol": "oip", "serve": settings}},
    }


def serving(daemon: Daemon, number: int, without: Set[int] = frozenset()) -> set[int]:
    """The processes of the servers, once there are so many, all of them in the balance, and none of `without`."""

    def found() -> set[int] | None:
        pool = daemon.pool("p")
        managed = pool["managed"]
        rows = [r for r in managed["replicas"] if r["state"] == "ready"]
        pids = {r["pid"] for r in rows}
        settled = len(managed["replicas"]) == number and not managed["next"] and not managed["leaving"]
        return pids if settled and len(pids) == number == len(pool["endpoints"]) and not pids & without else None

    pids: set[int] = eventually(found, f"{number} servers", 240)
    return pids


@pytest.mark.timeout(900)
@pytest.mark.parametrize("other", [TRITON, MLSERVER, KSERVE], ids=lambda other: other.name)
async def test_scaled_killed_and_replaced_without_a_failed_request(start: Start, tmp_path: Path, other: Other) -> None:
    lacking = missing(ENVIRONMENTS, other.environment)
    assert not lacking, f"{lacking} is not in {ENVIRONMENTS}; make test-other-servers installs it"
    folder = tmp_path / "models"
    folder.mkdir()
    other.prepare(DIGITS / "models", folder)
    words = command(other, folder)
    daemon = start(config(words, min=1))
    first = await asyncio.to_thread(serving, daemon, 1)
    messages = [digit_request(sample["image"]) for sample in digit_samples()]
    async with load(daemon.port(), messages, clients=4) as running:
        await running.until(50)
        # Out,
        await asyncio.to_thread(daemon.reload, config(words, min=2))
        two = await asyncio.to_thread(serving, daemon, 2)
        assert first < two
        await running.until(50)
        # killed,
        victim = min(two)
        os.kill(victim, signal.SIGKILL)
        healed = await asyncio.to_thread(serving, daemon, 2, {victim})
        await running.until(50)
        # replaced,
        await asyncio.to_thread(daemon.reload, config(words, min=2, env={"RELEASE": "2"}))
        replaced = await asyncio.to_thread(serving, daemon, 2, healed)
        await running.until(50)
        # and in.
        await asyncio.to_thread(daemon.reload, config(words, min=1, env={"RELEASE": "2"}))
        last = await asyncio.to_thread(serving, daemon, 1)
        await running.until(50)
    assert running.reasons == []
    assert last < replaced
    assert not [pid for pid in first | two | healed | replaced - last if pid not in last and alive(pid)]
    assert daemon.stop() == 0
    assert not alive(next(iter(last)))
