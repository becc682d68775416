"""One error tree: whose fault it is, which status a client sees, and whether a retry is safe (design.md section 7).

What an error means is a row of the table of failures (lb.failure), as on the data path.
"""

from __future__ import annotations

from lb.failure import BY_NAME, Failure


class TidegateError(Exception):
    """Base of every error Tidegate raises on purpose.

    `failure` is its kind: `status` is the HTTP status and `grpc_status` the gRPC code a client is answered with;
    `retryable` says that the request was not processed by an upstream, so that another endpoint may be tried.
    """

    failure: Failure = BY_NAME["internal"]

    @property
    def status(self) -> int:
        return self.failure.status

    @property
    def grpc_status(self) -> int:
        return self.failure.grpc_status

    @property
    def retryable(self) -> bool:
        return "connect" in self.failure.retry


class ConfigError(TidegateError):
    """The configuration cannot be used. `problems` holds one line each: `file:line: path: message`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StartError(TidegateError):
    """The daemon cannot start or go on (a taken port, an unreadable file): one clear line for the operator."""


class ClientError(TidegateError):
    """The client's fault."""

    failure = BY_NAME["bad-request"]


class UpstreamError(TidegateError):
    """The upstream's fault: what it answered is no answer."""

    failure = BY_NAME["upstream-protocol"]
