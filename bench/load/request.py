"""What is sent, what must come back, and which of several requests is next."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from pydantic import ConfigDict

from bench.errors import BenchError

_PREFIX = 5  # of a gRPC message: a compressed flag and the length in 4 bytes, big-endian


@dataclass(frozen=True)
class Request:
    """One request and its right answer.

    http: `path`, `method`, `headers`, `body`; right is `status` and, if given, exactly `answer` or `answer_length`
    bytes of body. grpc: `path` is the method ("/package.Service/Method"), `body` one framed message (see `frame`),
    `headers` metadata; right is grpc-status 0 and, if given, one message that equals `answer` or has `answer_length`
    bytes (both without frame). tcp: `body` is the message; the answer is complete after len(`answer`) or
    `answer_length` bytes. Requests with a `label` are also counted by it.
    """

    path: str = "/"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    status: int = 200
    answer: bytes | None = None
    answer_length: int | None = None
    label: str = ""

    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    @property
    def length(self) -> int | None:
        """Bytes that the answer must have; None for any."""
        return self.answer_length if self.answer is None else len(self.answer)

    def right(self, length: int, parts: list[bytes]) -> bool:
        """Whether an answer of this length is right; `parts` are looked at only where `answer` is given."""
        if self.answer is not None:
            return b"".join(parts) == self.answer
        return self.answer_length is None or length == self.answer_length

    def check(self, protocol: str) -> None:
        """Raises BenchError if a request of this protocol cannot be so."""
        for text in (self.path, self.method, *self.headers, *self.headers.values()):
            if any(c in text for c in "\r\n\0"):
                raise BenchError(f"a request cannot have line ends in its head: {text!r}")
        if self.answer is not None and self.answer_length not in (None, len(self.answer)):
            raise BenchError("answer and answer_length contradict each other: give one of them")
        if protocol == "http" and self.method in ("HEAD", "CONNECT"):
            raise BenchError(f"the load generator cannot send {self.method} requests")
        if protocol != "tcp" and (not self.path.startswith("/") or " " in self.path):
            raise BenchError(f"a path begins with / and has no blanks: {self.path!r}")
        if protocol == "grpc" and (
            len(self.body) < _PREFIX or int.from_bytes(self.body[1:_PREFIX], "big") != len(self.body) - _PREFIX
        ):
            raise BenchError("the body of a gRPC request must be one framed message (bench.load.frame)")
        if protocol == "tcp" and not (self.body and self.length):
            raise BenchError("a TCP request needs a body and the length of its answer, both above 0")


def frame(message: bytes) -> bytes:
    """A serialized message as gRPC sends it, uncompressed (gRPC over HTTP/2, "Length-Prefixed-Message")."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def unframe(data: bytes) -> bytes | None:
    """The message if `data` is exactly one uncompressed frame, else None."""
    if len(data) < _PREFIX or data[0] or int.from_bytes(data[1:_PREFIX], "big") != len(data) - _PREFIX:
        return None
    return data[_PREFIX:]


def choices(kinds: int, number: int, zipf: float | None, seed: int) -> array[int] | None:
    """Which of `kinds` requests each arrival sends; None means in turn.

    With `zipf` the k-th request has a share proportional to 1/k**zipf (Zipf's law; 0 is uniform).
    """
    if zipf is None or kinds == 1:
        return None
    if zipf < 0:
        raise BenchError(f"a Zipf exponent must be 0 or more: {zipf:g}")
    weights = list(accumulate(1 / rank**zipf for rank in range(1, kinds + 1)))
    rng, found = Random(seed ^ 0x5A697066), array("I")  # not the stream of random numbers that makes the arrivals
    for begin in range(0, number, 1 << 16):
        found.extend(rng.choices(range(kinds), cum_weights=weights, k=min(1 << 16, number - begin)))
    return found
