"""One error tree: whose fault it is, which status a client sees, and whether a retry is safe (design.md section 7)."""

from __future__ import annotations


class TidegateError(Exception):
    """Base of every error Tidegate raises on purpose.

    `status` is the HTTP status and `grpc_status` the gRPC code a client is answered with; `retryable` says that the
    request did not reach, or did not change, an upstream, so that another endpoint may be tried.
    """

    status = 500
    grpc_status = 13  # INTERNAL
    retryable = False


class ConfigError(TidegateError):
    """The configuration cannot be used. `problems` holds one line each: `file:line: path: message`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StartError(TidegateError):
    """The daemon cannot start or go on (a taken port, an unreadable file): one clear line for the operator."""


class ClientError(TidegateError):
    """The client's fault."""

    status = 400
    grpc_status = 3  # INVALID_ARGUMENT


class UpstreamError(TidegateError):
    """The upstream's fault."""

    status = 502
    grpc_status = 14  # UNAVAILABLE
    retryable = True


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer in time."""

    status = 504
    grpc_status = 4  # DEADLINE_EXCEEDED
    retryable = False


class Overloaded(TidegateError):
    """We refuse to take more for now; `retry_after` seconds from now it may work."""

    status = 503
    grpc_status = 8  # RESOURCE_EXHAUSTED

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
