"""Runs of models outside of the compiled core: by Python's binding, for builds of ONNX Runtime that have no C API to
load, and of models that are to be loaded before."""

from __future__ import annotations

import asyncio
import logging
import math
from concurrent.futures import Executor

import numpy as np

from backend.calls import join_bytes, split_bytes
from backend.datatypes import BYTES, TensorSpec
from backend.errors import BackendError
from backend.inference.engine import PythonBatch
from backend.on_demand import OnDemandSession

log = logging.getLogger("tidegate.backend")


class BindingRuns:
    """Has batches of the engine run on the threads of `executor`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._running: set[asyncio.Future[None]] = set()

    def __call__(self, batch: PythonBatch) -> None:
        """Belongs to the loop; `batch.finish` is called there."""
        loop = asyncio.get_running_loop()
        session = batch.model.session
        run: asyncio.Future[None]
        if isinstance(session, OnDemandSession):
            run = loop.create_task(self._load_and_run(session, batch))
        else:
            run = loop.run_in_executor(self._executor, _run, batch)
        self._running.add(run)  # the loop itself holds no task
        run.add_done_callback(lambda run: self._done(batch, run))

    async def _load_and_run(self, session: OnDemandSession, batch: PythonBatch) -> None:
        """Raises BackendError."""
        await session.wait_loaded(batch.since)
        await asyncio.get_running_loop().run_in_executor(self._executor, _run, batch)

    def _done(self, batch: PythonBatch, run: asyncio.Future[None]) -> None:
        self._running.discard(run)
        _finish(batch, run)


def _run(batch: PythonBatch) -> None:
    """Raises BackendError."""
    batch.begin()
    session = batch.model.session
    members = batch.members()
    feeds = {}
    for index, spec in enumerate(session.inputs):
        arrays = [_decode(spec, *member[index]) for member in members]
        feeds[spec.name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    specs = [session.outputs[index] for index in batch.wanted]
    results = session.run([spec.name for spec in specs], feeds)
    batch.ran([(array.shape, _encode(spec, array)) for spec, array in zip(specs, results, strict=True)])


def _finish(batch: PythonBatch, run: asyncio.Future[None]) -> None:
    if run.cancelled():  # the executor was shut down before the run began
        batch.finish("the server is stopping")
        return
    error = run.exception()
    if error is None:
        batch.finish()
    elif isinstance(error, BackendError):
        batch.finish(str(error), error.status)
    else:
        log.error("%s: a run ended in an unexpected error", batch.model, exc_info=error)
        batch.finish(f"{batch.model} failed unexpectedly; the server's log has more")


def _decode(spec: TensorSpec, shape: tuple[int, ...], raw: bytes) -> np.ndarray:
    if spec.datatype is BYTES:
        made = np.empty(math.prod(shape), BYTES.dtype)
        made[:] = [element.decode() for element in split_bytes(spec, raw, math.prod(shape))]
        return made.reshape(shape)
    return np.frombuffer(raw, spec.datatype.dtype).reshape(shape)


def _encode(spec: TensorSpec, array: np.ndarray) -> bytes:
    if spec.datatype is BYTES:
        return join_bytes([str(element).encode() for element in array.reshape(-1)])
    return array.astype(spec.datatype.dtype, copy=False).tobytes()
