"""`tidegate key`."""

from __future__ import annotations

import hashlib
import re
import secrets

from lb.errors import TidegateError

_NAME = re.compile(r"[!-9;-~]{1,128}", re.ASCII)


def new_key(name: str) -> tuple[str, str]:
    """A new key of 256 random bits, and its line for the file of a provider of type api_key. Raises TidegateError."""
    if not _NAME.fullmatch(name) or name.startswith("#"):
        raise TidegateError(f"{name!r} is no name of a key: 1 to 128 printable ASCII characters without spaces and ':'")
    key = f"tg_{secrets.token_urlsafe(32)}"
    return key, f"{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"
