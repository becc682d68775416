"""The GPUs of this machine, by NVML (the package nvidia-ml-py, in the extra `gpu`)."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

log = logging.getLogger("tidegate.backend")


@cache
def nvml() -> Any:
    """NVIDIA's module, ready for use; None: there is no such package, no driver, or no GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml if pynvml.nvmlDeviceGetCount() else None
    except pynvml.NVMLError as error:
        log.debug("no GPU: %s", error)
        return None


def device_name() -> str:
    """What an engine depends on: the types of the GPUs with their compute capabilities, and the driver. "" without."""
    library = nvml()
    if library is None:
        return ""
    kinds = set()
    for index in range(library.nvmlDeviceGetCount()):
        handle = library.nvmlDeviceGetHandleByIndex(index)
        major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
        kinds.add(f"{library.nvmlDeviceGetName(handle)} {major}.{minor}")
    return f"{', '.join(sorted(kinds))}; driver {library.nvmlSystemGetDriverVersion()}"
