"""Python's binding of ONNX Runtime with its telemetry off: the only module that imports `onnxruntime`; all others take
it from here.

Official builds from 1.32 on ask DNS for a Microsoft host and write a device identifier as they are loaded, before their
`disable_telemetry_events()` can be called (Privacy.md of ONNX Runtime). The environment decides at that moment, so the
variable is set first. Only `ORT_DISABLE_TELEMETRY=0` in the process's own environment leaves telemetry on.
"""

from __future__ import annotations

import os

SWITCH = "ORT_DISABLE_TELEMETRY"

if os.environ.get(SWITCH) != "0":
    os.environ[SWITCH] = "1"

import onnxruntime  # noqa: E402 - the variable has to be there before

__all__ = ["SWITCH", "onnxruntime"]
