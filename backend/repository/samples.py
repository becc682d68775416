"""The samples of a warm-up, as `model_warmup` of a configuration describes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from backend.calls import split_bytes
from backend.datatypes import BY_CONFIG, BYTES, TensorSpec, shape_text
from backend.errors import InvalidInput, StartError
from backend.repository.configuration import Configuration, Range
from backend.session import Session

_SEED = 0
_MOST = 1 << 32  # bytes of one input


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs that the model is run on `count` times."""

    name: str
    feeds: dict[str, np.ndarray]
    count: int


def samples_of(
    session: Session, configuration: Configuration, folder: Path, filled: Mapping[str, tuple[int, ...]]
) -> list[Sample]:
    """`folder` has the files of `input_data_file`. Inputs that the server fills in (`filled`, with their shapes) may be
    left out, and are zeros then. Raises StartError where a sample does not fit the model."""
    random = np.random.default_rng(_SEED)
    samples = []
    for at, given in enumerate(configuration.message.model_warmup):
        what = f"{session.source}: {configuration.source}: model_warmup '{given.name or at}'"
        specs = {spec.name: spec for spec in session.inputs}
        unknown = sorted(given.inputs.keys() - specs.keys())
        missing = sorted(specs.keys() - given.inputs.keys() - filled.keys())
        if unknown or missing:
            raise StartError(
                f"{what}: expected inputs {', '.join(map(str, session.inputs))}; "
                + (f"'{unknown[0]}' is none" if unknown else f"'{missing[0]}' is missing")
            )
        feeds = {}
        for name, spec in specs.items():
            if name not in given.inputs:  # [] would add it
                feeds[name] = zeros(spec, filled[name])
                continue
            try:
                limits = configuration.ranges.get((at, name))
                feeds[name] = _input(spec, given.inputs[name], given.batch_size, folder, random, limits)
            except StartError as error:
                raise StartError(f"{what}: input '{name}': {error}") from error
        samples.append(Sample(given.name or str(at), feeds, max(given.count, 1)))
    return samples


def ranges_of(configuration: Configuration) -> dict[str, Range]:
    """The values that inputs take, as far as the samples say it: the first one counts."""
    found: dict[str, Range] = {}
    for (_, name), limits in sorted(configuration.ranges.items()):
        found.setdefault(name, limits)
    return found


def _input(
    spec: TensorSpec, given: Any, rows: int, folder: Path, random: np.random.Generator, limits: Range | None
) -> np.ndarray:
    if given.data_type and given.data_type != spec.datatype.config:
        raise StartError(f"expected datatype {spec.datatype.name}, got {BY_CONFIG.get(given.data_type)}")
    one = (1, *given.dims) if rows else tuple(given.dims)  # a file has one row
    shape = (rows, *given.dims) if rows else one
    if not spec.accepts(shape):
        raise StartError(f"expected shape {shape_text(spec.shape)}, got {shape_text(shape)}")
    if math.prod(shape) * max(spec.datatype.size, 1) > _MOST:
        raise StartError(f"the shape {shape_text(shape)} is too large")
    kind = given.WhichOneof("input_data_type")
    if kind == "zero_data":
        return zeros(spec, shape)
    if kind == "random_data":
        return random_values(spec, shape, random, 1.0, limits)
    if kind == "input_data_file":
        row = _from_file(spec, one, folder, given.input_data_file)
        return np.concatenate([row] * rows) if rows > 1 else row
    raise StartError("expected one of zero_data, random_data and input_data_file")


def _from_file(spec: TensorSpec, shape: tuple[int, ...], folder: Path, name: str) -> np.ndarray:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise StartError(f"input_data_file: expected a file in {folder}, got '{name}'")
    try:
        raw = (folder / inside).read_bytes()
    except OSError as error:
        raise StartError(f"cannot read {folder / inside}: {error.strerror}") from error
    count = math.prod(shape)
    if spec.datatype is BYTES:
        try:
            made = np.empty(count, BYTES.dtype)
            made[:] = [element.decode() for element in split_bytes(spec, raw, count)]
        except (InvalidInput, UnicodeDecodeError) as error:
            raise StartError(f"{folder / inside}: {error}") from error
        return made.reshape(shape)
    if len(raw) != count * spec.datatype.size:
        raise StartError(
            f"{folder / inside}: expected {count * spec.datatype.size} bytes for {spec.datatype.name} "
            f"{shape_text(shape)}, got {len(raw)}"
        )
    return np.frombuffer(raw, spec.datatype.dtype).reshape(shape)


def zeros(spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, "", BYTES.dtype) if spec.datatype is BYTES else np.zeros(shape, spec.datatype.dtype)


def random_values(
    spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator, spread: float, limits: Range | None = None
) -> np.ndarray:
    """Floats of both signs up to about `spread`, integers within `limits`, else from 0 to `spread` (also as indices),
    short strings. Raises StartError when the datatype does not have `limits`."""
    datatype = spec.datatype
    if limits is not None:
        try:
            if datatype.name[:3] not in ("INT", "UIN"):
                raise ValueError(datatype.name)
            return random.integers(*limits, shape, datatype.dtype.type, endpoint=True)
        except ValueError as error:
            raise StartError(f"{datatype.name} has no range [{limits[0]}, {limits[1]}] of integers") from error
    if datatype is BYTES:
        return random.choice(np.array(["a", "b", "", "longer"], BYTES.dtype), shape)
    if datatype.name == "BF16":
        return ((random.standard_normal(shape, np.float32) * np.float32(spread)).view(np.uint32) >> 16).astype(
            datatype.dtype
        )
    if datatype.dtype.kind == "f":
        return (random.standard_normal(shape) * spread).astype(datatype.dtype)
    if datatype.dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    return random.integers(0, 2 + min(int(spread), 100), shape).astype(datatype.dtype)
