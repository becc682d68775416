"""The models on disk, in Triton's layout (`NAME/VERSION/model.onnx`), and the loaded ones by name and version."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend import warmup
from backend.errors import NotFound, StartError
from backend.model import FILE, Model
from backend.session import open_session

log = logging.getLogger("tidegate.backend")

_VERSION = re.compile(r"[1-9][0-9]*")  # other directories, and numbers that start with 0, are no versions


@dataclass(frozen=True, slots=True)
class ModelFile:
    name: str
    version: int
    path: Path


def scan(root: Path) -> list[ModelFile]:
    """Every version of every model below `root`, sorted by name and version; names that start with a dot are left out.

    Raises StartError when `root` cannot be read or has no model, or when a model has no version.
    """
    try:
        directories = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        found: list[ModelFile] = []
        for directory in directories:
            versions = sorted(int(entry.name) for entry in directory.iterdir() if _VERSION.fullmatch(entry.name))
            files = [ModelFile(directory.name, version, directory / str(version) / FILE) for version in versions]
            files = [file for file in files if file.path.is_file()]
            if not files:
                raise StartError(f"{directory} has no version: expected a file like {directory / '1' / FILE}")
            found += files
    except OSError as error:
        raise StartError(f"cannot read the model repository {root}: {error.strerror}") from error
    if not found:
        raise StartError(f"the model repository {root} is empty: expected a file like {root / 'NAME' / '1' / FILE}")
    return found


def load(file: ModelFile, providers: Sequence[str], threads: int, max_batch: int) -> Model:
    """Loads and warms up one version. Raises StartError."""
    source = f"model {file.name} version {file.version}"
    session = open_session(file.path, source, providers, threads)
    model = Model(file.name, file.version, session)
    log.info("%s: asked [%s], running on %s by %s", model, ", ".join(providers), session.provider, session.runtime)
    shapes = warmup.warm_up(session, file.path.parent)
    if max_batch > 1:
        reason = warmup.batches(session, shapes, file.path)
        if reason is None:
            model.max_batch = max_batch
        log.info("%s: %s", model, _batching(max_batch) if reason is None else f"no batching: {reason}")
    return model


def _batching(rows: int) -> str:
    return (
        f"batches up to {rows} rows: its operators keep rows apart, and rows tried in batches gave what they gave "
        f"alone (within {100 * warmup.TOLERANCE[4]:g} % of a 32-bit float)"
    )


class Repository:
    """The loaded models. The highest version of a model is its default."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models: dict[str, dict[str, Model]] = {}
        for model in sorted(models, key=lambda model: (model.name, int(model.version))):
            self._models.setdefault(model.name, {})[model.version] = model

    def __iter__(self) -> Iterator[Model]:
        for versions in self._models.values():
            yield from versions.values()

    def versions(self, name: str) -> list[str]:
        """Ascending. Raises NotFound."""
        versions = self._models.get(name)
        if versions is None:
            raise NotFound(f"unknown model '{name}'; this server has: {', '.join(self._models)}")
        return list(versions)

    def get(self, name: str, version: str) -> Model:
        """The version asked for, the default one for an empty `version`. Raises NotFound."""
        versions = self.versions(name)
        model = self._models[name].get(version or versions[-1])
        if model is None:
            raise NotFound(f"model '{name}' has no version '{version}'; it has: {', '.join(versions)}")
        return model
