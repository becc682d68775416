"""How busy the GPUs of processes are, and how much of their memory they use, by NVML (package nvidia-ml-py).

NVML is loaded with the first reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Use(NamedTuple):
    """Of one process: percent of time that its GPUs are busy (whoever keeps them so), and bytes of its own there."""

    busy: float
    memory: int


class GpuUnavailable(Exception):
    """There is no NVML, no GPU, or one that does not answer; the message says what."""


def load() -> Any:
    """The module pynvml, ready for use. Raises GpuUnavailable."""
    try:
        import pynvml
    except ImportError:
        raise GpuUnavailable("the package nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise GpuUnavailable(f"NVML: {error}") from None
    return pynvml


class GpuMeter:
    """Readings of processes; `loader` gives the module pynvml."""

    def __init__(self, loader: Callable[[], Any] = load) -> None:
        self._loader = loader
        self._nvml: Any = None

    def read(self, pids: Mapping[str, int]) -> dict[str, Use]:
        """The use by name. A process that is on no GPU is left out; one on several has the mean of their use. Blocks on
        the driver. Raises GpuUnavailable."""
        if self._nvml is None:
            self._nvml = self._loader()
        nvml = self._nvml
        busy: dict[int, list[float]] = {}
        memory: dict[int, int] = {}
        try:
            for i in range(nvml.nvmlDeviceGetCount()):
                device = nvml.nvmlDeviceGetHandleByIndex(i)
                percent = float(nvml.nvmlDeviceGetUtilizationRates(device).gpu)
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(device):
                    busy.setdefault(process.pid, []).append(percent)
                    # None where the driver does not tell, as under MIG without rights.
                    memory[process.pid] = memory.get(process.pid, 0) + (process.usedGpuMemory or 0)
        except nvml.NVMLError as error:
            raise GpuUnavailable(f"NVML: {error}") from None
        return {name: Use(sum(busy[pid]) / len(busy[pid]), memory[pid]) for name, pid in pids.items() if pid in busy}
