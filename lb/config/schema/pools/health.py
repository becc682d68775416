"""Active health checks: what is asked of an endpoint, how often, and what counts as a good answer."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lb.config.advice.literal import quoted
from lb.config.advice.variables import variable_advice
from lb.config.schema.base import (
    AskedPath,
    Boolean,
    FieldName,
    Integer,
    Model,
    Number,
    Octets,
    OctetsRegex,
    Regex,
    advised,
    did_you_mean,
    only_one,
    problem,
    text,
)
from lb.config.schema.listeners.tls import PoolTlsConfig
from lb.config.schema.pools.steps import MOST_STEPS, CheckStepConfig
from lb.config.schema.routes.match import METHODS
from lb.config.units import KIB, MIB, MILLISECOND, SECOND, Duration, Size

# What the check's own client says, or what would change how its request is framed.
_RESERVED = frozenset(("host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"))
_LOWEST, _HIGHEST = 100, 599

FieldValue = Annotated[
    str,
    *text(r"[!-~](?:[\t -~]{0,4094}[!-~])?", "is not a header's value: visible ASCII characters, at most 4096"),
    advised(variable_advice),
]


def status_codes(value: int | str) -> range:
    """The codes of one entry of `status`: 200, or "200-399" with both ends. Raises ValueError for anything else."""
    low, dash, high = str(value).partition("-")
    first = int(low) if low.isascii() and low.isdigit() else 0
    last = (int(high) if high.isascii() and high.isdigit() else 0) if dash else first
    if not _LOWEST <= first <= last <= _HIGHEST:
        raise ValueError(f"{value!r} is neither a status code from {_LOWEST} to {_HIGHEST} nor a range such as 200-399")
    return range(first, last + 1)


def _status(value: Any) -> Any:
    if type(value) is not int and not isinstance(value, str):
        raise problem("status", "must be a status code or a range such as 200-399")
    try:
        status_codes(value)
    except ValueError as error:
        meant = instead_of_status(str(value))
        raise problem("status", f"{error}; write {meant}" if meant else str(error)) from None
    return value


def instead_of_status(text: str) -> str:
    """The range that a class such as `2xx` or `>=200` is; "" for others."""
    if (found := re.fullmatch(r"([1-5])(?:xx|XX|\*|\*\*|\.\.)?", text.strip(), re.ASCII)) is not None:
        return f"{found[1]}00-{found[1]}99"
    found = re.fullmatch(r"([1-5][0-9][0-9])\s*(?:-|\.\.+|:|to)\s*([1-5][0-9][0-9])", text.strip())
    return f"{found[1]}-{found[2]}" if found is not None and found[1] <= found[2] else ""


Status = Annotated[
    int | str,
    BeforeValidator(_status, json_schema_input_type=Annotated[int, Field(ge=_LOWEST, le=_HIGHEST)] | str),
]


def _method(value: str) -> str:
    if value.upper() not in METHODS or value.upper() == "CONNECT":
        raise problem("method", f"{value!r} is not a method that can be asked with" + did_you_mean(value, METHODS))
    return value.upper()


def _models(value: Any) -> Any:
    if isinstance(value, list):
        for name in value:
            if name == "*":
                raise problem("models", "'*' would be a model of this name; write models: index for all")
            if not isinstance(name, str) or not 0 < len(name) <= 256 or "/" in name or not name.isprintable():
                raise problem("models", f"{name!r} is not the name of a model")
    elif value != "index":
        raise problem("models", "must be index or a list of models")
    return value


def _fields(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if name.lower() in _RESERVED:
            hint = "; it is `host`" if name.lower() == "host" else ""
            raise problem("header", f"{name} cannot be set{hint}")
    return value


def _host(value: Any) -> Any:
    found = (
        re.fullmatch(r"[a-z][a-z0-9+.-]*://([^/\s]+)(?:/\S*)?|([^/\s]+)/\S*", value) if isinstance(value, str) else None
    )
    if found is not None:
        raise problem("host", f"{value!r} is more than a host; write {quoted(found[1] or found[2])}")
    if isinstance(value, str) and re.search(r"[$%{\s*,]", value):
        raise problem("host", f"{value!r} is not a host such as example.org; leave it out for the endpoint's address")
    return value


class BodyMatchConfig(Model):
    """What the body of the answer has to contain. Exactly one of `contains` and `regex`."""

    contains: str | None = Field(default=None, min_length=1, max_length=4096)
    """Text that has to be in it, as UTF-8: HAProxy's `http-check expect string`."""
    regex: Regex | None = None
    """A regular expression (RE2's syntax) that has to be found in it: HAProxy's `http-check expect rstring`."""
    limit: Size = Field(default=64 * KIB, ge=1, le=16 * MIB)
    """Bytes of the body that are read at most; what comes behind them is not looked at."""

    @model_validator(mode="after")
    def _one(self) -> BodyMatchConfig:
        only_one(self, ("contains", "regex"))
        return self


