"""Who asks the admin server, what they may do, and the record of what they changed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence

from aiohttp import web
from msgspec import Struct

from lb.config.schema.admin import AdminConfig, Role
from lb.control.admin.token import AdminToken

log = logging.getLogger("tidegate.audit")

_READS = frozenset({"/api/v1/explain"})  # by POST, and change nothing
_ADMINS = frozenset({"/api/v1/alerts/test", "/api/v1/reload", "/api/v1/upgrade"})
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


class Audit:
    """A line of the log for each change that was asked for: who, from where, what, and what came of it.

    Who is known may fill the log; of the refusals of those who are not, `burst` lines may come at once and one more in
    every `pause` seconds. The next line says how many were left out.
    """

    def __init__(self, burst: int = 20, pause: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._pause = pause
        self._clock = clock
        self._full_at = 0.0  # when all of the burst is there again
        self._left_out = 0

    def record(self, caller: Caller | None, request: web.Request, body: bytes, status: int) -> None:
        if not is_change(request.method, request.path):
            return
        if caller is None and not self._admits():
            self._left_out += 1
            return
        self.tell_left_out()
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        source = f"{peer[0]}:{peer[1]}" if isinstance(peer, Sequence) and len(peer) >= 2 and peer[0] else "unix"
        who = f"{caller.name} ({caller.role})" if caller is not None else "nobody who is known"
        text = json.dumps(body[:_SHOWN].decode("utf-8", "replace"))  # one line, whatever it has
        path = json.dumps(request.path_qs[:_SHOWN])
        log.info("%s from %s: %s %s %s: %d", who, source, request.method, path, text, status)

    def tell_left_out(self) -> None:
        """Before the next line, and at the end."""
        if self._left_out:
            log.warning("%d refusals of nobody who is known are left out here", self._left_out)
            self._left_out = 0

    def _admits(self) -> bool:
        now = self._clock()
        ahead = max(self._full_at - now, 0.0)
        if ahead > (self._burst - 1) * self._pause:
            return False
        self._full_at = now + ahead + self._pause
        return True
