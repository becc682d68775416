"""Values of a request in texts of the configuration: `${request.host}`, `${header.x-user:-nobody}`.

A name with a dot is a value of the request, a name without one is an environment variable. While the file is read,
`lb.config.environment` puts marks around values (`${NAME:-DEFAULT}` becomes OPEN NAME ELSE DEFAULT CLOSE), so that an
escaped `$${request.host}` and what a variable holds stay plain text. The plan carries texts with their marks;
`lb.proxy.routing.values.format` compiles them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lb.config.plan.tables import FIELDS

OPEN, ELSE, CLOSE = "\U000f0010", "\U000f0011", "\U000f0012"
_SPELLED = str.maketrans({OPEN: "${", ELSE: ":-", CLOSE: "}"})
_MARK = re.compile(f"([{OPEN}{ELSE}{CLOSE}])")

KNOWN = (
    "client.address",
    "client.port",
    "request.method",
    "request.scheme",
    "request.host",
    "request.path",
    "request.query",
    "request.uri",
    "request.protocol",
    "request.id",
    "tls.version",
    "tls.cipher",
    "tls.sni",
    "tls.alpn",
    "tls.client.subject",
    "tls.client.issuer",
    "tls.client.common_name",
    "tls.client.fingerprint",
    "listener.name",
    "route.name",
    "pool.name",
    "auth.identity",
    "endpoint.address",
    "error.status",
    "error.message",
)
"""Values without a name of their own behind the dot. `lb.proxy.routing.values.format` numbers them in this order."""

FAMILIES = ("header", "cookie", "query", "capture", "map", "table")
"""Values that are one of many: `header.x-user`."""

LATE = frozenset(("endpoint.address",))
"""Values that are known once an endpoint answers."""

OF_ERRORS = frozenset(("error.status", "error.message"))
"""Values of an error, which only its page knows."""

IN_ERRORS = OF_ERRORS | {
    "client.address", "client.port", "request.method", "request.scheme", "request.protocol", "request.id",
    "listener.name", "route.name", "pool.name",
}  # fmt: skip
"""Values that error pages may have. The head of the request is gone by then."""

EARLY = frozenset(
    (
        "client.address", "request.method", "request.host", "request.path", "request.query", "request.uri", "header",
        "cookie", "query", "capture", "map", "table",
    )
)  # fmt: skip
"""Values that are known when a route is looked for."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", re.ASCII)
_PARAMETER = re.compile(r"[!-~]{1,256}", re.ASCII)
_CAPTURE = re.compile(r"[0-9]|[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_MAP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_TABLE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,62}}\.({'|'.join(FIELDS)})", re.ASCII)
_NESTED = 16  # defaults inside of defaults

_URL_BEGIN = re.compile(r"https?://", re.ASCII)


class Value(NamedTuple):
    """One value of a text. `encoding` says what becomes of it there: see `parse`."""

    name: str  # one of KNOWN or FAMILIES
    argument: str  # of a family; a header's in lower case
    encoding: str
    otherwise: tuple[str | Value, ...]  # stands for a value that is not there, or empty

    @property
    def spelling(self) -> str:
        """As the file has it, without its default."""
        return f"${{{self.name}.{self.argument}}}" if self.argument else f"${{{self.name}}}"


Parts = tuple[str | Value, ...]


ENCODINGS = {"set-cookie": "cookie", "cookie": "cookie", "location": "url", "content-location": "url"}
"""How values are written in headers that are no plain text, by the name in lower case: see `parse`."""


def has_values(text: str) -> bool:
    """Whether `text` has a value of the request."""
    return OPEN in text


def spelled(text: str) -> str:
    """`text` as the file has it."""
    return text.translate(_SPELLED)


def parse(text: str, encoding: str = "field") -> Parts:
    """The parts of `text`: literal text, and values.

    `encoding` is where the text goes, and each value with it:
    `field` (of a header: control characters become spaces), `cookie` (RFC 6265 section 4.1.1: octets that a cookie
    cannot have are percent-encoded), `host` (a request whose value has what no host has is refused), `path` (RFC 3986
    section 3.3), `query`, `url` (host, path or query, as the place in the text says; of a map alone `whole`: its
    entries are URLs, and a request without one is refused), `text`, `html`, `json` (of a body, escaped as that needs).

    Raises ValueError for a value that there is not, with the nearest one, and for a host whose end is a value.
    """
    pieces = [piece for piece in _MARK.split(text) if piece]
    parts, at = _parts(pieces, 0, encoding, 0)
    if at != len(pieces):
        raise ValueError("a value ends that has not begun")
    if encoding == "url":
        return _placed(parts)
    if encoding == "host":
        _check_host(parts)
    return parts


