"""A loaded model, by whichever way this machine has to run it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backend.datatypes import TensorSpec
from backend.providers import Tuning

if TYPE_CHECKING:  # where ONNX Runtime has no C API, it is not loaded
    from backend.cache.models import ModelCache

log = logging.getLogger("tidegate.backend")


class Session(Protocol):
    """A loaded model, run from any number of threads at once.

    `inputs` and `outputs` describe its tensors. `provider` is the execution provider that really runs it, by ONNX
    Runtime's name. `source` is what messages call the model. `runtime` is the version of ONNX Runtime, and the way to
    it. `keeps_state`: the compiled core runs it, and can keep the state of sequences.
    """

    keeps_state: bool
    runtime: str
    source: str
    provider: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The named outputs for the inputs `feeds`; arrays are stored as `DataType.dtype` says.

        Raises InvalidInput when the model itself refuses the values (an index out of range), ModelFailure otherwise.
        """


def open_session(
    path: Path,
    source: str,
    providers: Sequence[str],
    threads: int,
    tuning: Tuning | None = None,
    cache: ModelCache | None = None,
) -> Session:
    """The model of a file, run by ONNX Runtime's C API, or by Python's binding where that cannot be had. `tuning`
    has the options of providers, `cache` what was built of models, which Python's binding does without.

    Raises StartError when the file cannot be loaded, has inputs or outputs that are not tensors of the protocol's
    datatypes, or when none of the `providers` (keys of PROVIDERS, in order of preference) can be had.
    """
    if _c_api():
        from backend.native import NativeSession

        return NativeSession(path, source, providers, threads, tuning, cache)
    from backend.binding import BindingSession

    return BindingSession(path, source, providers, threads, tuning)


@cache
def _c_api() -> bool:
    """Whether the C API can be had; if not, the log says why, once."""
    from backend.ort.errors import LibraryError
    from backend.ort.library import load

    try:
        load()
    except LibraryError as error:
        log.warning("ONNX Runtime has no usable C API (%s): its Python binding runs the models, slower", error)
        return False
    return True
