"""A call of the Open Inference Protocol at one endpoint, by the master: what it answers, or why it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from lb.health.check import CheckFailed

if TYPE_CHECKING:
    from lb.health.checks.grpc_connection import CallFailed
    from lb.health.checks.tls import CheckTls

SERVICE = "/inference.GRPCInferenceService/"


class GrpcStatus(IntEnum):
    """Those of gRPC's status codes that the master gives or looks at (grpc: doc/statuscodes.md)."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Answer(NamedTuple):
    """A gRPC status, its message and the reply's bytes."""

    status: int
    message: str
    reply: bytes


class Asked(NamedTuple):
    """An endpoint that is asked; `tls` as in its health checks."""

    address: str
    tls: CheckTls | None = None


class Unreached(Struct, frozen=True):
    """The endpoint did not answer at all."""

    reason: str


async def ask(endpoint: Asked, method: str, requests: Sequence[bytes], seconds: float) -> Sequence[bytes | CallFailed]:
    """What an endpoint answers to each, in order, within `seconds`; where there is no talking to it, UNAVAILABLE
    for all."""
    from lb.health.checks.grpc_connection import CallFailed, Status, grpc_connection

    try:
        async with asyncio.timeout(seconds), grpc_connection(endpoint.address, endpoint.tls) as connection:
            return await connection.unaries(f"{SERVICE}{method}", requests)
    except CallFailed as error:
        return [error] * len(requests)
    except (CheckFailed, TimeoutError) as error:
        reason = f"{endpoint.address}: {str(error) or 'no answer in time'}"
        return [CallFailed(Status.UNAVAILABLE, reason)] * len(requests)


async def tell(endpoint: Asked, method: str, request: bytes, seconds: float) -> bytes | Unreached | Answer:
    """The reply to one request, within `seconds`; or that there was none; or the endpoint's error."""
    from lb.health.checks.grpc_connection import CallFailed, grpc_connection

    try:
        async with asyncio.timeout(seconds), grpc_connection(endpoint.address, endpoint.tls) as connection:
            return await connection.unary(f"{SERVICE}{method}", request)
    except CallFailed as error:
        silent = int(error.code) == GrpcStatus.UNAVAILABLE and not error.told
        return Unreached(error.details) if silent else error_of(method, error)
    except CheckFailed as error:
        return Unreached(str(error))
    except TimeoutError:
        return Unreached(f"no answer within {seconds:g} s")


def error_of(method: str, failure: CallFailed) -> Answer:
    """An endpoint's error, for a client."""
    from lb.inference.management import clearer

    path = f"{SERVICE}{method}".encode()
    text = clearer(path, failure.details) if int(failure.code) == GrpcStatus.UNIMPLEMENTED else failure.details
    return Answer(failure.code, text, b"")


def failed_answer(method: str, answer: Unreached | Answer) -> Answer:
    """The same of an endpoint that may not have answered."""
    return Answer(GrpcStatus.UNAVAILABLE, answer.reason, b"") if isinstance(answer, Unreached) else answer


def worst(pool: str, errors: Sequence[Answer]) -> Answer:
    """The one to tell of: a server's word says more than that there is no talking to another, and an error says more
    than that a server has no such method."""
    if not errors:
        return Answer(GrpcStatus.UNAVAILABLE, f"no endpoint of pool {pool} is available", b"")
    little = (GrpcStatus.UNIMPLEMENTED, GrpcStatus.UNAVAILABLE)
    return min(errors, key=lambda error: little.index(error.status) + 1 if error.status in little else 0)
