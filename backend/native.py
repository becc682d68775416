"""A model in ONNX Runtime by its C API."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from backend.cache.engines import EngineFolder
from backend.cache.models import ModelCache
from backend.datatypes import BY_ONNX, UNKNOWN_ELEMENTS, TensorSpec
from backend.errors import InvalidInput, ModelFailure, StartError
from backend.ort.errors import OrtError
from backend.ort.library import available_providers, load
from backend.ort.session import Session
from backend.ort.tensors import TensorInfo
from backend.providers import ENTRIES, LEVELS, PROVIDERS, Tuning, wrong_provider


class NativeSession:
    """A loaded model, run from any number of threads at once; see backend.session.Session.

    Raises StartError when the file cannot be loaded, has inputs or outputs that are not tensors of the protocol's
    datatypes, or when none of the `providers` (keys of PROVIDERS, in order of preference) can be had; LibraryError when
    there is no C API. ONNX Runtime refuses a provider whose libraries or device are missing; the next one is asked for
    then, and `refused` says why. `tuning` has the
    options of providers; `cache` is the model cache.
    """

    keeps_state = True

    def __init__(
        self,
        path: Path,
        source: str,
        providers: Sequence[str],
        threads: int,
        tuning: Tuning | None = None,
        cache: ModelCache | None = None,
    ) -> None:
        self._version = load()
        self.runtime = f"ONNX Runtime {self._version}, its C API"
        self.source = source
        self.refused: list[str] = []
        self._engines: EngineFolder | None = None
        asked = [PROVIDERS[name] for name in providers]
        usable = [name for name in asked if self._works(name)]
        if usable and usable[0] == PROVIDERS["tensorrt"] and PROVIDERS["cuda"] not in usable:
            usable += [name for name in [PROVIDERS["cuda"]] if self._works(name)]  # for nodes that TensorRT leaves
        self.compiled = self._load(path, usable, threads, tuning or Tuning(), cache)
        self.provider: str = self.compiled.providers[0]
        if self.provider not in asked:
            raise wrong_provider(source, providers, self.provider, available_providers(), self.refused)
        self.inputs = tuple(self._spec(info, "input") for info in self.compiled.inputs)
        self.outputs = tuple(self._spec(info, "output") for info in self.compiled.outputs)

    def warm(self) -> None:
        """The model has run on shapes that it will be run on: what was built for these is kept in the cache."""
        if self._engines is not None:
            self._engines.publish()

    def _works(self, provider: str) -> bool:
        reason = Session.refusal(provider)
        if reason:
            self.refused.append(f"{provider}: {reason}")
        return not reason

    def _load(
        self, path: Path, providers: Sequence[str], threads: int, tuning: Tuning, cache: ModelCache | None
    ) -> Session:
        options = {name: tuning.of(name) for name in providers}

        def make(
            file: Path, entries: Mapping[str, str], save_to: Path | None = None, optimized: bool = False
        ) -> Session:
            level = LEVELS["none" if optimized else tuning.level]
            return Session(file, list(options.items()), threads, {**ENTRIES, **entries}, save_to, level)

        def make_with(said: Mapping[str, str]) -> Session:
            options[PROVIDERS["tensorrt"]] = dict(said)
            return make(path, {})

        first = providers[0] if providers else PROVIDERS["cpu"]
        try:
            if cache is not None and first == PROVIDERS["cpu"]:
                return cache.graphs.open(self.source, path, self._version, tuning.level, make)
            if cache is not None and first == PROVIDERS["tensorrt"]:
                said = options[first]
                session, self._engines = cache.engines.open(self.source, path, self._version, said, make_with)
                if self._engines is not None:
                    weakref.finalize(self, self._engines.close)
                return session
            return make(path, {})
        except OrtError as error:
            raise StartError(f"{self.source}: cannot load {path}: {error}") from error

    def _spec(self, info: TensorInfo, role: str) -> TensorSpec:
        datatype = BY_ONNX.get(info.element)
        if datatype is None:
            found, help_ = info.kind, "export the model with plain tensors (for scikit-learn models: zipmap off)"
            if info.kind == "tensor":
                found = f"tensor of {UNKNOWN_ELEMENTS.get(info.element, f'element type {info.element}')}"
                help_ = "cast it within the model"
            article = "an" if found[0] in "aeiou" else "a"
            raise StartError(
                f"{self.source}: {role} '{info.name}' is {article} {found}, which the protocol cannot carry; {help_}"
            )
        return TensorSpec(info.name, datatype, info.shape, (info.symbols[0] or None) if info.symbols else None)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The named outputs for the inputs `feeds`; arrays are stored as `DataType.dtype` says.

        Raises InvalidInput when the model itself refuses the values (an index out of range), ModelFailure otherwise.
        """
        try:
            return self.compiled.run(outputs, feeds)
        except OrtError as error:
            if error.invalid:
                raise InvalidInput(f"{self.source} refuses the input: {error}") from error
            raise ModelFailure(f"{self.source} failed: {error}") from error
