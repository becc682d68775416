"""Errors of the Open Inference Protocol that are the client's fault."""

from __future__ import annotations

from lb.errors import ClientError


class OipError(ClientError):
    """A request that cannot be carried out; answered with `status` and `{"error": message}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
