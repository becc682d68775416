"""What a worker process is started with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from control_daemon import daemon

from lb.clock import ManualClock
from lb.control.workers.fleet import Fleet, FleetSettings, SegmentLike
from lb.control.workers.fork_server import ForkServer
from lb.control.workers.launch import FREE_BLOCKS, worker_environment
from lb.control.workers.process import WorkerProcess
from lb.errors import StartError


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (None, FREE_BLOCKS),
        ("glibc.malloc.arena_max=1", f"glibc.malloc.arena_max=1:{FREE_BLOCKS}"),
        ("glibc.malloc.tcache_count=0", "glibc.malloc.tcache_count=0"),
    ],
)
def test_the_operators_word_on_the_allocator_stands(
    monkeypatch: pytest.MonkeyPatch, said: str | None, told: str
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if said is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", said)
    assert worker_environment()["GLIBC_TUNABLES"] == told


def test_another_allocator_is_taken_and_said(tmp_path: Path) -> None:
    """As under a sanitizer, whose mallopt() does nothing."""
    source, library = tmp_path / "allocator.c", tmp_path / "allocator.so"
    source.write_text("int mallopt(int option, int value) { return (void)option, (void)value, 0; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    with daemon(tmp_path, env={"LD_PRELOAD": str(library)}) as running:
        assert "the allocator's thresholds could not be set" in running.log


def descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


@contextlib.contextmanager
def room_for(more: int) -> Iterator[None]:
    """Inside, no more than that many descriptors can be opened."""
    open_, (soft, hard) = descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [fd for fd in range(max(open_) + more + 2) if fd not in open_]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[more], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_start_without_enough_descriptors_fails_and_leaves_none() -> None:
    loop = asyncio.get_running_loop()
    for more in range(20):
        before, ended, problem = descriptors(), loop.create_future(), ""
        server = ForkServer(loop, ("sleep", "0"), worker_environment)
        with room_for(more):
            try:
                process = WorkerProcess(loop, server, 0, 0, (), ended.set_result)
            except StartError as error:
                problem = str(error)
        if not problem:
            assert await ended == 1  # what "sleep" says of our options
            process.socket.close()
            assert more >= 3
            assert descriptors() == before
            return
        server.close()
        assert "Too many open files" in problem
        assert descriptors() == before
    pytest.fail("it never starts")


async def test_why_a_worker_cannot_be_started_again_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    settings = FleetSettings(command=("/nowhere/worker",))
    fleet = Fleet(1, cast(SegmentLike, type("Segment", (), {"fd": 0})()), settings, ManualClock(), lambda: -1)
    with caplog.at_level(logging.ERROR, "tidegate"), pytest.raises(StartError):
        await fleet.start()
    assert "cannot start the fork server of the workers: No such file or directory" in caplog.text
