"""Options that several policies have: keys that stand beside `type` and `key` in a pool's `policy`.

The options of one policy stand in its file, with `Field(description=...)` in place of docstrings: a compiled module has
no source at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lb.config.schema.base import AskedPath, Integer, Number
from lb.config.units import MILLISECOND, SECOND, Duration, FileContext

# Options come from a file: a duration without a unit is a mistake there. What has a path would start from here.
FROM_FILE = FileContext(Path())

MOST_CHOICES = 32


class _Compiled(type):
    def __instancecheck__(cls, value: object) -> bool:
        return type(value).__name__ == "cython_function_or_method"


class CompiledFunction(metaclass=_Compiled):
    """A function of a compiled module, by whichever version of Cython. Pydantic would take a method for a field."""


class PolicyOptions(BaseModel):
    """Options of a policy that has none, and base of those that have some: closed, immutable, documented by its
    attributes' docstrings."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        ignored_types=(CompiledFunction,),
    )

    def problems(self, protocol: str) -> Iterator[tuple[str, str]]:
        """What does not go together with a pool of `protocol`, as (path, message)."""
        return iter(())


class ChoiceOptions(PolicyOptions):
    choices: Integer = Field(default=2, ge=2, le=MOST_CHOICES)
    """How many endpoints are drawn and compared. More spread the load more evenly, cost more, and let workers that
    choose at the same moment meet more often."""


class DecayOptions(PolicyOptions):
    decay: Duration = Field(default=10 * SECOND, ge=MILLISECOND)
    """Time in which what is known of an endpoint's latency fades to a third (1/e). Shorter forgets a bad moment sooner
    and depends more on the draw."""


class ProbeOptions(PolicyOptions):
    """Questions to endpoints about their load, beside the requests: Prequal's probes, by the names of the paper."""

    rate: Number = Field(default=3, gt=0, le=32)
    """Probes for each choice (r_probe), to different endpoints drawn at random. May be fractional."""
    pool_size: Integer = Field(default=16, ge=2, le=256)
    """Most answers that are kept, one of each endpoint (m)."""
    max_age: Duration = Field(default=SECOND, ge=MILLISECOND)
    """Time after which an answer no longer counts."""
    timeout: Duration = Field(default=3 * MILLISECOND, ge=MILLISECOND, le=SECOND)
    """An answer that takes longer does not count."""
    remove: Number = Field(default=1, ge=0, le=32)
    """Answers that are dropped for each choice (r_remove), the oldest and the worst in turn; where `pool_size` is less
    than the pool."""
    max_idle: Duration = Field(default=500 * MILLISECOND, ge=0)
    """After so long without a probe, as many are sent as for a choice, so that the first request after a pause finds
    answers. `0s`: never."""
    service: str = Field(default="", max_length=100)
    """Service that `grpc.health.v1.Health/Check` is asked for, in pools of protocol `grpc` and `oip`."""
    path: AskedPath | None = Field(default=None, max_length=1024)
    """What is asked for with GET, in pools of protocol `http` and `http2`, which need it."""

    def problems(self, protocol: str) -> Iterator[tuple[str, str]]:
        if protocol in ("tcp", "udp"):
            yield "", f"has no effect: endpoints of a {protocol} pool are not asked"
        elif protocol in ("http", "http2"):
            if self.path is None:
                yield "path", f"is required: it is what endpoints of protocol {protocol} are asked for"
            if self.service:
                yield "service", f"has no effect with protocol {protocol}: `path` says what is asked for"
        elif self.path is not None:
            yield "path", f"has no effect with protocol {protocol}: endpoints are asked for grpc.health.v1.Health/Check"


class HashOptions(PolicyOptions):
    bounded_load: Number | None = Field(default=None, ge=1, le=1000)
    """Most requests in flight at an endpoint, as a multiple of its share of those at the whole pool; a key whose
    endpoint has that many goes to the next in its order. Default: no bound. Close to 1 is even and moves many keys;
    1.25 is a usual value."""
