"""Maps: texts from files, looked up by what a request says."""

from __future__ import annotations

import codecs
import hashlib
import re
import socket
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lb.config.network import Block, parse_block
from lb.config.plan.routes import MapPlan
from lb.config.schema.base import Boolean, FilePath, Model, only_one
from lb.config.schema.values import checked_key
from lb.config.values import Value, parse

if TYPE_CHECKING:
    from lb.config.schema.listeners.tls import Material

_HOST = (Value("request.host", "", "field", ()),)
_ADDRESS = (Value("client.address", "", "field", ()),)
_PATHS = ((Value("request.path", "", "field", ()),), (Value("request.uri", "", "field", ()),))
_UNFIT = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# How nginx begins an expression, and how a line of its files ends.
_EXPRESSION = re.compile(rb"~\*?[\^(]|~\*?.*[$\\]|~\*")
_NGINX_VALUE = re.compile(rb"""(?:[^\s"';]+|"[^"]*"|'[^']*')\s*;""")
_PORT = re.compile(rb"(?:[^:]+|\[[^]]*\]):[0-9]+")
# Lines of a file of hosts that `_never` refuses have one of these; the others need no look.
_ODD_HOST = re.compile(rb"(?m)^[ \t]*(?:[*~.]|default\b|[^\s#]*(?:[/:]|\.\s|\.\Z))")
_ODD_PATH = re.compile(rb"(?m)^[ \t]*[^/#\s]")
_ODD_TEXT = re.compile(rb"(?m)^[ \t]*~")


Key = Annotated[str, Field(max_length=4096), AfterValidator(checked_key)]
"""What is looked up in a map, or counted together in a table: a text with values of the request."""

Entry = Annotated[str, Field(max_length=1024)]


class MapConfig(Model):
    """A map from what requests say to texts: `${map.NAME}` in texts of routes, `maps` and `map` in their `match`,
    `pool_by` ([values and maps](howto/values.md#maps)). Exactly one of `file` and `entries`."""

    key: Key
    """What is looked up: a text with values of the request, such as `${request.host}`."""
    file: FilePath | None = None
    """File with an entry on each line: the key, a space, the value; a key alone for a list. Empty lines, lines that
    begin with `#`, and a byte order mark of UTF-8 in front count for nothing. A file that changes is read again by
    itself; while it has a mistake, the entries before stay."""
    entries: Annotated[dict[Entry, Entry], Field(max_length=4096)] | None = None
    """The entries, for few."""
    match: Literal["exact", "prefix", "suffix", "domain", "regex", "network"] = "exact"
    """How a key of the map is compared: `exact`; the longest `prefix` or `suffix` of the text; `domain`, the name or
    the longest name that it is below, in either case; `regex`, the first expression (RE2's syntax) that is found in
    the text, at most 256; `network`, the narrowest network (`10.0.0.0/8`, `2001:db8::/32`, or an address) that has the
    text, which is an address such as `${client.address}`."""
    ignore_case: Boolean = False
    """Whether the case of ASCII letters does not matter. With `match: domain`, and with the key `${request.host}`, it
    never does."""

    @property
    def folds(self) -> bool:
        """Whether keys of the map are compared in either case."""
        return self.ignore_case or self.match == "domain" or parse(self.key) == _HOST

    @model_validator(mode="after")
    def _one(self) -> MapConfig:
        only_one(self, ("file", "entries"))
        return self


def maps_plan(maps: Mapping[str, MapConfig], material: Material) -> dict[str, MapPlan]:
    """The plans of `maps` by name. Raises KeyError when `material` was read for another configuration."""
    made = {}
    for name, config in maps.items():
        block = material.maps[name]
        digest = hashlib.sha256(config.key.encode() + b"\0" + block).hexdigest()
        made[name] = MapPlan(name, config.key, block, digest)
    return made


