"""The token that a command sends to the admin server, and what to say where it is not the right one."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from lb.config.regular_file import without_bom
from lb.control.admin.token import is_token
from lb.errors import TidegateError

VARIABLE = "TIDEGATE_TOKEN_FILE"
NAME_ONE = f"name the file with the admin token by --token-file FILE or {VARIABLE}"


class TokenError(TidegateError):
    """The file with the token cannot be used."""


class Token(Struct, frozen=True):
    """`value` is empty where none is sent. `origin` is the setting that named its file, or says that none did."""

    value: bytes = b""
    origin: str = ""

    def missing(self, address: str) -> str:
        """The message for an admin server that asks for a token, and does not take this."""
        if not self.value:
            why = f" ({self.origin})" if self.origin else ""
            return f"{address} asks for a token, and none was sent{why}: {NAME_ONE}"
        return (
            f"{address} does not accept the token of {self.origin}: it has to be that of admin.token_file in the "
            f"configuration of the running daemon; {NAME_ONE}"
        )


NO_TOKEN = Token()


def read_token(path: Path, setting: str) -> Token:
    """The token in `path`, which `setting` names. Raises TokenError."""
    try:
        value = without_bom(path.read_bytes()).strip()
    except OSError as error:
        raise TokenError(f"{setting}: cannot read the token file {path}: {error.strerror}; {NAME_ONE}") from error
    if not value:
        raise TokenError(f"{setting}: the token file {path} is empty")
    if not is_token(value):
        raise TokenError(f"{setting}: the token file {path} holds more than one line, or bytes that no header may have")
    return Token(value, f"{path} ({setting})")
