"""The models on disk, in Triton's layout (`NAME/VERSION/model.onnx`), and the loaded ones by name and version."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend import warmup
from backend.errors import NotFound, StartError, Unavailable
from backend.graph.file import GraphError, read_graph
from backend.graph.steady import steady
from backend.model import FILE, Model
from backend.session import open_session

log = logging.getLogger("tidegate.backend")

_VERSION = re.compile(r"[1-9][0-9]*")  # other directories, and numbers that start with 0, are no versions


@dataclass(frozen=True, slots=True)
class ModelFile:
    name: str
    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class Broken:
    """What cannot be served, and why; `version` is "" for a model without any."""

    name: str
    version: str
    reason: str


def scan(root: Path) -> tuple[list[ModelFile], list[Broken]]:
    """Every version of every model below `root`, sorted by name and version, and the models without one; names that
    start with a dot are left out.

    Raises StartError when `root` cannot be read or has no model.
    """
    try:
        directories = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise StartError(f"cannot read the model repository {root}: {error.strerror}") from error
    if not directories:
        raise StartError(f"the model repository {root} is empty: expected a file like {root / 'NAME' / '1' / FILE}")
    found: list[ModelFile] = []
    broken: list[Broken] = []
    for directory in directories:
        try:
            versions = sorted(int(entry.name) for entry in directory.iterdir() if _VERSION.fullmatch(entry.name))
            files = [ModelFile(directory.name, version, directory / str(version) / FILE) for version in versions]
            files = [file for file in files if file.path.is_file()]
        except OSError as error:
            broken.append(Broken(directory.name, "", f"cannot read the model {directory}: {error.strerror}"))
            continue
        if not files:
            reason = f"{directory} has no version: expected a file like {directory / '1' / FILE}"
            broken.append(Broken(directory.name, "", reason))
        found += files
    return found, broken


def load(file: ModelFile, providers: Sequence[str], threads: int, max_batch: int) -> Model:
    """Loads and warms up one version. Raises StartError."""
    source = f"model {file.name} version {file.version}"
    session = open_session(file.path, source, providers, threads)
    model = Model(file.name, file.version, session)
    log.info("%s: asked [%s], running on %s by %s", model, ", ".join(providers), session.provider, session.runtime)
    shapes = warmup.warm_up(session, file.path.parent)
    model.steady = _steady(file.path)
    if max_batch > 1:
        reason = warmup.batches(session, shapes, file.path)
        if reason is None:
            model.max_batch = max_batch
        log.info("%s: %s", model, _batching(max_batch) if reason is None else f"no batching: {reason}")
    return model


def _steady(path: Path) -> bool:
    try:
        return steady(read_graph(path))
    except (GraphError, OSError):  # then nobody knows
        return False


def _batching(rows: int) -> str:
    return (
        f"batches up to {rows} rows: its operators keep rows apart, and rows tried in batches gave what they gave "
        f"alone (within {100 * warmup.TOLERANCE[4]:g} % of a 32-bit float)"
    )


class Repository:
    """The loaded models, and the broken ones. The highest loaded version of a model is its default."""

    def __init__(self, models: Sequence[Model], broken: Sequence[Broken] = ()) -> None:
        self.broken = tuple(broken)
        self._models: dict[str, dict[str, Model]] = {}
        for model in sorted(models, key=lambda model: (model.name, int(model.version))):
            self._models.setdefault(model.name, {})[model.version] = model

    def __iter__(self) -> Iterator[Model]:
        for versions in self._models.values():
            yield from versions.values()

    def versions(self, name: str) -> list[str]:
        """The loaded ones, ascending. Raises NotFound, of a model that is broken Unavailable."""
        versions = self._models.get(name)
        if versions is None:
            self._refuse(name, "")
            raise NotFound(f"unknown model '{name}'; this server has: {', '.join(self._models)}")
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
        for model in self.broken:
            if model.name == name and (not version or model.version == version):
                raise Unavailable(f"model '{name}' is not ready: {model.reason}")