def entries_of(config: MapConfig, content: bytes) -> dict[bytes, bytes]:
    """The entries of a map, whose file holds `content`. Raises ValueError with the number of a line that is wrong."""
    found: dict[bytes, bytes] = {}
    blocks: set[Block] = set()
    entries = (config.entries or {}).items()
    # Of a large file the lines are looked at one by one only where there is something to find.
    unfit = (
        config.entries is not None or _UNFIT.search(content.replace(b"\r\n", b"").translate(None, b"\n")) is not None
    )
    odd = config.entries is not None or _may_have_odd_keys(config, content)
    of_file = _rows(content) if config.entries is None else iter(())
    for number, key, value in chain(((0, key.encode(), value.encode()) for key, value in entries), of_file):
        place = f"line {number}: " if number else ""
        given, key = key, _compared(config, key)
        if unfit and (_UNFIT.search(key) or _UNFIT.search(value)):
            raise ValueError(f"{place}has a control character")
        if number and not found and _NGINX_VALUE.fullmatch(value):
            raise ValueError(
                f"{place}ends with a semicolon, as nginx has it; write the key, a space and the value alone"
            )
        if odd and (why := _never(config, given)):
            raise ValueError(f"{place}{given[:64].decode('utf-8', 'replace')!r}: {why}")
        if config.match == "network":
            try:
                block = parse_block(key.decode("utf-8", "replace"))
            except ValueError as error:
                raise ValueError(f"{place}{error}") from None
            twice = block in blocks
            blocks.add(block)
        else:
            twice = key in found
        if twice:
            raise ValueError(f"{place}{key[:64].decode('utf-8', 'replace')!r} is there twice")
        found[key] = value
    return found


def _may_have_odd_keys(config: MapConfig, content: bytes) -> bool:
    """Whether a line of `content` may have a key that `_never` refuses."""
    of = parse(config.key)
    if of == _ADDRESS:
        return True
    odd = _ODD_HOST if of == _HOST else _ODD_PATH if of in _PATHS else _ODD_TEXT
    return odd.search(content.removeprefix(codecs.BOM_UTF8)) is not None


def _never(config: MapConfig, key: bytes) -> str:
    """What to write for `key`, of which no request has the text; "" where one may."""
    if config.match in ("regex", "network") or not key:
        return ""
    if _EXPRESSION.match(key):
        return "an expression is written without ~, in a map with match: regex"
    of = parse(config.key)
    if of == _HOST:
        return _never_a_host(config, key)
    if of in _PATHS and config.match in ("exact", "prefix") and not key.startswith((b"/", b"*")):
        return "a path begins with a slash; what the map does not have is written ${map.NAME:-default}"
    if of == _ADDRESS and config.match == "exact":
        return _never_an_address(key)
    return ""


def _never_a_host(config: MapConfig, key: bytes) -> str:
    if config.match not in ("exact", "domain"):
        return ""
    if key == b"default":
        return "what the map does not have is written ${map.NAME:-default}"
    name = key.lstrip(b"*").lstrip(b".").decode("utf-8", "replace")
    if key.startswith(b"*") or (config.match == "exact" and key.startswith(b".")):
        return f"with match: domain, {name} is the name and all names below it"
    if b"/" in key:
        return "a host has no slash"
    if _PORT.fullmatch(key):
        return "hosts are looked up without their port"
    if b":" in key and not key.startswith(b"["):
        return f"a host that is an address of IPv6 stands in brackets: '[{name}]'"
    if key.endswith(b".") and config.match == "exact":
        return "hosts are looked up without a dot at their end"
    return ""


def _never_an_address(key: bytes) -> str:
    family = socket.AF_INET6 if b":" in key else socket.AF_INET
    try:
        written = socket.inet_ntop(family, socket.inet_pton(family, key.decode("ascii", "replace")))
    except (OSError, ValueError):
        return "networks need match: network" if b"/" in key else "it is not an address"
    written = written.removeprefix("::ffff:") if "." in written else written
    return "" if written.encode() == key else f"addresses are looked up as {written}"


def line_of(config: MapConfig, content: bytes, key: bytes) -> int:
    """The number of the line that gives `content` the entry `key`. ValueError where there is none."""
    for number, found, _ in _rows(content):
        if _compared(config, found) == key:
            return number
    raise ValueError(f"{key!r} is in no line")


def _compared(config: MapConfig, key: bytes) -> bytes:
    """A key as the map compares it."""
    if config.match == "domain":
        return key.lower().lstrip(b".").rstrip(b".")
    return key.lower() if config.folds and config.match != "regex" else key


def _rows(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        text = line.strip()
        if text and not text.startswith(b"#"):
            key, *rest = text.split(None, 1)
            yield number, key, rest[0] if rest else b""
