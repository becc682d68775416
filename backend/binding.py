"""A model in ONNX Runtime by its Python binding, for builds that have no C API to load (backend.native)."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backend.datatypes import BF16, BY_RUNTIME, TensorSpec
from backend.errors import InvalidInput, ModelFailure, StartError
from backend.providers import ENTRIES, LEVELS, PROVIDERS, Tuning, wrong_provider
from backend.runtime import onnxruntime

_STATE = onnxruntime.capi.onnxruntime_pybind11_state
# The binding's errors have no common base, and it raises plain ValueError and RuntimeError besides them.
_CLIENT_ERRORS = (_STATE.InvalidArgument, ValueError)
_MODEL_ERRORS = (_STATE.Fail, _STATE.RuntimeException, _STATE.EPFail, _STATE.NotImplemented, RuntimeError, TypeError)
_LOAD_ERRORS = (
    *_CLIENT_ERRORS,
    *_MODEL_ERRORS,
    _STATE.InvalidProtobuf,
    _STATE.InvalidGraph,
    _STATE.ModelLoaded,
    _STATE.NoModel,
    _STATE.NoSuchFile,
)
_SILENT = 4  # ONNX Runtime's severity "fatal": what fails in a run is told to its client, not to the log
_ERRORS = 3


class BindingSession:
    """A loaded model, run from any number of threads at once.

    `inputs` and `outputs` describe its tensors. `provider` is the execution provider that really runs it, by ONNX
    Runtime's name. `source` is what messages call the model.

    Raises StartError when the file cannot be loaded, has inputs or outputs that are not tensors of the protocol's
    datatypes, or when none of the `providers` (keys of PROVIDERS, in order of preference) can be had. ONNX Runtime
    itself falls back to the CPU without an error and lists providers whose libraries are missing; so what counts is the
    provider that the created session reports.
    """

    keeps_state = False

    def __init__(
        self, path: Path, source: str, providers: Sequence[str], threads: int, tuning: Tuning | None = None
    ) -> None:
        self.source = source
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}, its Python binding"
        asked = [PROVIDERS[name] for name in providers]
        offered = onnxruntime.get_available_providers()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS
        tuning = tuning or Tuning()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(LEVELS[tuning.level])
        for entry, value in ENTRIES.items():
            options.add_session_config_entry(entry, value)
        # Without any of the asked ones, the CPU only serves to find out and say what runs instead.
        usable = [name for name in asked if name in offered] or [PROVIDERS["cpu"]]
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[(name, tuning.of(name)) for name in usable]
            )
        except _LOAD_ERRORS as error:
            raise StartError(f"{source}: cannot load {path}: {_one_line(error)}") from error
        self._session.disable_fallback()  # a GPU that fails later is an error, not a slow success
        self.provider: str = self._session.get_providers()[0]
        if self.provider not in asked:
            raise wrong_provider(source, providers, self.provider, offered)
        self.inputs = tuple(self._spec(tensor, "input") for tensor in self._session.get_inputs())
        self.outputs = tuple(self._spec(tensor, "output") for tensor in self._session.get_outputs())
        self._datatypes = {spec.name: spec.datatype for spec in (*self.inputs, *self.outputs)}
        self._has_bf16 = BF16 in self._datatypes.values()
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _SILENT

    def _spec(self, tensor: Any, role: str) -> TensorSpec:
        datatype = BY_RUNTIME.get(tensor.type)
        if datatype is None:
            raise StartError(
                f"{self.source}: {role} '{tensor.name}' has the type {tensor.type}, which the protocol cannot carry; "
                "export the model with plain tensors (for scikit-learn models: zipmap off)"
            )
        shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in tensor.shape)
        first = tensor.shape[0] if tensor.shape else None
        return TensorSpec(tensor.name, datatype, shape, first if isinstance(first, str) else None)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The named outputs for the inputs `feeds`; arrays are stored as `DataType.dtype` says.

        Raises InvalidInput when the model itself refuses the values (an index out of range), ModelFailure otherwise.
        """
        try:
            if self._has_bf16:
                return self._run_bf16(outputs, feeds)
            results = self._session.run(list(outputs), dict(feeds), self._run_options)
        except _CLIENT_ERRORS as error:
            raise InvalidInput(f"{self.source} refuses the input: {_one_line(error)}") from error
        except _MODEL_ERRORS as error:
            raise ModelFailure(f"{self.source} failed: {_one_line(error)}") from error
        return [np.asarray(result) for result in results]

    def _run_bf16(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """`run` for models with BF16 tensors, which the runtime's numpy interface refuses: their bits pass through."""
        make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        plain = onnxruntime.OrtValue.ortvalue_from_numpy
        values = {
            name: make(np.ascontiguousarray(array), BF16.onnx) if self._datatypes[name] is BF16 else plain(array)
            for name, array in feeds.items()
        }
        results = self._session.run_with_ort_values(list(outputs), values, self._run_options)
        return [
            _bits(value) if self._datatypes[name] is BF16 else np.asarray(value.numpy())
            for name, value in zip(outputs, results, strict=True)
        ]


def _bits(value: Any) -> np.ndarray:
    """A copy of a BF16 value in host memory, as UINT16."""
    if value.device_name() != "cpu":
        raise ModelFailure(f"ONNX Runtime left a BF16 output on {value.device_name()}, expected host memory")
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * BF16.size
    if size == 0:
        return np.empty(shape, BF16.dtype)
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size), BF16.dtype).reshape(shape)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
