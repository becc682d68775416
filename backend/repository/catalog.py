"""The models by name and version: those that are served, and why others are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backend.errors import NotFound, Unavailable
from backend.model import Model

# States of a version in RepositoryIndex.
READY, UNAVAILABLE, LOADING, UNLOADING = "READY", "UNAVAILABLE", "LOADING", "UNLOADING"


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of a model; `version` is "" for a model without any. A model that is READY has `model`; its `reason`,
    if any, says why a newer form of it is not served."""

    name: str
    version: str
    state: str
    reason: str = ""
    model: Model | None = None


class Catalog:
    """What is served at one moment; it does not change. The highest version that is served is a model's default."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = sorted(entries, key=lambda entry: (entry.name, int(entry.version or 0)))
        self._models: dict[str, dict[str, Model]] = {}
        for entry in self.entries:
            if entry.model is not None:
                self._models.setdefault(entry.name, {})[entry.version] = entry.model

    def __iter__(self) -> Iterator[Model]:
        for versions in self._models.values():
            yield from versions.values()

    def versions(self, name: str) -> list[str]:
        """The served ones, ascending. Raises NotFound, of a model that is known and not served Unavailable."""
        versions = self._models.get(name)
        if versions is None:
            self._refuse(name, "")
            raise NotFound(f"unknown model '{name}'; this server has: {', '.join(self._models) or 'none'}")
        return list(versions)

    def get(self, name: str, version: str) -> Model:
        """The version asked for, the default one for an empty `version`. Raises as `versions`."""
        versions = self.versions(name)
        model = self._models[name].get(version or versions[-1])
        if model is None:
            self._refuse(name, version)
            raise NotFound(f"model '{name}' has no version '{version}'; it has: {', '.join(versions)}")
        return model

    def _refuse(self, name: str, version: str) -> None:
        for entry in self.entries:
            if entry.name == name and entry.model is None and (not version or entry.version == version):
                raise Unavailable(f"model '{name}' is not ready: {entry.reason or entry.state.lower()}")
