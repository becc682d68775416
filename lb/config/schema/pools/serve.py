"""Managed pools: the model servers that Tidegate starts itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lb.config.schema.base import FilePath, Integer, Model, text
from lb.config.units import MILLISECOND, SECOND, Duration

# execve(2) takes no NUL in an argument or in the environment.
_Text = Annotated[str, *text(r"[^\x00]*", "holds a NUL")]
_Variable = Annotated[str, *text(r"[A-Za-z_][A-Za-z0-9_]*", "is not the name of a variable")]


class BackoffConfig(Model):
    """Waiting time before a model server that ended is started again; it doubles from `initial` to `max`."""

    initial: Duration = Field(default=500 * MILLISECOND, ge=MILLISECOND)
    """Wait after the first failure."""
    max: Duration = Field(default=30 * SECOND, ge=MILLISECOND)
    """Longest wait. A server that ran well for a while starts from `initial` again."""


class CrashLoopConfig(Model):
    """When a model server that keeps ending counts as broken; it is then tried only rarely and shown so in status."""

    restarts: Integer = Field(default=5, ge=1, le=1000)
    """Restarts within `within` that are still normal."""
    within: Duration = Field(default=60 * SECOND, ge=1 * SECOND)
    """The span of time in which restarts are counted."""


class ServeConfig(Model):
    """Model servers that Tidegate starts, restarts, drains and scales for a pool."""

    models: FilePath
    """Folder of the models, laid out as `NAME/VERSION/model.onnx`. A relative path starts from the folder of this
    file."""
    min: Integer = Field(default=1, ge=1, le=1000)
    """Model servers that always run."""
    max: Integer = Field(default_factory=lambda data: data.get("min", 1), ge=1, le=1000)
    """Most model servers that `scaling` may start, for which it is required; `min` and `max` alike hold their number.
    Default without `scaling`: the same as `min`."""
    listen: Literal["unix", "tcp"] = "unix"
    """How the model servers are reached: Unix sockets in the runtime folder, or free ports of 127.0.0.1."""
    providers: list[Literal["tensorrt", "cuda", "cpu"]] = Field(default=["cpu"], min_length=1)
    """Execution providers of ONNX Runtime in order of preference; those that the machine lacks are passed over."""
    threads: Integer | None = Field(default=None, ge=1, le=1024)
    """Threads that one model server computes with. Default: as many as the model server chooses."""
    start_timeout: Duration = Field(default=60 * SECOND, ge=100 * MILLISECOND)
    """Longest time from start to ready, in which models are loaded and warmed up; then the server is ended and
    tried again. Building TensorRT engines may need minutes."""
    drain_timeout: Duration = 30 * SECOND
    """Longest time a server that is being stopped may take to finish its requests; then it is killed."""
    hang_timeout: Duration = 60 * SECOND
    """A model server that was ready and has not answered for so long that it serves hangs: it is killed and started
    again. It is asked every few seconds, by `grpc.health.v1`, beside the `health` of the pool. `0s`: never."""
    backoff: BackoffConfig = BackoffConfig()
    """Waiting time before a restart."""
    crash_loop: CrashLoopConfig = CrashLoopConfig()
    """When a server counts as broken."""
    args: list[_Text] = []
    """Further arguments of `python -m backend serve`."""
    env: dict[_Variable, _Text] = {}
    """Further environment variables of the model servers, such as `CUDA_VISIBLE_DEVICES: "0"`."""
