"""The models on disk, in Triton's layout: `NAME/VERSION/model.onnx`, with `NAME/config.pbtxt` or its like beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import StartError
from backend.repository.configuration import FILES, Configuration, read_configuration
from backend.repository.settings import chosen_versions, file_name

_VERSION = re.compile(r"[1-9][0-9]*", re.ASCII)  # other folders, and numbers that start with 0, are no versions
_BESIDE = (*FILES, "warmup")  # what counts for all versions

Signature = frozenset[tuple[str, int, int, int]]  # of files: path, time of change (ns), size, inode


@dataclass(frozen=True, slots=True)
class ModelFile:
    name: str
    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What there is of a model. `files` are the versions that its version policy chooses, ascending; `missing` are
    those that it chooses and that are not there, with the reason. `problem` says why nothing of the model can be
    loaded, "" for a good folder. `signatures` tell whether a version has changed."""

    name: str
    configuration: Configuration = field(default_factory=Configuration)
    files: tuple[ModelFile, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    signatures: Mapping[str, Signature] = field(default_factory=dict)


def model_names(root: Path) -> list[str]:
    """The folders in `root`, sorted; names that start with a dot are left out. Raises StartError."""
    try:
        return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise StartError(f"cannot read the model repository {root}: {error.strerror}") from error


def read_folder(root: Path, name: str, override: Configuration | None = None) -> ModelFolder:
    """What there is of a model now; `override` stands in for its configuration."""
    folder = root / name
    try:
        # First: what changes from now on is a change.
        versions = _versions(folder)
        signatures = {str(version): signature(folder, version) for version in versions}
        configuration = read_configuration(folder) if override is None else override
        filename = file_name(configuration)
        found = [version for version in versions if (folder / str(version) / filename).is_file()]
        chosen = chosen_versions(configuration, found)
    except OSError as error:
        return ModelFolder(name, problem=f"cannot read the model {folder}: {error.strerror}")
    except StartError as error:
        return ModelFolder(name, problem=f"model {name}: {error}", signatures=signatures)
    if not chosen:
        problem = f"{folder} has no version: expected a file like {folder / '1' / filename}"
        return ModelFolder(name, problem=problem, signatures=signatures)
    files = tuple(ModelFile(name, version, folder / str(version) / filename) for version in chosen)
    missing = {
        str(file.version): f"model {name} version {file.version}: version_policy asks for {file.path}, which is missing"
        for file in files
        if file.version not in found
    }
    return ModelFolder(
        name, configuration, tuple(file for file in files if file.version in found), missing, signatures=signatures
    )


def survey(root: Path) -> dict[str, Signature]:
    """What tells for each model whether anything of it has changed. Raises StartError."""
    found = {}
    for name in model_names(root):
        folder = root / name
        try:
            versions = _versions(folder)
        except OSError as error:
            found[name] = frozenset({(str(error), 0, 0, 0)})
            continue
        found[name] = signature(folder).union(*(signature(folder, version) for version in versions))
    return found


def signature(folder: Path, version: int | None = None) -> Signature:
    """Of the files that count for a version, or of those alone that count for all."""
    paths = [folder / name for name in _BESIDE]
    if version is not None:
        paths.append(folder / str(version))
    return frozenset(part for path in paths for part in _signed(path))


def _signed(path: Path) -> Iterator[tuple[str, int, int, int]]:
    files = [path]
    if path.is_dir():
        files = [Path(parent, name) for parent, _, names in os.walk(path) for name in names]
    for file in files:
        try:
            status = file.stat()
        except OSError:  # it is not there, or not any more
            continue
        yield str(file), status.st_mtime_ns, status.st_size, status.st_ino


def _versions(folder: Path) -> list[int]:
    return sorted(int(entry.name) for entry in folder.iterdir() if _VERSION.fullmatch(entry.name))
