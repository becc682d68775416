"""Runs a model before it is offered: it works, lazy initialisation is paid for, and we know whether it batches.

A dynamic dimension says nothing of the sizes a model really takes (a detector may want multiples of 32), so a few are
tried. A file `warmup.json` beside the model, `{"input name": [shape]}`, says it outright; `model_warmup` of the model's
configuration says values, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.datatypes import BF16, TensorSpec, shape_text
from backend.errors import BackendError, StartError
from backend.graph.file import GraphError, read_graph
from backend.graph.rows import why_not
from backend.repository.configuration import Range
from backend.repository.samples import Sample, random_values, zeros
from backend.session import Session

if TYPE_CHECKING:  # where ONNX Runtime has no C API, it is not loaded
    from backend.cache.trials import Trials

FILE = "warmup.json"
_SIZES = (1, 8, 32, 64, 224, 256)  # of dynamic dimensions but the first: token counts, then image sides
_SEED = 0
# How far the values of a row spread, of the rows that are tried: data that is quantised by its largest value, or
# normalised over a batch, shows when small and large values meet.
_SPREADS = (1.0, 1.0, 1e-3, 100.0, 3.0, 0.0, 10.0, 1.0)
_FEWEST = 3
_BATCHES = (2, 3, 8, 13)
_FORM = 1  # of the trial: one more where `_probe`, or the values that it tries, change
TOLERANCE = {2: 2e-2, 4: 1e-3, 8: 1e-3}  # by the bytes of a float: relative, and a hundredth of it absolute

Shapes = Mapping[str, tuple[int, ...]]


def warm_up(session: Session, directory: Path, filled: Shapes) -> Shapes:
    """Runs the model once on zeros and returns the shapes it took. `filled` are those of inputs that the server fills
    in.

    Raises StartError when it takes none of the shapes tried, or `warmup.json` does not fit the model.
    """
    path = directory / FILE
    candidates = iter([_read(path, session, filled)]) if path.exists() else _candidates(session, filled)
    failure: BackendError | None = None
    for shapes in candidates:
        try:
            _run(session, {spec.name: zeros(spec, shapes[spec.name]) for spec in session.inputs})
        except BackendError as error:
            failure = failure or error
        else:
            return shapes
    form = json.dumps({spec.name: spec.shape for spec in session.inputs if spec.name not in filled})
    raise StartError(
        f"{session.source}: the warm-up inference failed ({failure}); "
        f"if the model is sound, write shapes that it takes to {path}, as {form} with a size for every -1, or samples "
        "of its inputs to model_warmup in its configuration"
    )


def warm_up_on(session: Session, samples: Sequence[Sample]) -> Shapes:
    """Runs the model on samples of its inputs and returns the shapes of one row of the first. Raises StartError."""
    for sample in samples:
        for _ in range(sample.count):
            try:
                _run(session, sample.feeds)
            except BackendError as error:
                raise StartError(f"{session.source}: the warm-up on '{sample.name}' failed ({error})") from error
    shapes = {name: array.shape for name, array in samples[0].feeds.items()}
    free = {spec.name for spec in session.inputs if spec.free_first}
    return {name: (1, *shape[1:]) if name in free else shape for name, shape in shapes.items()}


def largest(session: Session, shapes: Shapes, rows: int) -> None:
    """Runs the model on as many rows as it may get, so that TensorRT builds for these now. Raises StartError."""
    feeds = {
        spec.name: zeros(spec, (rows, *shapes[spec.name][1:]) if spec.free_first else shapes[spec.name])
        for spec in session.inputs
    }
    try:
        _run(session, feeds)
    except BackendError as error:
        raise StartError(f"{session.source}: the warm-up on {rows} rows failed ({error})") from error


def batches(
    session: Session,
    shapes: Shapes,
    path: Path,
    ranges: Mapping[str, Range],
    execution: Mapping[str, str],
    trials: Trials | None = None,
) -> str | None:
    """None when calls may run together, else the reason why they must not be merged. `ranges` are of the values that
    inputs of integers take. `execution` is how the session was opened, and `trials` knows models that were tried so.

    The graph decides (backend.graph.rows); then rows of very different values are run alone and in batches of several
    sizes, and have to give the same up to the noise of another order of additions (TOLERANCE).
    """
    inputs, outputs = session.inputs, session.outputs
    if not inputs or not all(spec.free_first for spec in (*inputs, *outputs)):
        return "an input or output has a fixed first dimension"
    if len({spec.batch for spec in inputs} - {None}) > 1:
        return "the first dimensions of its inputs have different names"
    if any(shapes[spec.name][0] != 1 for spec in inputs):
        return "the warm-up shapes have more than one row"
    try:
        reason = why_not(read_graph(path))
    except (GraphError, OSError) as error:
        reason = f"its graph cannot be read: {error}"
    if reason is not None or trials is None:
        return reason or _probe(session, shapes, ranges)
    tried = {
        **execution,
        "form": str(_FORM),
        "numpy": np.__version__,  # which draws the values
        "rows": json.dumps(
            {
                spec.name: [str(spec), shapes[spec.name], str(ranges.get(spec.name))]
                for spec in sorted(inputs, key=lambda spec: spec.name)
            }
        ),
    }
    return trials.passed(
        session.source, path, session.runtime, session.provider, tried, lambda: _probe(session, shapes, ranges)
    )


def _probe(session: Session, shapes: Shapes, ranges: Mapping[str, Range]) -> str | None:
    random = np.random.default_rng(_SEED)
    outputs = session.outputs
    rows, alone = [], []
    for spread in _SPREADS:
        row = {
            spec.name: random_values(spec, shapes[spec.name], random, spread, ranges.get(spec.name))
            for spec in session.inputs
        }
        try:
            alone.append(_run(session, row))
        except BackendError:  # values that the model does not take, such as an index beyond its table
            continue
        rows.append(row)
    if len(rows) < _FEWEST:
        return f"of {len(_SPREADS)} rows of random values it takes {len(rows)}: too few to try a batch"
    for size in _BATCHES:
        chosen = [int(index) for index in random.integers(0, len(rows), size)]
        merged = {name: np.concatenate([rows[index][name] for index in chosen]) for name in rows[0]}
        try:
            together = _run(session, merged)
        except BackendError as error:
            return f"{size} rows cannot be run together: {error}"
        for spec, found, singles in zip(outputs, together, zip(*(alone[i] for i in chosen), strict=True), strict=True):
            row = singles[0].shape
            if row[:1] != (1,) or any(a.shape != row for a in singles) or found.shape != (size, *row[1:]):
                return f"output '{spec.name}' of {size} rows has the shape {shape_text(found.shape)}"
            if difference := _difference(spec, found, np.concatenate(singles)):
                return f"output '{spec.name}' of a row depends on the other rows: {difference}"
    return None


def _run(session: Session, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return session.run([spec.name for spec in session.outputs], feeds)


def _candidates(session: Session, filled: Shapes) -> Iterator[Shapes]:
    free = any(-1 in spec.shape[1:] for spec in session.inputs if spec.name not in filled)
    for size in _SIZES if free else _SIZES[:1]:
        yield {
            spec.name: filled[spec.name]
            if spec.name in filled
            else tuple(
                (1 if index == 0 else size) if dimension == -1 else dimension
                for index, dimension in enumerate(spec.shape)
            )
            for spec in session.inputs
        }


def _read(path: Path, session: Session, filled: Shapes) -> Shapes:
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StartError(f"{session.source}: cannot read {path}: {error}") from error
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in session.inputs:
        if spec.name in filled:
            shapes[spec.name] = filled[spec.name]
            continue
        shape = given.get(spec.name) if isinstance(given, dict) else None
        if (
            not isinstance(shape, list)
            or not all(type(size) is int for size in shape)
            or not spec.accepts(tuple(shape))
        ):
            raise StartError(f"{session.source}: {path}: expected a shape for input {spec}, got {json.dumps(shape)}")
        shapes[spec.name] = tuple(shape)
    return shapes


def _difference(spec: TensorSpec, together: np.ndarray, alone: np.ndarray) -> str | None:
    """The largest one; None where they are equal, up to the rounding that a different order of additions brings."""
    if spec.datatype is BF16:
        together, alone = ((array.astype(np.uint32) << 16).view(np.float32) for array in (together, alone))
    floats, worst = alone.dtype.kind == "f", 0
    if floats:
        tolerance = TOLERANCE[spec.datatype.size]
        same = np.isclose(together, alone, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True)
    else:
        same = together == alone
    if same.all():
        return None
    one, other = together[~same], alone[~same]
    if floats:
        worst = int(np.nan_to_num(np.abs(one.astype(np.float64) - other)).argmax())
    return f"{one[worst]} among others, {other[worst]} alone"
