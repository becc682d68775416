"""What a fleet of emulated model servers is: data, checked once, written as JSON.

Times are in milliseconds. Windows (stalls, antagonists, failures) count from the fleet's epoch: the process's start, or
the moment of `POST /start`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.errors import BenchError

_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_HOUR = 3_600_000.0

Duration = Annotated[float, Field(ge=0, le=_HOUR)]
Length = Annotated[float, Field(ge=0.01, le=_HOUR)]
Period = Annotated[float, Field(ge=1, le=_HOUR)]
Factor = Annotated[float, Field(ge=1, le=1000)]
Port = Annotated[int, Field(ge=0, le=65535)]
FailHow = Literal["unavailable", "error", "limited", "reset"]


@dataclass(frozen=True, config=_CLOSED)
class Constant:
    """Every execution takes `ms`."""

    ms: Duration
    kind: Literal["constant"] = "constant"


@dataclass(frozen=True, config=_CLOSED)
class Exponential:
    """Memoryless times; with Poisson arrivals and serial execution the server is an M/M/1 queue."""

    mean_ms: Length
    kind: Literal["exponential"] = "exponential"


@dataclass(frozen=True, config=_CLOSED)
class Lognormal:
    """exp(N(ln median, sigma²)): its mean is median * exp(sigma²/2)."""

    median_ms: Length
    sigma: Annotated[float, Field(ge=0, le=4)]
    kind: Literal["lognormal"] = "lognormal"


@dataclass(frozen=True, config=_CLOSED)
class Normal:
    """N(mean, (cv * mean)²), `cv` the coefficient of variation: a server of 10 ms does 100 requests/s on average."""

    mean_ms: Length
    # Three deviations from 0 and more: drawing the few below it anew moves the mean by no more than a thousandth.
    cv: Annotated[float, Field(ge=0, le=0.33)]
    kind: Literal["normal"] = "normal"


@dataclass(frozen=True, config=_CLOSED)
class Empirical:
    """Times drawn with equal chance from a file: one number of milliseconds a line, `#` begins a comment."""

    file: str
    kind: Literal["empirical"] = "empirical"


Time = Annotated[Constant | Exponential | Lognormal | Normal | Empirical, Field(discriminator="kind")]


@dataclass(frozen=True, config=_CLOSED)
class Instant:
    """No execution: every request is answered at once (after a stall, if there is one)."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, config=_CLOSED)
class Serial:
    """One execution at a time; the others wait in arrival order.

    `per_item`: it takes `time` for each item of the request's batch, the first dimension of its first input, over
    HTTP/1.1 and gRPC; else once, and the request is not looked at.
    """

    time: Time
    per_item: bool = False
    kind: Literal["serial"] = "serial"


@dataclass(frozen=True, config=_CLOSED)
class Parallel:
    """Up to `slots` executions at once, each at full speed; the others wait in arrival order."""

    time: Time
    slots: Annotated[int, Field(ge=1, le=100_000)]
    kind: Literal["parallel"] = "parallel"


@dataclass(frozen=True, config=_CLOSED)
class Batched:
    """Batches executed one after another, formed as Triton's dynamic batcher does with one model instance.

    When the instance is free, a batch starts as soon as `max_batch` requests wait, or as soon as the oldest has waited
    `max_wait_ms`. It takes `fixed_ms + per_item_ms * size`. Source: Triton Inference Server, user guide, "Dynamic
    batcher" (`max_queue_delay_microseconds`).
    """

    max_batch: Annotated[int, Field(ge=1, le=100_000)]
    max_wait_ms: Duration
    fixed_ms: Duration
    per_item_ms: Duration
    kind: Literal["batched"] = "batched"


Execution = Annotated[Instant | Serial | Parallel | Batched, Field(discriminator="kind")]


def _check_repeat(length_ms: float, every_ms: float | None) -> None:
    if every_ms is not None and length_ms > every_ms:
        raise ValueError(f"a window of {length_ms:g} ms cannot repeat every {every_ms:g} ms")


