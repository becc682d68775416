"""The folder of the model servers' sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lb.control.servers.runtime import remove_left_behind, runtime_directory

MASTER = """
import os, signal, socket
from lb.control.servers.runtime import runtime_directory
with runtime_directory() as (path, _):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path / "pool-0-abcd.sock"))
    listening.listen()
    print(path, flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="runtime-") as folder:  # the path of a socket has to be short
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
        yield Path(folder)
        tempfile.tempdir = None


def test_what_a_killed_master_left_is_removed_at_the_next_start_and_no_other(temporary: Path) -> None:
    masters = [subprocess.Popen([sys.executable, "-c", MASTER], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        folders = []
        for master in masters:
            assert master.stdout is not None
            folders.append(Path(master.stdout.readline().strip()))
        masters[0].send_signal(signal.SIGKILL)
        masters[0].wait()
        with runtime_directory() as (own, _):
            assert sorted(temporary.iterdir()) == sorted([folders[1], own])
            remove_left_behind()
            assert own.exists()
        assert not own.exists()
        assert list(folders[1].iterdir()) == [folders[1] / "pool-0-abcd.sock"]
    finally:
        for master in masters:
            master.kill()
            master.communicate()


def test_what_somebody_listens_on_or_is_no_socket_stays(temporary: Path) -> None:
    """Model servers outlive a killed master for as long as they have requests."""
    used, other = temporary / "tidegate-run-used", temporary / "tidegate-run-other"
    used.mkdir()
    other.mkdir()
    (other / "precious").write_text("")
    (temporary / "tidegate-run-link").symlink_to(other)
    (temporary / "tidegate-run-file").write_text("")
    (temporary / "tidegate-bench-1234").mkdir()  # nobody's business
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{used}/one.sock")
        listening.listen()
        remove_left_behind()
        assert len(list(temporary.iterdir())) == 5
    remove_left_behind()
    left = sorted(path.name.removeprefix("tidegate-") for path in temporary.iterdir())
    assert left == ["bench-1234", "run-file", "run-link", "run-other"]


def test_that_of_the_service_manager_is_its_own(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(temporary / "run"))
    with runtime_directory() as found:
        assert found == (temporary / "run", -1)
    assert os.listdir(temporary) == []


def test_dead_sockets_of_model_servers_are_removed_from_a_folder_that_is_kept(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = temporary / "run"
    folder.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "pool-0-0123abcd.sock"))
    listening.listen()
    for name in ("pool-1-0123abcd.sock", "admin.sock"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / name))
    with runtime_directory():
        assert sorted(os.listdir(folder)) == ["admin.sock", "pool-0-0123abcd.sock"]
    listening.close()


def test_the_folder_that_the_program_before_has_left_goes_on(temporary: Path) -> None:
    with runtime_directory() as (path, lock):
        copy = os.dup(lock)
        with runtime_directory((str(path), copy)) as again:
            assert again == (path, copy)
        assert not path.exists()
