"""Execution providers by their names here and ONNX Runtime's, and what every session is made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.errors import StartError

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
# Spinning threads would take the processors from the load balancer and the other servers of the machine.
ENTRIES = {"session.intra_op.allow_spinning": "0"}

LEVELS = {"none": 0, "basic": 1, "extended": 2, "all": 99}  # of optimising a graph, by ONNX Runtime's numbers


@dataclass(frozen=True, slots=True)
class Tuning:
    """Of a model's execution: options of the providers that it may run on, by their names here, and how far its graph
    is optimised (LEVELS)."""

    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    level: str = "all"

    def of(self, provider: str) -> dict[str, str]:
        """The options of a provider, by ONNX Runtime's name."""
        return next((dict(said) for name, said in self.options.items() if PROVIDERS[name] == provider), {})


def wrong_provider(
    source: str, asked: Sequence[str], found: str, offered: Sequence[str], reasons: Sequence[str] = ()
) -> StartError:
    """None of the asked providers can be had, and the CPU is not among them."""
    why = "".join(f"; {reason}" for reason in reasons)
    return StartError(
        f"{source}: asked for [{', '.join(asked)}] only, but it would run on {found} "
        f"(this ONNX Runtime offers {', '.join(offered)}{why}); "
        "install onnxruntime-gpu with its CUDA libraries or add cpu to --providers"
    )
