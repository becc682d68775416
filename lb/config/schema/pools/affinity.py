"""Affinity of a pool: which requests stay with the endpoint that had the ones before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lb.config.plan.plan import CookiePlan, LearnPlan, SequencePlan
from lb.config.schema.base import Boolean, FieldName, FilePath, Integer, Model, only_one, text
from lb.config.schema.listeners.tls import Material
from lb.config.units import MILLISECOND, MINUTE, SECOND, Duration

CookiePath = Annotated[
    str, *text(r"/[!-:<-~]{0,1023}", "is not a path for a cookie: it begins with / and has no spaces and no ';'")
]
CookieDomain = Annotated[str, *text(r"\.?[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,7}", "is not a domain")]

# A quarter of a set for each session: then less than one in a hundred finds the eight places of its set taken.
LEAST_SETS = 16384
MOST_SETS = 1 << 20


class SequenceConfig(Model):
    """Sequences of inference requests (Triton's `sequence_id`, `sequence_start`, `sequence_end`): all requests of one
    reach the endpoint of its first, whichever worker they come to, and are never retried, moved or answered from the
    cache; the first goes on to another endpoint where its own takes no connection. `oip` only."""

    enabled: Boolean = True
    """`false`: requests of a sequence go where any request would."""
    idle_timeout: Duration = Field(default=MINUTE, ge=MILLISECOND)
    """A sequence without a request for this long is over. Longer than the server's own limit
    (`max_sequence_idle_microseconds` of Triton, by default one second), so that it is the server that ends a sequence
    and never this table that forgets one which the server still has."""
    drain_timeout: Duration = 5 * MINUTE
    """For how long an endpoint that was removed from the configuration goes on serving the sequences that it has. A
    managed model server has the `drain_timeout` of its `serve` section; `tidegate drain` has no limit."""


class CookieConfig(Model):
    """A cookie by which a client stays with the endpoint that answered it first, as HAProxy's `cookie NAME insert
    indirect nocache` and nginx' `sticky cookie`. It is signed, and names the endpoint without telling its address;
    endpoints do not see it. How it works: [Stay with an endpoint](howto/affinity.md). Not for `tcp` and `udp`."""

    name: FieldName
    """Name of the cookie. Two pools that the same clients use need two names, or paths that do not overlap."""
    path: CookiePath = "/"
    """Its `Path`."""
    domain: CookieDomain | None = None
    """Its `Domain`. Default: the host that was asked, and no other."""
    ttl: Duration = 0
    """For how long it is valid (`Max-Age`, and checked here); it is given anew when half of that is over. `0s`: until
    the browser is closed."""
    secure: Boolean = False
    """Browsers send it over HTTPS only."""
    http_only: Boolean = True
    """Scripts of a page cannot read it."""
    same_site: Literal["strict", "lax", "none"] | None = None
    """Its `SameSite`. Default: not said, which browsers take for `lax`."""
    key_file: FilePath | None = None
    """A file with the key that signs it, at least 32 random bytes; the same for all balancers in front of a service. A
    changed file is noticed: cookies made with the old key are no longer valid then. Default: a random key, which
    survives reloads and the death of workers and ends with the daemon."""


class LearnConfig(Model):
    """Sessions that the endpoints make themselves: what an answer sets is learned, and later requests that bring it go
    to the endpoint that set it, as HAProxy's `stick store-response` with `stick match`, nginx' `sticky learn`. Exactly
    one of `cookie` and `header`. How it works: [Stay with an endpoint](howto/affinity.md). Not for `tcp` and `udp`."""

    cookie: FieldName | None = None
    """Name of the application's cookie (`JSESSIONID`), which its answers set."""
    header: FieldName | None = None
    """Name of the header that holds the session's id in answers and in requests (`mcp-session-id`)."""
    idle_timeout: Duration = Field(default=30 * MINUTE, ge=MILLISECOND)
    """A session without a request for this long is forgotten. Not shorter than the application's own limit."""
    max: Integer = Field(default=100_000, ge=1, le=4_000_000)
    """How many sessions to have room for. The table is one, for all pools and workers, made at the start of the daemon
    with twice the room that its pools ask for together, 24 bytes for each session; when a part of it is full, the
    session there that would be forgotten first makes room for a new one, and is counted."""

    @model_validator(mode="after")
    def _one(self) -> LearnConfig:
        only_one(self, ("cookie", "header"))
        return self


class AffinityConfig(Model):
    """Which requests stay with the endpoint that had the ones before. Keys that decide by themselves (a header, the
    source) are the `key` of the hashing policies."""

    cookie: CookieConfig | None = None
    """A cookie by which clients stay with an endpoint. Default: none."""
    learn: LearnConfig | None = None
    """Sessions of the application, by its own cookie or header. Not with `cookie`. Default: none."""
    sequence: SequenceConfig = SequenceConfig()
    """Sequences of inference requests. `oip` only, where it is on by default."""


def sequence_plan(protocol: str, affinity: AffinityConfig) -> SequencePlan | None:
    """The plan of a pool's sequences; None where it has none."""
    sequence = affinity.sequence
    if protocol != "oip" or not sequence.enabled:
        return None
    return SequencePlan(sequence.idle_timeout, sequence.drain_timeout)


def cookie_plan(affinity: AffinityConfig, material: Material) -> CookiePlan | None:
    """The plan of a pool's cookie; None where it gives none. Raises KeyError when `material` was read for another
    configuration."""
    cookie = affinity.cookie
    if cookie is None:
        return None
    return CookiePlan(
        name=cookie.name,
        path=cookie.path,
        domain=cookie.domain or "",
        ttl_s=-(-cookie.ttl // SECOND),
        secure=cookie.secure,
        http_only=cookie.http_only,
        same_site=cookie.same_site or "",
        key=material.files[cookie.key_file].strip() if cookie.key_file is not None else b"",
    )


def learn_plan(affinity: AffinityConfig, series: Callable[[], int]) -> LearnPlan | None:
    """The plan of the sessions that a pool learns, None where it learns none; `series` gives them a series."""
    learn = affinity.learn
    if learn is None:
        return None
    if learn.cookie is not None:
        return LearnPlan("cookie", learn.cookie, learn.idle_timeout, series())
    assert learn.header is not None
    return LearnPlan("header", learn.header.lower(), learn.idle_timeout, series())


def session_sets(learned: Iterable[LearnConfig | None]) -> int:
    """How many sets of eight sessions the segment has for pools that learn so many."""
    wanted = sum(learn.max for learn in learned if learn is not None)
    return min(max(LEAST_SETS, 1 << (-(-wanted // 4) - 1).bit_length()), MOST_SETS)
