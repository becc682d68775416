"""Makes the modules of this folder importable in all tests below it, and installs plug-ins for some."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from lb.config import plugins

# A shell that starts this in the background has it ignore Ctrl-C, and what it starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples are not timed, nor is their making: the machine may be busy. They may share fixtures, and those who keep a
# contract its tests.
settings.register_profile(
    "tests",
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
    ],
)
settings.load_profile("tests")


# Tests of these folders, the longest, mostly wait for processes. They begin first, beside each other: at the end one
# would have its process, and the machine, wait for it alone.
LONGEST = ("e2e", "hostile", "backend", "jobs", "cache")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(HERE).parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """The tests, hundreds of megabytes of objects, stay until the end: the collector need not look at them."""
    gc.collect()
    gc.freeze()


# Clients that use select(2) take no descriptor beyond 1,024.
MANY_DESCRIPTORS = 200


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    """Sockets that only cycles hold are closed by the collector, which a command that runs in this process disables."""
    yield
    gc.enable()
    if len(os.listdir("/proc/self/fd")) > MANY_DESCRIPTORS:
        if "grpc.aio" in sys.modules:
            _keep_grpc()
        gc.collect()


@functools.cache
def _keep_grpc() -> None:
    """grpc.aio ends with its last channel, and joins its thread then: for ever, where a test has left a call open. One
    channel that nobody uses stays until the process ends, the process's own end included."""
    import grpc.aio

    async def unused() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel("127.0.0.1:1")

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(asyncio.run(unused())))


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`install_plugin(group, module, code, distribution=module, **entries)` installs a module as a distribution whose
    entry points of the group are given as NAME = OBJECT."""
    modules: list[str] = []

    def install(group: str, module: str, code: str, distribution: str | None = None, **entries: str) -> None:
        folder = tmp_path / module
        info = folder / f"{distribution or module}-1.2.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(textwrap.dedent(code))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or module}\nVersion: 1.2\n")
        lines = "".join(f"{name} = {module}:{target}\n" for name, target in entries.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        monkeypatch.syspath_prepend(str(folder))
        modules.append(module)
        plugins.installed.cache_clear()

    plugins.installed.cache_clear()
    yield install
    monkeypatch.undo()
    plugins.installed.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)
