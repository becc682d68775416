"""The folder for sockets of model servers, and those that masters which were killed have left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("tidegate.master")

_PREFIX = "tidegate-run-"
_OF_A_SERVER = re.compile(r"-\d+-[0-9a-f]{8}\.sock$")  # lb.control.servers.model_server.new_socket
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def runtime_directory(handed: tuple[str, int] = ("", -1)) -> Iterator[tuple[Path, int]]:
    """The service manager's RUNTIME_DIRECTORY, or a private one that is removed in the end, with the descriptor that
    locks it (-1: none): a new one, or what the program before has `handed` over."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        _remove_dead_sockets(given)
        yield Path(given), -1
        return
    remove_left_behind()
    path, fd = (Path(handed[0]), handed[1]) if handed[0] else _make()
    try:
        yield path, fd
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def remove_left_behind() -> None:
    """Removes the folders of ours that no master has any more, and in which nobody listens. What cannot be removed, or
    is not all sockets, stays."""
    for path in glob.glob(f"{glob.escape(tempfile.gettempdir())}/{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, one that has a master, or that goes at this moment
            fd = os.open(path, _FOLDER)
            try:
                _remove_unused(fd, path)
            finally:
                os.close(fd)


def _remove_dead_sockets(path: str) -> None:
    """Of model servers that ended with a master that was killed: the service manager keeps the folder over a
    restart."""
    with contextlib.suppress(OSError):
        fd = os.open(path, _FOLDER)
        try:
            for name in os.listdir(fd):
                if _OF_A_SERVER.search(name) and _is_dead_socket(fd, name):
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)


def _make() -> tuple[Path, int]:
    """A new folder, and the descriptor by which it is locked: whoever gets the lock may remove it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # A master that starts at the same moment may have taken it for one that was left behind.
        with contextlib.suppress(FileNotFoundError, BlockingIOError), contextlib.ExitStack() as undo:
            fd = os.open(path, _FOLDER)
            undo.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno == errno.EWOULDBLOCK:
                    raise
                log.debug(
                    "%s cannot be locked: %s", path, error.strerror
                )  # by nobody: so it stays, should we be killed
            if path.stat().st_ino == os.fstat(fd).st_ino:
                undo.pop_all()
                return path, fd


def _remove_unused(fd: int, path: str) -> None:
    if os.fstat(fd).st_uid != os.geteuid():
        return
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    names = os.listdir(fd)
    if all(_is_dead_socket(fd, name) for name in names):
        for name in names:
            os.unlink(name, dir_fd=fd)
        os.rmdir(path)
        log.info("removed %s, which a master that was killed has left behind", path)


def _is_dead_socket(folder: int, name: str) -> bool:
    if not stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(f"/proc/self/fd/{folder}/{name}")
        except ConnectionRefusedError:
            return True
    return False
