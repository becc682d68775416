"""How one version of a model is loaded: opened, held against its configuration, warmed up."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from backend.cache.graphs import model_files
from backend.cache.models import ModelCache
from backend.datatypes import TensorSpec
from backend.errors import StartError
from backend.graph.empties import filled_inputs
from backend.graph.file import Graph, GraphError, read_graph
from backend.graph.steady import steady
from backend.model import Model
from backend.native import NativeSession
from backend.providers import PROVIDERS
from backend.repository import warmup
from backend.repository.folder import ModelFile
from backend.repository.memory import resident
from backend.repository.samples import ranges_of, samples_of
from backend.repository.sequences import Sequencing, sequencing_of
from backend.repository.settings import Settings, fitted
from backend.session import Session, open_session

log = logging.getLogger("tidegate.backend")


def load(file: ModelFile, settings: Settings, cache: ModelCache | None = None) -> Model:
    """Loads and warms up one version; `cache` is the model cache. Raises StartError."""
    source = f"model {file.name} version {file.version}"
    before = resident()
    session = open_session(file.path, source, settings.providers, settings.threads, settings.tuning, cache)
    if isinstance(session, NativeSession) and session.refused:
        log.warning("%s: not on %s", source, "; not on ".join(session.refused))
    log.info("%s: asked [%s], running on %s by %s", source, ", ".join(settings.providers), session.provider,
             session.runtime)  # fmt: skip
    graph = _graph(file.path)
    try:
        session.inputs = fitted(_filled(session.inputs, graph), settings, "input")
        fitted(session.outputs, settings, "output")
        sequencing = sequencing_of(session, settings, file.path.parent.parent)
        if sequencing is not None and not session.keeps_state:
            raise StartError("sequence_batching needs ONNX Runtime's C API, which this build does not have")
    except StartError as error:
        raise StartError(f"{source}: {error}") from error
    shapes = _warm_up(file, session, settings, {} if sequencing is None else sequencing.filled)
    model = Model(file.name, file.version, session, settings, file.path.name, sequencing)
    model.steady = graph is not None and steady(graph) and not (sequencing is not None and sequencing.growing)
    with suppress(OSError):  # a file that has gone since
        model.file_bytes = sum(one.stat().st_size for one in model_files(file.path))
    reason = _why_not_merged(file, session, settings, shapes, sequencing, cache)
    if reason is None:
        model.max_batch = settings.max_batch
        log.info("%s: %s", model, _batching(settings.max_batch))
    elif (settings.max_batch_size or 0) > 1:
        log.warning("%s: no batching, although max_batch_size is %d: %s", model, settings.max_batch_size, reason)
    else:
        log.info("%s: no batching: %s", model, reason)
    if isinstance(session, NativeSession):
        if session.provider == PROVIDERS["tensorrt"] and shapes is not None:
            warmup.largest(session, shapes, model.max_batch)
        session.warm()
    model.resident_bytes = max(resident() - before, 0)
    return model


def _warm_up(file: ModelFile, session: Session, settings: Settings, filled: warmup.Shapes) -> warmup.Shapes | None:
    """The shapes of one row that the model has taken; None: it was told to run nothing. `filled` are the shapes of
    inputs that the server fills in."""
    configuration = settings.configuration
    beside = file.path.parent / warmup.FILE
    if configuration.skip_warmup or configuration.message.model_warmup:
        if beside.exists():
            log.warning("%s: %s has no effect: %s says how to warm up", session.source, beside, configuration.source)
        if configuration.skip_warmup:
            return None
        samples = samples_of(session, configuration, file.path.parent.parent / "warmup", filled)
        return warmup.warm_up_on(session, samples)
    return warmup.warm_up(session, file.path.parent, filled)


def _why_not_merged(
    file: ModelFile,
    session: Session,
    settings: Settings,
    shapes: warmup.Shapes | None,
    sequencing: Sequencing | None,
    cache: ModelCache | None,
) -> str | None:
    if settings.max_batch == 1:
        given = settings.max_batch_size
        return "--max-batch is 1" if given is None else f"max_batch_size is {given} in {settings.configuration.source}"
    if sequencing is not None and not settings.max_batch_size:
        return "without a max_batch_size the tensors of a sequence have no rows"
    if sequencing is not None and sequencing.growing:
        return "the shape of its state may change"
    if shapes is None:
        return "the warm-up is skipped, so no batch was tried"
    execution = {
        "threads": str(settings.threads),
        "providers": ",".join(settings.providers),
        "level": settings.tuning.level,
        "options": json.dumps({name: dict(said) for name, said in settings.tuning.options.items()}, sort_keys=True),
    }
    trials = cache.trials if cache is not None and isinstance(session, NativeSession) else None
    return warmup.batches(session, shapes, file.path, ranges_of(settings.configuration), execution, trials)


def _graph(path: Path) -> Graph | None:
    try:
        return read_graph(path)
    except (GraphError, OSError):  # then nobody knows
        return None


def _filled(inputs: Sequence[TensorSpec], graph: Graph | None) -> tuple[TensorSpec, ...]:
    try:
        axes = filled_inputs(graph) if graph is not None else {}
    except GraphError:
        axes = {}
    return tuple(replace(spec, filled=axes.get(spec.name, spec.filled)) for spec in inputs)


def _batching(rows: int) -> str:
    return (
        f"batches up to {rows} rows: its operators keep rows apart, and rows tried in batches gave what they gave "
        f"alone (within {100 * warmup.TOLERANCE[4]:g} % of a 32-bit float)"
    )
