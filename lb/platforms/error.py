"""What goes wrong between Tidegate and a platform, in one line for the operator."""

from __future__ import annotations

from lb.errors import TidegateError


class PlatformError(TidegateError):
    """No usable answer. `code` is the HTTP status of the answer; 0 where there was none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class ConflictError(PlatformError):
    """Somebody else changed the thing since it was read; read it again first."""


class GoneError(PlatformError):
    """What was asked for is too old for the platform to know; everything has to be read again."""


class MissingError(PlatformError):
    """There is no such thing on the platform."""
