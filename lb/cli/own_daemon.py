"""The daemon that runs a configuration file, as `tidegate check` of that file knows it: its addresses are no news."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lb.cli.admin import AdminClient, AdminError, runs
from lb.cli.token import NO_TOKEN, Token, TokenError, read_token
from lb.config.address import Bind, UnixPath
from lb.config.schema.admin import AdminConfig

_PATIENCE = 2.0  # s, for the admin server
_TITLE = "tidegate: master -c "  # of a daemon's process (lb.cli.run)


class OwnDaemon:
    """Looks for the daemon when it is first asked for: by its admin server, or where that does not answer or lets
    nobody in, among the processes that this user may look into."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: dict[str, list[str]] | None = None
        self._seen: set[tuple[bool, Any]] | None = None

    def has(self, admin: AdminConfig, text: str, bind: Bind, datagrams: bool) -> bool:
        """Whether it listens on `bind`, which the file spells `text`. Blocks on the admin server."""
        if self._said is None:
            self._said = self._ask(admin)
        if self._said:
            return text in self._said.get("datagram" if datagrams else "stream", ())
        if self._seen is None:
            self._seen = set(self._look())
        return (datagrams, _name(bind)) in self._seen

    def is_running(self, admin: AdminConfig) -> bool:
        """Whether it is there at all."""
        return bool(self._ask(admin)) or any(True for _ in self._processes())

    def _ask(self, admin: AdminConfig) -> dict[str, list[str]]:
        """What the daemon says that it listens on; nothing where it runs another file, or does not say."""
        try:
            found = AdminClient(admin.bind, _token(admin)).daemon(_PATIENCE)
        except AdminError:
            return {}
        return found.get("binds", {}) if runs(self._path, found.get("config")) else {}

    def _look(self) -> Iterator[tuple[bool, Any]]:
        import psutil

        for number in self._processes():
            try:
                connections = psutil.Process(number).net_connections(kind="all")
            except psutil.Error:  # it has ended, or is another user's
                continue
            for one in connections:
                if one.laddr:
                    name = one.laddr if isinstance(one.laddr, str) else (one.laddr.ip, one.laddr.port)
                    yield one.type == socket.SOCK_DGRAM, name

    def _processes(self) -> Iterator[int]:
        """The masters that run the file, by their titles."""
        import psutil  # slow to load, and seldom needed

        for number in psutil.pids():
            try:
                with open(f"/proc/{number}/cmdline", "rb") as stream:
                    title = os.fsdecode(stream.read().rstrip(b"\0"))
                if title.startswith(_TITLE):
                    file = os.path.join(f"/proc/{number}/cwd", title.removeprefix(_TITLE))
                    if os.path.samefile(file, self._path):
                        yield number
            except OSError:
                continue


def _name(bind: Bind) -> Any:
    address = bind.address
    if isinstance(address, UnixPath):
        return address.path
    return str(ip_address(address.host.partition("%")[0])), address.port


def _token(admin: AdminConfig) -> Token:
    """The first token of the section that this user may read."""
    for file in (admin.token_file, *(token.file for token in admin.tokens)):
        if file is not None:
            try:
                return read_token(file, "admin")
            except TokenError:
                continue
    return NO_TOKEN
