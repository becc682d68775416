"""Sources by name: Tidegate's own, and those of the entry-point group `tidegate.discovery`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lb.config.base import did_you_mean
from lb.config.explain import message, where
from lb.config.schema import Config, DiscoverConfig, PoolConfig
from lb.config.units import FileContext
from lb.discovery.dns import DnsSource
from lb.discovery.file import FileSource
from lb.discovery.source import Source
from lb.errors import ConfigError

GROUP = "tidegate.discovery"
SourceType = type[Source]

# Durations come from a file, with their unit. A relative path would start from here.
_FROM_FILE = FileContext(Path())

SOURCES: dict[str, SourceType] = {"dns": DnsSource, "file": FileSource}


@cache
def installed() -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of the group by name, as they were when this process first asked; nothing is imported."""
    found: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entry_points(group=GROUP):
        if entry not in found[entry.name]:
            found[entry.name].append(entry)
    return {name: tuple(entries) for name, entries in found.items()}


def find(name: str) -> SourceType:
    """The source of that name. Raises ConfigError when there is none, more than one, or a plug-in that is broken."""
    entries = installed().get(name, ())
    owners = [*(["Tidegate itself"] if name in SOURCES else []), *map(_origin, entries)]
    if len(owners) > 1:
        raise ConfigError([f"there is more than one source {name!r}: by {', by '.join(owners)}; uninstall all but one"])
    if entries:
        return _load(entries[0])
    if name not in SOURCES:
        known = sorted({*SOURCES, *installed()})
        raise ConfigError([f"there is no source {name!r}{did_you_mean(name, known)}"])
    return SOURCES[name]


def build(pool: str, discover: DiscoverConfig, config: PoolConfig) -> Source:
    """The source that `discover` asks for. Raises ConfigError when there is no such one, or a plug-in's constructor
    fails."""
    kind = find(discover.source)
    try:
        options = discover.options
        if not isinstance(options, BaseModel):
            options = kind.Options.model_validate(options, context=_FROM_FILE)
        return kind(pool, options, config)
    except Exception as error:  # foreign code may raise anything
        raise ConfigError([f"source {discover.source!r} cannot be built: {type(error).__name__}: {error}"]) from error


def check_discovery(config: Config) -> list[tuple[str, str]]:
    """Every problem with the sources of `config`, as (path, message): a check for lb.config.load."""
    return [
        (f"pools.{name}.discover.{path}", text)
        for name, pool in config.pools.items()
        if pool.discover is not None
        for path, text in _problems(pool.discover)
    ]


def _problems(discover: DiscoverConfig) -> Iterator[tuple[str, str]]:
    name = discover.source
    try:
        kind = find(name)
    except ConfigError as error:
        yield name, str(error)
        return
    if isinstance(discover.options, BaseModel):
        return
    try:
        kind.Options.model_validate(discover.options, context=_FROM_FILE)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = where(detail["loc"])
            yield f"{name}{'.' if path else ''}{path}", message(detail, kind.Options, detail["input"])


def _origin(entry: EntryPoint) -> str:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"
    return f"{entry.value} of {package}"


def _load(entry: EntryPoint) -> SourceType:
    try:
        found = entry.load()
    except Exception as error:  # foreign code may raise anything
        raise _broken(entry, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, type) or not issubclass(found, Source):
        raise _broken(entry, "it is not a subclass of lb.discovery.source.Source")
    if found.look is Source.look:
        raise _broken(entry, "it does not define look")
    if not isinstance(found.Options, type) or not issubclass(found.Options, BaseModel):
        raise _broken(entry, "its Options is not a pydantic model")
    if found.Options.model_config.get("extra") != "forbid":
        raise _broken(entry, 'its Options is not closed (extra="forbid"), so a misspelt option would go unnoticed')
    return found


def _broken(entry: EntryPoint, reason: str) -> ConfigError:
    return ConfigError([f"source {entry.name!r} ({_origin(entry)}) cannot be used: {reason}"])