def values_in(parts: Sequence[str | Value]) -> Iterator[Value]:
    """Every value in `parts`, those of defaults included."""
    for part in parts:
        if isinstance(part, Value):
            yield part
            yield from values_in(part.otherwise)


def literals_in(parts: Sequence[str | Value]) -> Iterator[str]:
    """Every literal text in `parts`, those of defaults included."""
    for part in parts:
        if isinstance(part, str):
            yield part
        else:
            yield from literals_in(part.otherwise)


def escaped(text: str) -> str:
    """`text` for the inside of a string of JSON: its literal parts are escaped, the names of its values stay."""
    pieces = _MARK.split(text)
    for i in range(0, len(pieces), 2):
        if i == 0 or pieces[i - 1] != OPEN:
            pieces[i] = json.dumps(pieces[i])[1:-1]
    return "".join(pieces)


def renamed(text: str, captures: dict[str, int]) -> str:
    """`text` with the numbers of captures in place of their names."""
    return re.sub(
        f"(?<={OPEN}capture\\.)([A-Za-z_][A-Za-z0-9_]*)(?=[{ELSE}{CLOSE}])", lambda name: str(captures[name[1]]), text
    )


def _parts(pieces: list[str], at: int, encoding: str, depth: int) -> tuple[Parts, int]:
    """The parts from `pieces[at]` on, up to the end of the value around them, and where that is."""
    parts: list[str | Value] = []
    while at < len(pieces) and pieces[at] != CLOSE:
        if pieces[at] != OPEN:
            parts.append(pieces[at])
            at += 1
            continue
        if depth == _NESTED:
            raise ValueError("has more than 16 defaults inside of one another")
        name = pieces[at + 1] if at + 1 < len(pieces) else ""
        otherwise: Parts = ()
        at += 2
        if at < len(pieces) and pieces[at] == ELSE:
            otherwise, at = _parts(pieces, at + 1, encoding, depth + 1)
        if at >= len(pieces) or pieces[at] != CLOSE:
            raise ValueError("a value ends with }; write ${request.host} or ${request.host:-default}")
        at += 1
        parts.append(_value(name, encoding, otherwise))
    return tuple(parts), at


def _value(name: str, encoding: str, otherwise: Parts) -> Value:
    if name in KNOWN:
        return Value(name, "", encoding, otherwise)
    family, _, argument = name.partition(".")
    form = {
        "header": _TOKEN,
        "cookie": _TOKEN,
        "query": _PARAMETER,
        "capture": _CAPTURE,
        "map": _MAP,
        "table": _TABLE,
    }.get(family)
    if form is None:
        raise ValueError(f"there is no value ${{{name[:64]}}}{_near(name)}")
    if not form.fullmatch(argument):
        raise ValueError(f"${{{name[:64]}}}: {argument[:64]!r} is not a name of {_ARTICLE[family]}")
    return Value(family, argument.lower() if family == "header" else argument, encoding, otherwise)


_ARTICLE = {
    "header": "a header",
    "cookie": "a cookie",
    "query": "a parameter of the query",
    "map": "a map",
    "table": f"a table and of what it stores: NAME.requests, or instead of requests {', '.join(FIELDS[1:])}",
    "capture": "a capture: a number from 0 to 9, or a name of the route's path",
}


# What people who know other systems try.
_ELSEWHERE = {
    "client.ip": "client.address",
    "client.addr": "client.address",
    "client.host": "client.address",
    "remote.address": "client.address",
    "source.address": "client.address",
    "source.ip": "client.address",
    "request.url": "request.uri",
    "request.hostname": "request.host",
    "request.authority": "request.host",
    "request.verb": "request.method",
    "request.proto": "request.scheme",
    "request.query_string": "request.query",
    "request.remote_addr": "client.address",
    "upstream.address": "endpoint.address",
    "server.address": "endpoint.address",
}
_FAMILY_ELSEWHERE = {"headers": "header", "cookies": "cookie", "args": "query", "param": "query", "params": "query"}


