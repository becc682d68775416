"""How busy the GPUs of processes are, and how much of their memory they use, by NVML (package nvidia-ml-py).

NVML is loaded with the first reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Use(NamedTuple):
    """Percent of time that the GPUs are busy (whoever keeps them so), and bytes of its own there."""

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

    def read(self, processes: Mapping[str, Sequence[int]]) -> dict[str, Use]:
        """The use by name, of all processes of a name. What is on no GPU is left out; on several it is their mean use.
        Blocks on the driver. Raises GpuUnavailable."""
        if self._nvml is None:
            self._nvml = self._loader()
        nvml = self._nvml
        found: dict[str, tuple[list[float], int]] = {}
        names = {pid: name for name, pids in processes.items() for pid in pids}
        try:
            for i in range(nvml.nvmlDeviceGetCount()):
                device = nvml.nvmlDeviceGetHandleByIndex(i)
                percent = float(nvml.nvmlDeviceGetUtilizationRates(device).gpu)
                here: dict[str, int] = {}
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(device):
                    if (name := names.get(process.pid)) is not None:
                        # None where the driver does not tell, as under MIG without rights.
                        here[name] = here.get(name, 0) + (process.usedGpuMemory or 0)
                for name, size in here.items():
                    busy, memory = found.get(name, ([], 0))
                    found[name] = ([*busy, percent], memory + size)
        except nvml.NVMLError as error:
            raise GpuUnavailable(f"NVML: {error}") from None
        return {name: Use(sum(busy) / len(busy), memory) for name, (busy, memory) in found.items()}