class HealthConfig(Model):
    """Active checks of every endpoint, made by the master."""

    type: Literal["tcp", "http", "grpc", "oip", "redis", "postgres", "mysql", "smtp", "ldap", "udp"]
    """`tcp`: a connection is taken, and `steps` go as they should. `http`: a request over HTTP/1.1, or over HTTP/2 with
    `protocol: http2`, is answered with one of `status`. `grpc`: the standard health service (`grpc.health.v1`) answers
    SERVING. `oip`: the server says that it is ready over the Open Inference Protocol (ServerReady), and which `models`
    are. `redis`: a Redis server answers PING, or asks for a password. `postgres`: a PostgreSQL server lets `user`
    begin, or asks for the password. `mysql`: a MySQL or MariaDB server lets `user` in, who has no password. `smtp`: a
    mail server greets and answers EHLO. `ldap`: a directory answers an anonymous bind. Each of them says goodbye as its
    protocol has it, so that the servers' logs stay quiet. `udp`: the datagram `send` is answered."""
    interval: Duration = Field(default=2 * SECOND, ge=10 * MILLISECOND)
    """Time from the start of one check to the start of the next, while checks say what is known already. Shorter finds
    failures sooner and costs the endpoint more."""
    fast_interval: Duration | None = Field(default=None, ge=10 * MILLISECOND)
    """The same while an endpoint is changing: the last check of one that is up failed, or that of one that is down was
    good, and `fall` or `rise` is not reached yet. HAProxy's `fastinter`. Default: `interval`."""
    down_interval: Duration | None = Field(default=None, ge=10 * MILLISECOND)
    """The same while an endpoint is down and its checks fail. HAProxy's `downinter`. Default: `interval`."""
    jitter: Number = Field(default=0.1, ge=0, le=1)
    """Share of the interval by which each check is moved at random, so that checks do not march in step."""
    timeout: Duration = Field(default=1 * SECOND, ge=MILLISECOND)
    """Longest time for one check; then it has failed. It does not count while the endpoint answers requests."""
    rise: Integer = Field(default=2, ge=1, le=100)
    """Good checks in a row after which an endpoint that was up and went down takes requests again."""
    fall: Integer = Field(default=3, ge=1, le=100)
    """Failed checks in a row after which an endpoint that was up takes no requests. 1 reacts at once and flaps
    easily."""
    initial: Literal["up", "down"] = "up"
    """What a new endpoint counts as before its first check, which is sent at once. With `up` that check alone decides,
    and so does each one after it until one is good; no request comes before it, as long as it takes no longer than
    1.5 s. `down` keeps requests away until `rise` checks were good, also in a panic, for which it does not count until
    then."""
    port: Integer | None = Field(default=None, ge=1, le=65535)
    """Port that is asked instead of the endpoint's own, such as 8000 for the HTTP side of a Triton whose gRPC is on
    8001. Not for endpoints on Unix sockets."""
    tls: PoolTlsConfig | None = None
    """TLS of the checks where it is not the pool's: an empty mapping (`tls: {}`) verifies by the system's authorities
    and asks for the endpoint's name. Default: as the pool. Not for `udp`."""
    send_proxy: Literal["off", "v1", "v2"] | None = None
    """Whether a check begins with a PROXY protocol header, which says that it is this daemon's own (`v1` UNKNOWN, `v2`
    LOCAL): HAProxy's `check-send-proxy`. Default: as the pool's `send_proxy`; `off` with a `port`. Not for `http`,
    `grpc` and `oip`."""
    path: AskedPath = "/"
    """Path that is asked for. `http` only."""
    method: Annotated[str, AfterValidator(_method)] = "GET"
    """Method of the request, which has no body. `http` only."""
    headers: Annotated[dict[FieldName, FieldValue], Field(max_length=32), AfterValidator(_fields)] = Field(
        default_factory=dict
    )
    """Further headers of the request. `http` only."""
    status: list[Status] = Field(default=[200], min_length=1)
    """Status codes that count as good, and ranges of them such as `200-399`. `http` only."""
    host: Annotated[FieldValue, BeforeValidator(_host), Field(max_length=255)] | None = None
    """`Host` header of the check. Default: the endpoint's address. The name in TLS is `tls.server_name`. `http`
    only."""
    body: BodyMatchConfig | None = None
    """What the body of the answer has to contain. Default: it is not read. `http` only."""
    protocol: Literal["http1", "http2"] | None = None
    """What the check speaks: `http2` is HTTP/2 with prior knowledge (h2c), or agreed on in TLS. Default: `http2` in
    pools of protocol `http2` without a `port`, otherwise `http1`. `http` only."""
    steps: list[CheckStepConfig] = Field(default_factory=list, max_length=MOST_STEPS)
    """What is sent and has to come over the connection, in turn: HAProxy's `tcp-check`. Default: nothing. `tcp`
    only."""
    user: str | None = Field(default=None, min_length=1, max_length=32, pattern=r"^[!-~]+$")
    """Name under which the check begins. `postgres` (default: `postgres`) and `mysql`, which needs one: an account
    without a password and without rights (`CREATE USER tidegate`), since a server of MySQL counts and logs whoever
    leaves without a name."""
    service: str = Field(default="", max_length=255)
    """Service name that is asked about; empty asks about the server as a whole. `grpc` only."""
    unimplemented: Literal["down", "up"] = "down"
    """What a server is that has no `grpc.health.v1` (it answers UNIMPLEMENTED): `up` takes the answer for a sign of
    life. `grpc` only."""
    models: Annotated[Literal["index"] | list[str], BeforeValidator(_models)] | None = None
    """Models whose readiness is asked as well: a list of names (ModelReady for each, 64 at most), or `index` for all
    that the servers' repositories name (RepositoryIndex; a server without it is judged by its own readiness, and may
    have any model). A request for one of them goes only to endpoints where it is
    ready; of a model that none of them names any endpoint may be asked. Default: none. `oip` only."""
    send: Octets = ""
    """The datagram that asks. Each character is one byte; what is no letter is written as `"\\x00"` in double quotes.
    Default: an empty datagram, which few servers answer. `udp` only."""
    expect: OctetsRegex | None = None
    """A regular expression (RE2's syntax, over bytes; `.` is any byte) that has to be found in the answer. Default: any
    answer is good. `udp` only."""
    answered: Boolean = True
    """Whether an answer is needed. `false` is for servers that never answer: the check fails only when the system of
    the endpoint says that nobody is there (ICMP), and looks no further than that. `udp` only."""
