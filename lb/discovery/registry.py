"""Sources by name: Tidegate's own, and those of the entry-point group `tidegate.discovery`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lb.config.document import value_at, where
from lb.config.plugins import Family, words_of
from lb.config.schema.base import did_you_mean
from lb.config.schema.file import Config, DiscoverConfig, PoolConfig
from lb.config.units import FileContext
from lb.discovery.source import Source
from lb.errors import ConfigError

GROUP = "tidegate.discovery"
SourceType = type[Source]

# Durations come from a file, with their unit. A relative path would start from here.
_FROM_FILE = FileContext(Path())


class _Own(Mapping[str, SourceType]):
    """Tidegate's own sources; the module of one is imported when it is asked for."""

    _CLASSES = {
        "dns": "lb.discovery.dns:DnsSource",
        "file": "lb.discovery.file:FileSource",
        "kubernetes": "lb.discovery.kubernetes:KubernetesSource",
        "aws": "lb.discovery.aws:AwsSource",
        "gcp": "lb.discovery.gcp:GcpSource",
    }

    def __getitem__(self, name: str) -> SourceType:
        module, _, kind = self._CLASSES[name].partition(":")
        found: SourceType = getattr(importlib.import_module(module), kind)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._CLASSES)

    def __len__(self) -> int:
        return len(self._CLASSES)


SOURCES = _Own()


_ELSEWHERE = (
    "; there are dns, file, kubernetes, aws, gcp and those of plug-ins: write dns: {name: models.internal, port: 8001}"
)


def _elsewhere(name: str) -> str:
    return did_you_mean(name, SOURCES) or _ELSEWHERE


_FAMILY = Family(GROUP, "source", Source, SOURCES, method="look", options=BaseModel, elsewhere=_elsewhere)
find = _FAMILY.find


def build(pool: str, discover: DiscoverConfig, config: PoolConfig) -> Source:
    """The source that `discover` asks for. Raises ConfigError when there is no such one, or a plug-in's constructor
    fails."""
    kind = find(discover.source)
    try:
        options = discover.options
        if not isinstance(options, BaseModel):
            options = kind.Options.model_validate(options, context=_FROM_FILE)
        return kind(pool, options, config)
    except BaseException as error:
        raise ConfigError([f"source {discover.source!r} cannot be built: {words_of(error)}"]) from error


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
        from lb.config.advice.explain import message  # loaded when there is a mistake

        for detail in error.errors(include_url=False):
            path = where(detail["loc"])
            raw = value_at(discover.options, detail["loc"])
            yield f"{name}{'.' if path else ''}{path}", message(detail, kind.Options, raw)
    except BaseException as error:  # a plug-in's validator
        yield name, f"the options cannot be checked: {words_of(error)}"
