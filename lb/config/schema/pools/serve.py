"""Managed pools: the model servers that Tidegate starts itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from lb.config.schema.base import (
    AskedPath,
    Boolean,
    FilePath,
    Integer,
    Model,
    Name,
    Number,
    did_you_mean,
    nearest,
    only_one,
    problem,
    text,
)
from lb.config.schema.pools.health import HealthConfig, Status
from lb.config.units import DAY, HOUR, MILLISECOND, MINUTE, SECOND, Duration, FileContext

# execve(2) takes no NUL in an argument or in the environment.
_Text = Annotated[str, *text(r"[^\x00]*", "holds a NUL")]
_Variable = Annotated[str, *text(r"[A-Za-z_][A-Za-z0-9_]*", "is not the name of a variable")]

PLACEHOLDERS = ("address", "host", "port", "socket", "index", "pool", "cores", "batch", "instances")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)(?::([A-Za-z0-9_-]+))?\}", re.ASCII)


def fill(value: str, known: dict[str, str]) -> str:
    """`value` with its placeholders replaced; `known` has the values of PLACEHOLDERS, and of `port:NAME`. Braces around
    anything else stay as they are."""
    return _PLACEHOLDER.sub(lambda found: known.get(found[0][1:-1], found[0]), value)


def _checked_placeholders(value: str) -> str:
    for found in _PLACEHOLDER.finditer(value):
        word, name = found[1], found[2]
        if (word in PLACEHOLDERS and name is None) or word == "port":
            continue
        if name is None and nearest(word, PLACEHOLDERS) is not None:
            raise problem("placeholder", f"{found[0]} is no placeholder{did_you_mean(word, PLACEHOLDERS)}")
    return value


_Filled = Annotated[_Text, AfterValidator(_checked_placeholders)]


def _command(value: Any) -> Any:
    if isinstance(value, str):
        words = ", ".join(value.split())
        raise problem("command", f"must be a list of words, of which no shell takes notice; write [{words}]")
    return value


def _program(value: list[str], info: ValidationInfo) -> list[str]:
    """A program by a relative path starts from the folder of the file, as other paths do."""
    if not value[0]:
        raise problem("command", "its first word is the program, which is empty")
    if "/" in value[0] and isinstance(info.context, FileContext):
        return [str(info.context.base / value[0]), *value[1:]]
    return value


def _ports(value: Any) -> Any:
    """A port, or a range such as 9000-9099 with both ends."""
    low, dash, high = str(value).partition("-")
    numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in ((low, high) if dash else (low, low))]
    if isinstance(value, bool) or not 1 <= numbers[0] <= numbers[1] <= 65535:
        raise problem("port", f"{value!r} is neither a port nor a range such as 9000-9099")
    return value


_Ports = Annotated[
    int | str, BeforeValidator(_ports, json_schema_input_type=Annotated[int, Field(ge=1, le=65535)] | str)
]


class ReadyConfig(Model):
    """What a server is asked until it answers well; then it takes requests. One that was ready is asked from time to
    time, for `hang_timeout`."""

    type: Literal["tcp", "http", "grpc", "oip"]
    """`tcp`: a connection is taken. `http`: a request over HTTP/1.1 is answered with one of `status`. `grpc`: the
    standard health service (`grpc.health.v1`) answers SERVING. `oip`: the server says that it is ready over the Open
    Inference Protocol (ServerReady)."""
    path: AskedPath = "/"
    """Path that is asked for. `http` only."""
    status: list[Status] = Field(default=[200], min_length=1)
    """Status codes that count as good, and ranges of them such as `200-399`. `http` only."""
    service: str = Field(default="", max_length=255)
    """Service name that is asked about; empty asks about the server as a whole. `grpc` only."""
    port: Name | None = None
    """Which of the server's ports is asked: NAME of a `{port:NAME}` in `command` or `env`. Default: the one that takes
    the requests."""
    timeout: Duration = Field(default=2 * SECOND, ge=MILLISECOND)
    """Longest time for an answer."""

    @property
    def check(self) -> HealthConfig:
        """The health check that asks."""
        return HealthConfig(
            type=self.type, path=self.path, status=self.status, service=self.service, timeout=self.timeout
        )


def _ready(value: Any) -> Any:
    if isinstance(value, str):
        return {"type": "http", "path": value} if value.startswith("/") else {"type": value}
    return value


class VerticalConfig(Model):
    """The size of each server by what servers of the pool have used, as the Vertical Pod Autoscaler of Kubernetes has
    it: the 90th percentile of the cores in use and 15 % more, rounded up. A size stays while it is between bounds that
    come closer the longer the servers were seen. What is changed is `cores`, and without them `threads`. With
    `max_batch` and `max_instances` also the batch and the runs at once, by what servers say of their runs."""

    dry_run: Boolean = False
    """Only say in status what would be changed."""
    min_cores: Integer = Field(default=1, ge=1, le=1024)
    """Cores, or threads, that a server has at least."""
    max_cores: Integer | None = Field(default=None, ge=1, le=1024)
    """Most cores, or threads, of a server. Default: those that the daemon may use."""
    max_batch: Integer | None = Field(default=None, ge=1, le=1_000_000)
    """Most rows of a batch. `batch` doubles up to that while requests wait for longer than a run takes, runs are full,
    and each row gets cheaper by more of them. Default: `batch` stays as it is."""
    max_instances: Integer | None = Field(default=None, ge=1, le=1024)
    """Most runs at once. `instances` doubles up to that while requests wait for longer than a run takes, runs are under
    way all the time, and a fifth of the cores is idle; it halves where less than a fifth of the runs is under way.
    Default: `instances` stays as it is."""
    half_life: Duration = Field(default=DAY, ge=MINUTE)
    """Time in which what was seen loses half of its weight. Shorter follows changes sooner, and nights."""
    interval: Duration = Field(default=MINUTE, ge=100 * MILLISECOND, le=HOUR)
    """Time between two looks."""


def _gpus(value: float) -> float:
    if value > 1 and value != int(value):
        raise problem("gpus", f"{value} is neither a part of one GPU nor a whole number of them")
    return value


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


def _listen(command: list[str] | None, env: dict[str, str]) -> Literal["unix", "tcp"]:
    return "unix" if command is None or any("{socket}" in text for text in (*command, *env.values())) else "tcp"


class ServeConfig(Model):
    """Servers that Tidegate starts, restarts, drains and scales for a pool: its own model server for `models`, or any
    other with `command`."""

    models: FilePath | None = None
    """Folder of the models, laid out as `NAME/VERSION/model.onnx`. A relative path starts from the folder of this
    file. For pools of protocol `oip`."""
    command: (
        Annotated[list[_Filled], BeforeValidator(_command), Field(min_length=1), AfterValidator(_program)] | None
    ) = None
    """Command line of a server of another kind, instead of `models`: the program and its arguments, as a list. In
    arguments and in `env` are replaced: `{port}`, the port that Tidegate has chosen for the server's requests;
    `{host}`, which is 127.0.0.1; `{address}`, which is both; `{port:NAME}`, a further free port for each NAME;
    `{socket}`, the path of a Unix socket, on which requests come instead; `{index}`, the replica's number from 0;
    `{pool}`; `{cores}`, the number of CPU cores that the server may use; `{batch}` and `{instances}`, the numbers of
    these names in this section. A program without a slash is looked for in
    `PATH`; a relative path starts from the folder of this file. The server stays in the foreground, ends at SIGTERM,
    and is killed after `drain_timeout`."""
    ready: Annotated[ReadyConfig, BeforeValidator(_ready, json_schema_input_type=str | ReadyConfig)] | None = None
    """When a server takes requests: a mapping, the type alone (`ready: grpc`), or a path (`ready: /health` asks for it
    over HTTP). Default: `oip` in a pool of that protocol, else `tcp`. With `command` only."""
    port: _Ports | None = None
    """Port that a server's requests come on, or the range to choose it from, such as `9000-9099`. A reload starts the
    new servers beside the old ones, so a range needs room for both. Default: a free one below those that the system
    gives to connections. With `command` only."""
    env: dict[_Variable, _Filled] = {}
    """Further environment variables of the servers, such as `OMP_NUM_THREADS: "2"`. A server of `command` also has
    `PORT`, `TIDEGATE_ADDRESS` and `TIDEGATE_INDEX`."""
    min: Integer = Field(default=1, ge=0, le=1000)
    """Servers that always run. 0: all stop after `idle_timeout`, and the next request starts one and waits for it:
    [To zero](howto/run-model-servers.md#to-zero)."""
    max: Integer = Field(default_factory=lambda data: max(1, data.get("min", 1)), ge=1, le=1000)
    """Most servers that `scaling` may start, for which it is required; `min` and `max` alike hold their number.
    Default without `scaling`: the same as `min`, 1 where that is 0."""
    idle_timeout: Duration = Field(default=5 * MINUTE, ge=100 * MILLISECOND)
    """With `min: 0`, the time without a request after which all servers stop. A short one frees the machine sooner;
    each request that comes later than that waits for a start."""
    listen: Literal["unix", "tcp"] = Field(
        default_factory=lambda data: _listen(data.get("command"), data.get("env", {}))
    )
    """How the servers are reached: Unix sockets in the runtime folder, or free ports of 127.0.0.1. Default: `unix`;
    with a `command` that has no `{socket}` it is `tcp`."""
    gpus: Annotated[Number, Field(gt=0, le=64), AfterValidator(_gpus)] | None = None
    """GPUs of each server: a whole number, or a part of one (`0.5` lets two servers share a GPU), as Ray has it. The
    server sees them in `CUDA_VISIBLE_DEVICES`. No GPU is given away twice, over all pools of the daemon; a server for
    which there is none waits, and status says for what. Default: every server sees all."""
    standby: Integer = Field(default=0, ge=0, le=100)
    """Servers beyond those that are wanted which run, are ready, and take no requests. One of them is in the balance
    some milliseconds after more servers are wanted, or after one has failed, while a new server for its place loads its
    models. Each takes as much memory, and as many `gpus` and `cores`, as one that serves."""
    cores: Integer | None = Field(default=None, ge=1, le=1024)
    """CPU cores of each server, which it alone is given, over all pools of the daemon: the server's CPU affinity. A
    server for which there are none waits, and status says so. Workers, and servers of pools without `cores`, run on
    all cores of the daemon. Default: every server runs on all."""
    providers: list[Literal["tensorrt", "cuda", "cpu"]] = Field(default=["cpu"], min_length=1)
    """Execution providers of ONNX Runtime in order of preference; those that the machine lacks are passed over. With
    `models` only."""
    threads: Integer | None = Field(default=None, ge=1, le=1024)
    """Threads that one model server computes with. Default: `cores`, else as many as the model server chooses. With
    `models` only."""
    batch: Integer | None = Field(default=None, ge=1, le=1_000_000)
    """Rows up to which a server merges requests that wait: `--max-batch` of the model server, and `{batch}` in a
    `command`. A model whose configuration has a `max_batch_size` keeps that. Default: the model server's, which is
    32."""
    instances: Integer | None = Field(default=None, ge=1, le=1024)
    """Runs of models that a server has at once: `--concurrency` of the model server, and `{instances}` in a `command`.
    Default: as many as it computes with threads."""
    start_timeout: Duration = Field(default=60 * SECOND, ge=100 * MILLISECOND)
    """Longest time from start to ready, in which models are loaded and warmed up; then the server is ended and
    tried again. Building TensorRT engines may need minutes."""
    drain_timeout: Duration = 30 * SECOND
    """Longest time a server that is being stopped may take to finish its requests; then it is killed."""
    hang_timeout: Duration = 60 * SECOND
    """A server that was ready and has not answered for so long that it serves hangs: it is killed and started
    again. It is asked every few seconds what `ready` says (a server for `models`: `grpc.health.v1`), beside the
    `health` of the pool. `0s`: never."""
    backoff: BackoffConfig = BackoffConfig()
    """Waiting time before a restart."""
    crash_loop: CrashLoopConfig = CrashLoopConfig()
    """When a server counts as broken."""
    args: list[_Text] = []
    """Further arguments of `python -m backend serve`. With `models` only."""

    vertical: VerticalConfig | None = None
    """Cores or threads of each server by what was used, and batch and runs at once. Servers with another number take
    the place of those that run one at a time, so there is no need for room for two sets. Default: every server has what
    this section says."""

    @model_validator(mode="after")
    def _one(self) -> ServeConfig:
        only_one(self, ("models", "command"))
        return self

    @property
    def on_demand(self) -> bool:
        """Whether the pool may have no server, and gets one when a request comes."""
        return self.min == 0

    @property
    def port_names(self) -> tuple[str, ...]:
        """NAME of every `{port:NAME}`."""
        found = (match for value in self._texts() for match in _PLACEHOLDER.finditer(value))
        return tuple(dict.fromkeys(match[2] for match in found if match[1] == "port" and match[2] is not None))

    def has_placeholder(self, word: str) -> bool:
        """Whether the command or the environment have `{word}`."""
        return any(f"{{{word}}}" in value for value in self._texts())

    def _texts(self) -> Iterator[str]:
        yield from self.command or ()
        yield from self.env.values()
