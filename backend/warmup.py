"""Runs a model before it is offered: it works, lazy initialisation is paid for, and we know whether it batches.

A dynamic dimension says nothing of the sizes a model really takes (a detector may want multiples of 32), so a few are
tried. A file `warmup.json` beside the model, `{"input name": [shape]}`, says it outright.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from backend.datatypes import BF16, BYTES, TensorSpec, shape_text
from backend.errors import BackendError, StartError
from backend.session import Session

FILE = "warmup.json"
_SIZES = (1, 8, 32, 64, 224, 256)  # of dynamic dimensions but the first: token counts, then image sides
_SEED = 0

Shapes = Mapping[str, tuple[int, ...]]


def warm_up(session: Session, directory: Path) -> Shapes:
    """Runs the model once on zeros and returns the shapes it took.

    Raises StartError when it takes none of the shapes tried, or `warmup.json` does not fit the model.
    """
    path = directory / FILE
    candidates = iter([_read(path, session)]) if path.exists() else _candidates(session)
    failure: BackendError | None = None
    for shapes in candidates:
        try:
            _run(session, {spec.name: _zeros(spec, shapes[spec.name]) for spec in session.inputs})
        except BackendError as error:
            failure = failure or error
        else:
            return shapes
    form = json.dumps({spec.name: spec.shape for spec in session.inputs})
    raise StartError(
        f"{session.source}: the warm-up inference failed ({failure}); "
        f"if the model is sound, write shapes that it takes to {path}, as {form} with a size for every -1"
    )


def batches(session: Session, shapes: Shapes) -> str | None:
    """None when two rows run together give what each gives alone, else the reason why calls must not be merged."""
    inputs, outputs = session.inputs, session.outputs
    if not inputs or not all(spec.free_first for spec in (*inputs, *outputs)):
        return "an input or output has a fixed first dimension"
    if len({spec.batch for spec in inputs} - {None}) > 1:
        return "the first dimensions of its inputs have different names"
    if any(shapes[spec.name][0] != 1 for spec in inputs):
        return "the warm-up shapes have more than one row"
    random = np.random.default_rng(_SEED)
    rows = [{spec.name: _random(spec, shapes[spec.name], random) for spec in inputs} for _ in range(2)]
    try:
        alone = [_run(session, row) for row in rows]
        together = _run(session, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    except BackendError as error:
        return f"two rows cannot be run together: {error}"
    for spec, merged, *single in zip(outputs, together, *alone, strict=True):
        if any(array.shape[0] != 1 for array in single) or merged.shape != (2, *single[0].shape[1:]):
            return f"output '{spec.name}' of two rows has the shape {shape_text(merged.shape)}"
        if not _same(spec, merged, np.concatenate(single)):
            return f"output '{spec.name}' of a row depends on the other rows"
    return None


def _run(session: Session, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return session.run([spec.name for spec in session.outputs], feeds)


def _candidates(session: Session) -> Iterator[Shapes]:
    free = any(-1 in spec.shape[1:] for spec in session.inputs)
    for size in _SIZES if free else _SIZES[:1]:
        yield {
            spec.name: tuple(
                (1 if index == 0 else size) if dimension == -1 else dimension
                for index, dimension in enumerate(spec.shape)
            )
            for spec in session.inputs
        }


def _read(path: Path, session: Session) -> Shapes:
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StartError(f"{session.source}: cannot read {path}: {error}") from error
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in session.inputs:
        shape = given.get(spec.name) if isinstance(given, dict) else None
        if (
            not isinstance(shape, list)
            or not all(type(size) is int for size in shape)
            or not spec.accepts(tuple(shape))
        ):
            raise StartError(f"{session.source}: {path}: expected a shape for input {spec}, got {json.dumps(shape)}")
        shapes[spec.name] = tuple(shape)
    return shapes


def _zeros(spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, "", BYTES.dtype) if spec.datatype is BYTES else np.zeros(shape, spec.datatype.dtype)


def _random(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Values that nearly every model takes: floats in [0, 1), integers 0 or 1 (also as indices), one-letter strings."""
    if spec.datatype is BYTES:
        return random.choice(np.array(["a", "b"], BYTES.dtype), shape)
    if spec.datatype is BF16:
        return (random.random(shape, np.float32).view(np.uint32) >> 16).astype(BF16.dtype)
    if spec.datatype.dtype.kind == "f":
        return random.random(shape).astype(spec.datatype.dtype)
    return random.integers(0, 2, shape).astype(spec.datatype.dtype)


def _same(spec: TensorSpec, left: np.ndarray, right: np.ndarray) -> bool:
    """Equal up to the rounding that a different order of additions brings."""
    if spec.datatype is BF16:
        left, right = ((array.astype(np.uint32) << 16).view(np.float32) for array in (left, right))
    elif left.dtype.kind != "f":
        return bool(np.array_equal(left, right))
    tolerance = 1e-3 if spec.datatype.size >= 4 else 2e-2
    return bool(np.allclose(left, right, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True))
