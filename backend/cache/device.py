"""What a built thing depends on of the machine."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path

# Of /proc/cpuinfo: what a CPU is, and what it can do; on x86-64, then on Arm.
_CPU = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")


@cache
def cpu() -> str:
    """The type of the CPU, such as `x86_64 AMD EPYC 1f0a…`: ONNX Runtime lays out weights for it."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in _CPU:
                facts.setdefault(name.strip(), value.strip())
    except OSError:  # then it is the architecture alone
        pass
    words = " ".join(f"{name}={' '.join(sorted(value.split()))}" for name, value in sorted(facts.items()))
    digest = hashlib.sha256(words.encode()).hexdigest()[:16]
    return " ".join(filter(None, (platform.machine(), facts.get("model name", ""), digest)))
