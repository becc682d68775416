"""The GPUs of this machine, by NVML (the package nvidia-ml-py, in the extra `gpu`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

_INTERVAL = 2.0  # seconds between two questions, as Triton's

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


# Triton's names; how NVML is asked, and its unit in Triton's.
_FAMILIES: tuple[tuple[str, str, str, Callable[[Any, Any], float]], ...] = (
    (
        "nv_gpu_utilization",
        "gauge",
        "Share of time in which the GPU computed, 0 to 1.",
        lambda library, gpu: library.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    ),
    (
        "nv_gpu_memory_total_bytes",
        "gauge",
        "Memory of the GPU, in bytes.",
        lambda library, gpu: library.nvmlDeviceGetMemoryInfo(gpu).total,
    ),
    (
        "nv_gpu_memory_used_bytes",
        "gauge",
        "Memory of the GPU that is in use, by all processes, in bytes.",
        lambda library, gpu: library.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
    (
        "nv_gpu_power_usage",
        "gauge",
        "Power that the GPU takes, in watts.",
        lambda library, gpu: library.nvmlDeviceGetPowerUsage(gpu) / 1000,
    ),
    (
        "nv_gpu_power_limit",
        "gauge",
        "Power that the GPU may take, in watts.",
        lambda library, gpu: library.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
    ),
    (
        "nv_energy_consumption",
        "counter",
        "Energy that the GPU has taken since its driver was loaded, in joules.",
        lambda library, gpu: library.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000,
    ),
)


def metrics_text() -> str:
    """What the GPUs say, in Prometheus' text format; what one of them does not tell is left out. "" without a GPU.
    Takes some milliseconds for each."""
    library = nvml()
    if library is None:
        return ""
    gpus = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
    names = [library.nvmlDeviceGetUUID(gpu) for gpu in gpus]
    lines = []
    for name, kind, meaning, read in _FAMILIES:
        said = []
        for gpu, uuid in zip(gpus, names, strict=True):
            with suppress(library.NVMLError):
                said.append(f'{name}{{gpu_uuid="{uuid}"}} {read(library, gpu)!r}')
        if said:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *said]
    return "\n".join(lines) + "\n" if lines else ""


class GpuMetrics:
    """`text` is what the GPUs said last, at most some seconds ago: to ask them would hold the loop."""

    def __init__(self) -> None:
        self.text = ""

    async def follow(self) -> None:
        """Until it is cancelled; at once done where there is no GPU."""
        while nvml() is not None:
            try:
                self.text = await asyncio.to_thread(metrics_text)
            except nvml().NVMLError as error:
                log.warning("the GPUs cannot be asked: %s", error)
            await asyncio.sleep(_INTERVAL)
