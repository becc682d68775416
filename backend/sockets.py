"""The addresses of the server: made sure to be free before gRPC takes them, since it gives no reason when it cannot."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Any

from backend.errors import StartError
from backend.options import ListenAddress


class UnixPath:
    """The file of a Unix socket, removed at the end unless another server has replaced it in the meantime."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = _identity(path)

    def remove(self) -> None:
        if self._identity is not None and _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)


def listen(server: Any, address: ListenAddress) -> tuple[ListenAddress, UnixPath | None]:
    """Binds the grpc.aio `server` and returns the address with the port it got, and the socket file to remove later.

    A Unix socket that nobody listens on any more is replaced. Raises StartError when the address is taken, not ours to
    bind, or does not exist.
    """
    if address.path is not None:
        _free_path(address.path)
    else:
        _check_port(address.host, address.port)
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as error:  # lost a race for it, or a name that only gRPC cannot resolve
        raise StartError(f"cannot listen on {address}: {error}") from error
    if address.path is not None:
        return address, UnixPath(address.path)
    return ListenAddress(host=address.host, port=port), None


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


def _check_port(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    for family, kind, protocol, _, name in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(name)
                probe.listen(1)
            except OSError as error:
                raise StartError(f"cannot listen on {ListenAddress(host=host, port=port)}: {error.strerror}") from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