@dataclass(frozen=True, config=_CLOSED)
class Stall:
    """Nothing proceeds from `start_ms` for `length_ms`; again after every `every_ms` if that is given."""

    start_ms: Duration
    length_ms: Length
    every_ms: Period | None = None

    def __post_init__(self) -> None:
        _check_repeat(self.length_ms, self.every_ms)


@dataclass(frozen=True, config=_CLOSED)
class Antagonist:
    """A noisy neighbour: for the share `duty` of each period, from `start_ms` on, all takes `factor` times as long."""

    period_ms: Period
    duty: Annotated[float, Field(gt=0, le=1)]
    factor: Factor
    start_ms: Duration = 0.0


@dataclass(frozen=True, config=_CLOSED)
class Failure:
    """Requests that arrive in the window are not executed.

    `unavailable` answers 503 (gRPC UNAVAILABLE), `error` 500 (INTERNAL), `limited` 429 (RESOURCE_EXHAUSTED); `reset`
    resets the connection with all that is on it.
    """

    start_ms: Duration
    length_ms: Length
    every_ms: Period | None = None
    how: FailHow = "unavailable"

    def __post_init__(self) -> None:
        _check_repeat(self.length_ms, self.every_ms)


@dataclass(frozen=True, config=_CLOSED)
class Service:
    """How a server serves. More than `max_queue` waiting requests are refused: 503, gRPC RESOURCE_EXHAUSTED."""

    execution: Execution = Instant()
    max_queue: Annotated[int, Field(ge=0)] | None = None
    stalls: tuple[Stall, ...] = ()
    antagonists: tuple[Antagonist, ...] = ()
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        if sum(stall.length_ms / stall.every_ms for stall in self.stalls if stall.every_ms) >= 1:
            raise ValueError("the repeated stalls leave no time in which anything proceeds")


@dataclass(frozen=True, config=_CLOSED)
class ServerSpec:
    """One server. Port 0 takes a free one. `answer_bytes` is the answer tensor's size (FP32, so a multiple of 4).

    Over gRPC the tensor is raw; over HTTP/1.1 it is the same answer as Open Inference Protocol JSON, about as long.
    `headers` are added to HTTP answers (not to gRPC).
    """

    port: Port
    service: Service = Service()
    answer_bytes: Annotated[int, Field(ge=0, le=64 << 20, multiple_of=4)] = 64
    model: Annotated[str, Field(min_length=1)] = "model"
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.headers:
            if (
                not name.isascii()
                or not name.replace("-", "").isalnum()
                or not (value.isascii() and value.isprintable())
            ):
                raise ValueError(f"{name!r}: {value!r} is not an HTTP header")


@dataclass(frozen=True, config=_CLOSED)
class Fleet:
    """All servers of one process. With the same seed a server's n-th request has the same service time in every run."""

    servers: Annotated[tuple[ServerSpec, ...], Field(min_length=1)]
    control_port: Port
    seed: int = 1
    epoch: Literal["process", "start"] = "process"
    host: Literal["127.0.0.1", "::1"] = "127.0.0.1"

    def __post_init__(self) -> None:
        ports = [p for p in (self.control_port, *(s.port for s in self.servers)) if p]
        if twice := sorted({p for p in ports if ports.count(p) > 1}):
            raise ValueError(f"port {twice[0]} is given twice")

    def to_json(self) -> str:
        """Indented JSON that `from_json` reads back to an equal value."""
        return _FLEET.dump_json(self, indent=2).decode()

    @staticmethod
    def from_json(text: str | bytes) -> Fleet:
        """Raises BenchError that names the first wrong field."""
        return parse(_FLEET, text, "fleet")


T = TypeVar("T")


def parse(adapter: TypeAdapter[T], text: str | bytes, what: str) -> T:
    """Reads JSON. Raises BenchError: one line with the place and the mistake."""
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise BenchError(f"{what}: {one_line(error)}") from None


def one_line(error: ValidationError) -> str:
    """The first mistake with its place, and how many there are besides."""
    first, *rest = error.errors(include_url=False, include_context=False)
    place = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{place}: {message}{more}" if place else f"{message}{more}"


_FLEET = TypeAdapter(Fleet)
