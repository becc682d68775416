"""The addresses of the server."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from backend.errors import StartError
from backend.options import ListenAddress

_BACKLOG = 4096  # the kernel has a limit of its own (net.core.somaxconn)


class UnixPath:
    """The file of a Unix socket, removed at the end unless another server has replaced it in the meantime."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = _identity(path)

    def remove(self) -> None:
        if self._identity is not None and _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)


def listen(address: ListenAddress) -> tuple[list[socket.socket], ListenAddress, UnixPath | None]:
    """Listening sockets for an address, the address with the port that it got, and the socket file to remove later.

    A name may stand for several addresses, which share the port. A Unix socket that nobody listens on any more is
    replaced. Raises StartError when the address is taken, not ours to bind, or does not exist.
    """
    if address.path is None:
        return _listen_tcp(address)
    _free_path(address.path)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.setblocking(False)
        made.bind(str(address.path))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise StartError(f"cannot listen on {address}: {error.strerror}") from error
    return [made], address, UnixPath(address.path)


def _listen_tcp(address: ListenAddress) -> tuple[list[socket.socket], ListenAddress, None]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(f"cannot listen on {address}: {error.strerror}") from error
    port = address.port
    made: list[socket.socket] = []
    try:
        for family, kind, protocol, _, name in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            made.append(one)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, len(found) > 1)
            one.bind((name[0], port, *name[2:]))
            one.listen(_BACKLOG)
            port = one.getsockname()[1]
    except OSError as error:
        for one in made:
            one.close()
        raise StartError(f"cannot listen on {address}: {error.strerror}") from error
    return made, ListenAddress(host=address.host, port=port), None


def _free_path(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise StartError(f"cannot listen on unix:{path}: {path.parent} is no directory") from None
        return
    except OSError as error:
        raise StartError(f"cannot listen on unix:{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise StartError(f"cannot listen on unix:{path}: the file exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except BlockingIOError:  # its backlog is full: somebody listens
            raise StartError(f"cannot listen on unix:{path}: another server listens on it") from None
        except OSError as error:
            raise StartError(f"cannot listen on unix:{path}: {error.strerror}") from error
        else:
            raise StartError(f"cannot listen on unix:{path}: another server listens on it")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
