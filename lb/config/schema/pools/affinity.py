"""Affinity of a pool: which requests stay with the endpoint that had the ones before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lb.config.plan.plan import CookiePlan, LearnPlan, QuicPlan, SequencePlan
from lb.config.schema.base import Boolean, FieldName, FilePath, Integer, Model, only_one, problem, text
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


def _files(value: Any) -> Any:
    if isinstance(value, list) and not value:
        raise problem("key_file", "an empty list has no key that signs; leave key_file out for a random one")
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


KeyFiles = Annotated[
    Annotated[list[FilePath], Field(max_length=8)],
    BeforeValidator(_files, json_schema_input_type=FilePath | list[FilePath]),
]


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
    key_file: KeyFiles = Field(default_factory=list)
    """A file with the key that signs it, at least 32 random bytes; the same for all balancers in front of a service. Of
    a list of up to 8 files the first signs, and the cookies of all are valid: a key is
    [changed](howto/affinity.md#change-the-key) without a client losing its endpoint. A changed file is noticed.
    Default: a random key, which survives reloads and the death of workers and ends with the daemon."""


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


class QuicConfig(Model):
    """Connections of QUIC, which outlive their client's address (RFC 9000 section 9). A datagram from a new address
    goes to the endpoint that has its connection id: one that was learned, or one with the endpoint's `server_id`. How
    it works: [Balance UDP](howto/udp.md#quic). `udp` only."""

    key_length: Integer = Field(default=8, ge=4, le=20)
    """Bytes at the beginning of a connection id by which it is known. Not more than the shortest connection ids of the
    endpoints have: those are not learned. With 4 to 7 a connection id in 2^32 to 2^56 may be taken for another."""
    server_id_length: Integer = Field(default=0, ge=0, le=8)
    """Bytes of the server id that stands behind the first byte of every connection id that an endpoint issues, in plain
    text: the unencrypted form of QUIC-LB (draft-ietf-quic-load-balancers). Each endpoint has its `server_id`. Unlike
    learned connection ids those of NEW_CONNECTION_ID frames are known, which clients use when they move. `0`: none."""
    idle_timeout: Duration = Field(default=2 * MINUTE, ge=MILLISECOND)
    """A learned connection id without a datagram for this long is forgotten. Longer than the endpoints' own
    `max_idle_timeout`."""
    max: Integer = Field(default=100_000, ge=1, le=4_000_000)
    """How many learned connection ids to have room for, as `learn.max`."""


class AffinityConfig(Model):
    """Which requests stay with the endpoint that had the ones before. Keys that decide by themselves (a header, the
    source) are the `key` of the hashing policies."""

    cookie: CookieConfig | None = None
    """A cookie by which clients stay with an endpoint. Default: none."""
    learn: LearnConfig | None = None
    """Sessions of the application, by its own cookie or header. Not with `cookie`. Default: none."""
    sequence: SequenceConfig = SequenceConfig()
    """Sequences of inference requests. `oip` only, where it is on by default."""
    quic: QuicConfig | None = None
    """Connections of QUIC: a mapping, which may be empty (`quic: {}`). `udp` only. Default: a datagram goes by its
    client's address and port alone."""


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
        keys=tuple(material.files[path].strip() for path in cookie.key_file),
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


def quic_plan(affinity: AffinityConfig) -> QuicPlan | None:
    """The plan of a pool's connections of QUIC; None where its datagrams are of any protocol."""
    quic = affinity.quic
    return None if quic is None else QuicPlan(quic.key_length, quic.server_id_length, quic.idle_timeout)


def session_sets(affinities: Iterable[AffinityConfig], flows: int = 0) -> int:
    """How many sets of eight sessions the segment has for pools with such an affinity, and for so many flows of udp
    listeners."""
    wanted = flows + sum(each.max for a in affinities for each in (a.learn, a.quic) if each is not None)
    return min(max(LEAST_SETS, 1 << (-(-wanted // 4) - 1).bit_length()), MOST_SETS)
