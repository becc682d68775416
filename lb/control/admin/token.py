"""The secret of the admin server: read again when its file changes or the configuration names another."""

from __future__ import annotations

import hmac
import logging
import os
from pathlib import Path

from lb.config.regular_file import without_bom
from lb.errors import StartError

log = logging.getLogger("tidegate.admin")

_Seen = tuple[Path, int, int, int]  # a file, and what tells whether it changed


class AdminToken:
    """What callers have to send. Blocks on the file system for a stat."""

    def __init__(self) -> None:
        self._token = b""
        self._seen: _Seen | None = None

    def read(self, path: Path | None) -> None:
        """Takes the secret that is in `path` now; None: none is asked for. Raises StartError."""
        if path is None:
            self._token, self._seen = b"", None
            return
        try:
            seen, mode = _look(path)
            token = without_bom(path.read_bytes()).strip()
        except OSError as error:
            raise StartError(f"admin.token_file: cannot read {path}: {error.strerror}") from error
        if not token:
            raise StartError(f"admin.token_file: {path} is empty")
        if not is_token(token):
            raise StartError(f"admin.token_file: {path} holds more than one line, or bytes that no header may have")
        if mode & 0o007:
            log.warning("%s can be read by everyone", path)
        self._token, self._seen = token, seen

    def admits(self, path: Path | None, authorization: str) -> bool:
        """Whether a request with this field is let in, `path` being the file of the configuration in force.

        A file that can no longer be used leaves the secret in force that it had; nobody is let in where there was none.
        """
        self._follow(path)
        if path is None:
            return True
        scheme, _, given = authorization.partition(" ")
        sent = given.strip().encode(errors="surrogateescape")
        return scheme.lower() == "bearer" and bool(self._token) and hmac.compare_digest(sent, self._token)

    def _follow(self, path: Path | None) -> None:
        try:
            seen = None if path is None else _look(path)[0]
        except OSError:
            return  # for instance while the file is being replaced
        if seen == self._seen:
            return
        try:
            self.read(path)
        except StartError as error:
            log.error("%s; the old token stays", error)
            self._seen = seen  # said once
        else:
            log.info("the admin token was read anew" if path is not None else "no admin token is asked for any more")


def is_token(value: bytes) -> bool:
    """Whether a caller can send it in a header field: no control characters, which a second line has."""
    return all(byte >= 32 and byte != 127 for byte in value)


def _look(path: Path) -> tuple[_Seen, int]:
    found = os.stat(path)
    return (path, found.st_mtime_ns, found.st_size, found.st_ino), found.st_mode