def _family_elsewhere(name: str) -> str:
    """`request.header.x-a` and `cookies.a` as they are here; "" for others."""
    family, _, argument = name.removeprefix("request.").removeprefix("http.").partition(".")
    family = _FAMILY_ELSEWHERE.get(family, family)
    return f"{family}.{argument[:64]}" if argument and family in ("header", "cookie", "query") else ""


def _near(name: str) -> str:
    from lb.config.schema.base import did_you_mean

    family, dot, argument = name.partition(".")
    if meant := _ELSEWHERE.get(name.lower()) or _family_elsewhere(name):
        return f"; write ${{{meant}}}"
    known = did_you_mean(name, KNOWN)
    if known:
        return known
    near = did_you_mean(family, FAMILIES)
    if near and dot:
        return near.replace("?", f".{argument[:64]}?")
    return f"; there are {', '.join((*KNOWN, *(f'{family}.NAME' for family in FAMILIES)))}"


def _placed(parts: Parts) -> Parts:
    """The parts of a URL, each value with the encoding of its place. A map may have whole URLs: they are the file's."""
    if len(parts) == 1 and isinstance(parts[0], Value) and parts[0].name == "map":
        if parts[0].otherwise:
            raise ValueError(
                f"{parts[0].spelling} is the whole URL and has no default; a route for what the map does not have is "
                "one without match.maps"
            )
        return (_encoded(parts[0], "whole"),)
    place = "begin"
    placed: list[str | Value] = []
    host: list[str | Value] = []
    for part in parts:
        if isinstance(part, str):
            if place == "begin":
                found = _URL_BEGIN.match(part)
                if found is not None:
                    place = _host_in(part[found.end() :], host)
                elif part.startswith("/") and not part.startswith(("//", "/\\")):
                    place = _behind(part, "path")
                else:
                    raise ValueError("a URL begins with https://, http://, ${request.scheme}:// or one slash")
            elif place == "scheme":
                if not part.startswith("://"):
                    raise ValueError("behind ${request.scheme} stands ://")
                place = _host_in(part[3:], host)
            elif place == "host":
                place = _host_in(part, host)
            else:
                place = _behind(part, place)
            placed.append(part)
            continue
        if place == "begin":
            if part.name not in ("request.scheme", "request.uri", "request.path"):
                raise ValueError(
                    f"begins with {part.spelling}, so that whoever asks would choose the host; "
                    "write https://HOST/ or a slash in front of it"
                )
            place = "scheme" if part.name == "request.scheme" else "path"
        elif place == "scheme":
            raise ValueError("behind ${request.scheme} stands ://")
        if place == "host" and part.name in ("request.uri", "request.path"):
            place = "path"
        elif place == "host":
            host.append(part)
        placed.append(_encoded(part, "host" if place == "scheme" else place))
        if part.name == "request.uri" and place == "path":
            place = "query"
    if place in ("begin", "scheme"):
        raise ValueError("is not a URL: it begins with https://, http:// or a slash")
    _check_host(host)
    return tuple(placed)


def _check_host(host: Sequence[str | Value]) -> None:
    """Raises ValueError where `host` ends with a value that would go on with the name in front of it: of
    example.org${capture.1} whoever asks makes example.org.example.com."""
    if len(host) < 2 or isinstance(host[-1], str):
        return
    before = host[-2]
    if not isinstance(before, str) or not before.endswith((".", ":")):
        spelling = host[-1].spelling
        raise ValueError(
            f"{spelling} goes on with the host in front of it, so that whoever asks would choose another; "
            f"write a slash in front of {spelling}, or a dot"
        )


def _encoded(value: Value, encoding: str) -> Value:
    otherwise = tuple(_encoded(part, encoding) if isinstance(part, Value) else part for part in value.otherwise)
    return value._replace(encoding=encoding, otherwise=otherwise)


def _host_in(literal: str, host: list[str | Value]) -> str:
    """The place behind `literal`, which begins in the host; what of it is the host's goes to `host`."""
    name = re.split(r"[/?#]", literal, maxsplit=1)[0]
    if name:
        host.append(name)
    return _behind(literal, "host")


def _behind(literal: str, place: str) -> str:
    """The place behind `literal`, which begins in `place`."""
    if place == "host" and re.search(r"[/?#]", literal):
        place = "path"
    return "query" if place == "path" and re.search(r"[?#]", literal) else place
