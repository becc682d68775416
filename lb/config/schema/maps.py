"""Maps: texts from files, looked up by what a request says."""

from __future__ import annotations

import hashlib
import re
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
_UNFIT = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


Key = Annotated[str, Field(max_length=4096), AfterValidator(checked_key)]
"""What is looked up in a map, or counted together in a table: a text with values of the request."""

Entry = Annotated[str, Field(max_length=1024)]


class MapConfig(Model):
    """A map from what requests say to texts: `${map.NAME}` in texts of routes, `maps` and `map` in their `match`,
    `pool_by` ([values and maps](howto/values.md#maps)). Exactly one of `file` and `entries`."""

    key: Key
    """What is looked up: a text with values of the request, such as `${request.host}`."""
    file: FilePath | None = None
    """File with an entry on each line: the key, a space, the value; a key alone for a list. Empty lines, and lines that
    begin with `#`, count for nothing. A file that changes is read again by itself; while it has a mistake, the entries
    before stay."""
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
    of_file = _rows(content) if config.entries is None else iter(())
    for number, key, value in chain(((0, key.encode(), value.encode()) for key, value in entries), of_file):
        key = _compared(config, key)
        place = f"line {number}: " if number else ""
        if unfit and (_UNFIT.search(key) or _UNFIT.search(value)):
            raise ValueError(f"{place}has a control character")
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
    for number, line in enumerate(content.split(b"\n"), 1):
        text = line.strip()
        if text and not text.startswith(b"#"):
            key, *rest = text.split(None, 1)
            yield number, key, rest[0] if rest else b""
