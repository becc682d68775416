"""Who asks the admin server, what they may do, and the record of what they changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from aiohttp import web
from msgspec import Struct

from lb.config.schema.admin import AdminConfig, Role
from lb.control.admin.token import AdminToken

log = logging.getLogger("tidegate.audit")

_READS = frozenset({"/api/v1/explain"})  # by POST, and change nothing
_ADMINS = frozenset({"/api/v1/reload", "/api/v1/upgrade"})
_SHOWN = 512  # characters of a body
_UNNAMED = frozenset({"local", "token"})


class Caller(Struct, frozen=True):
    """`name` is that of a token in the configuration; "token" for `token_file`, "local" where none is asked for."""

    name: str
    role: Role

    @property
    def is_named(self) -> bool:
        """Whether the token says who it is."""
        return self.name not in _UNNAMED

    def may(self, method: str, path: str) -> bool:
        """A viewer reads, an operator also changes what a restart undoes, an admin does all."""
        if not is_change(method, path):
            return True
        return self.role == "admin" or (self.role == "operator" and path not in _ADMINS)


def is_change(method: str, path: str) -> bool:
    return method not in ("GET", "HEAD") and path not in _READS


class Callers:
    """The tokens of a configuration. Blocks on the file system for a stat of each."""

    def __init__(self) -> None:
        self._first = AdminToken()
        self._named: dict[str, AdminToken] = {}

    def read(self, section: AdminConfig) -> None:
        """Takes the secrets that are in the files now. Raises StartError."""
        self._first.read(section.token_file)
        self._named = {token.name: AdminToken() for token in section.tokens}
        for token in section.tokens:
            self._named[token.name].read(token.file)

    def find(self, section: AdminConfig, authorization: str) -> Caller | None:
        """Who sends this field, by the configuration in force; None: nobody who is known."""
        for token in section.tokens:
            if self._named.setdefault(token.name, AdminToken()).admits(token.file, authorization):
                return Caller(token.name, token.role)
        asked = section.token_file is not None or not section.tokens
        if asked and self._first.admits(section.token_file, authorization):
            return Caller("local" if section.token_file is None else "token", "admin")
        return None


def record(caller: Caller | None, request: web.Request, body: bytes, status: int) -> None:
    """A line of the log for each change that was asked for: who, from where, what, and what came of it."""
    if not is_change(request.method, request.path):
        return
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    source = f"{peer[0]}:{peer[1]}" if isinstance(peer, Sequence) and len(peer) >= 2 and peer[0] else "unix"
    who = f"{caller.name} ({caller.role})" if caller is not None else "nobody who is known"
    text = json.dumps(body[:_SHOWN].decode("utf-8", "replace"))  # one line, whatever it has
    path = json.dumps(request.path_qs)
    log.info("%s from %s: %s %s %s: %d", who, source, request.method, path, text, status)
