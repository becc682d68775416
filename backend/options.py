"""The command line of the model server, parsed to one typed value."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

PROVIDERS = ("tensorrt", "cuda", "cpu")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m)")
_UNITS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(B|KiB|MiB|GiB|TiB)")
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_CACHE_SIZE = "10GiB"
_OFF = "off"
_POLL_SECS = 15  # as Triton
_MAX_SEQUENCES = 4096
_UNIX_PATH_LIMIT = 107  # bytes of sockaddr_un.sun_path without its terminator


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A Unix socket (`path`), or else a TCP `host` and `port` (0: the system chooses)."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    @property
    def is_local(self) -> bool:
        """Whether it is reached from this machine alone."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Durations are nanoseconds."""

    models: Path
    listen: tuple[ListenAddress, ...]
    providers: tuple[str, ...]
    provider_options: Mapping[str, Mapping[str, str]]  # by provider
    threads: int
    concurrency: int
    max_batch: int
    max_queue: int
    max_queue_delay: int
    max_sequences: int
    model_control_mode: str
    load_model: tuple[str, ...]
    repository_poll_secs: int
    model_cache: Path | None
    model_cache_size: int  # bytes
    trace_endpoint: str
    trace_protocol: str
    model_memory_limit: int | None  # bytes
    grace: int
    die_with_parent: int | None  # process id of the parent; 0 = whoever it is
    log_level: str


def address(text: str) -> ListenAddress:
    """`unix:/path` or `host:port`; an IPv6 host in brackets."""
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise argparse.ArgumentTypeError(f"'{text}': expected unix:/absolute/path")
        if len(os.fsencode(path)) > _UNIX_PATH_LIMIT:
            raise argparse.ArgumentTypeError(f"'{text}': the path is longer than {_UNIX_PATH_LIMIT} bytes")
        return ListenAddress(path=path)
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}': expected unix:/path, host:port or [ipv6]:port")
    return ListenAddress(host=match[1] or match[2], port=int(match[3]))


def duration(text: str) -> int:
    """`250us`, `2ms`, `1.5s`, `5m` or `0`, as nanoseconds."""
    if text == "0":
        return 0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}': expected a duration like 500us, 2ms or 30s")
    return round(float(match[1]) * _UNITS[match[2]])


def size(text: str) -> int:
    """`64MiB`, `1.5GiB`, in bytes."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}': expected a size like 512MiB or 10GiB")
    return round(float(match[1]) * _SIZES[match[2]])


def model_cache(text: str) -> Path | None:
    """A folder; None for `off`."""
    if text == _OFF:
        return None
    if not Path(text).is_absolute():
        raise argparse.ArgumentTypeError(f"'{text}': expected off or an absolute path")
    return Path(text)


def default_model_cache() -> Path | None:
    """The folder for caches that the service manager gives (systemd: CacheDirectory), else the user's."""
    given = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given) / "models"
    user = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and os.path.join(os.environ["HOME"], ".cache"))
    return Path(user) / "tidegate" / "models" if user and os.path.isabs(user) else None


def providers(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in PROVIDERS]
    if unknown or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(
            f"'{text}': expected some of {','.join(PROVIDERS)} in order of preference, each once"
        )
    return names


def provider_option(text: str) -> tuple[str, str, str]:
    """`cuda.gpu_mem_limit=2147483648`: provider, name, value."""
    match = re.fullmatch(r"(cuda|tensorrt)\.(\w+)=(.*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}': expected cuda.NAME=VALUE or tensorrt.NAME=VALUE")
    return match[1], match[2], match[3]


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number from 1")
    return int(text)


def parse(arguments: Sequence[str] | None = None) -> ServeOptions:
    """Exits with status 2 and a usage line on a wrong command line, as argparse does."""
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m backend", description="The ONNX model server of Tidegate.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cache", help="list, inspect, verify and purge the model cache", add_help=False)
    serve = commands.add_parser("serve", help="serve a directory of models over gRPC")
    add = serve.add_argument
    add("--models", type=Path, required=True, metavar="DIR", help="model repository: DIR/NAME/VERSION/model.onnx")
    add(
        "--listen",
        type=address,
        required=True,
        action="append",
        metavar="ADDR",
        help="unix:/path or host:port (port 0: any free one); may be given more than once",
    )
    add(
        "--providers",
        type=providers,
        default=("cpu",),
        metavar="LIST",
        help="execution providers in order of preference, from tensorrt,cuda,cpu (default: cpu); "
        "without cpu in the list, a server that cannot have the others does not start",
    )
    add(
        "--provider-option",
        type=provider_option,
        action="append",
        default=[],
        metavar="PROVIDER.NAME=VALUE",
        help="an option of a provider by ONNX Runtime's name, such as cuda.gpu_mem_limit=2147483648; "
        "may be given more than once",
    )
    add("--threads", type=positive, default=cpus, metavar="N", help=f"threads of one run of a model (default: {cpus})")
    add("--concurrency", type=positive, metavar="N", help="runs at once, over all models (default: as --threads)")
    add(
        "--max-batch",
        type=positive,
        default=32,
        metavar="ROWS",
        help="rows up to which waiting requests are merged, for models seen to allow it (default: 32; 1: never)",
    )
    add(
        "--max-queue",
        type=positive,
        default=1000,
        metavar="N",
        help="requests of one model that may wait; more are refused as UNAVAILABLE (default: 1000)",
    )
    add(
        "--max-queue-delay",
        type=duration,
        default=0,
        metavar="TIME",
        help="how long a request may wait for others to fill its batch (default: 0, it takes only what waits already)",
    )
    add(
        "--max-sequences",
        type=positive,
        default=_MAX_SEQUENCES,
        metavar="N",
        help="sequences of one model that may be open, each with its state; more are refused as UNAVAILABLE "
        f"(default: {_MAX_SEQUENCES})",
    )
    add(
        "--model-control-mode",
        choices=("none", "poll", "explicit"),
        default="none",
        help="none: the models of the start are served (default); poll: changes of the repository are followed; "
        "explicit: models are loaded and unloaded by calls, and --load-model says which at the start",
    )
    add(
        "--load-model",
        action="append",
        default=[],
        metavar="NAME",
        help="in mode explicit: a model to load at the start, * for all; may be given more than once",
    )
    add(
        "--repository-poll-secs",
        type=positive,
        metavar="N",
        help=f"in mode poll: seconds between two looks at the repository (default: {_POLL_SECS})",
    )
    add(
        "--model-cache",
        type=model_cache,
        default=default_model_cache(),
        metavar="DIR",
        help="folder of the model cache, shared by the servers of a machine, or off "
        "(default: models in $CACHE_DIRECTORY, or tidegate/models in the user's cache folder)",
    )
    add(
        "--model-cache-size",
        type=size,
        default=size(_CACHE_SIZE),
        metavar="SIZE",
        help=f"bytes that the model cache may take; what was used longest ago goes (default: {_CACHE_SIZE})",
    )
    add(
        "--trace-endpoint",
        default="",
        metavar="URL",
        help="OpenTelemetry collector that gets spans of inferences whose traceparent is sampled, and of others as the "
        "trace settings say, such as http://127.0.0.1:4317 (default: none is made)",
    )
    add(
        "--trace-protocol",
        choices=("grpc", "http"),
        default="grpc",
        help="how spans are sent: OTLP over gRPC (default), or over HTTP, to a URL like http://127.0.0.1:4318/v1/traces",
    )
    add(
        "--model-memory-limit",
        type=size,
        metavar="SIZE",
        help="bytes that the models in memory may take together; idle ones that were used longest ago leave it, and "
        "their next request loads them again (default: no limit)",
    )
    add(
        "--grace",
        type=duration,
        default=duration("30s"),
        metavar="TIME",
        help="on SIGTERM, how long requests in flight may take to finish (default: 30s)",
    )
    add(
        "--die-with-parent",
        type=positive,
        nargs="?",
        const=0,
        metavar="PID",
        help="stop as on SIGTERM when the parent process dies; with its process id, also if it has died already. "
        "SIGHUP, SIGUSR1 and SIGUSR2 are the parent's, and ignored",
    )
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    values = vars(parser.parse_args(arguments))
    del values["command"]
    if values["load_model"] and values["model_control_mode"] != "explicit":
        serve.error("--load-model needs --model-control-mode explicit: the other modes load all models")
    if values["repository_poll_secs"] and values["model_control_mode"] != "poll":
        serve.error("--repository-poll-secs needs --model-control-mode poll")
    options: dict[str, dict[str, str]] = {}
    for provider, name, value in values.pop("provider_option"):
        options.setdefault(provider, {})[name] = value
    values["provider_options"] = options
    values["load_model"] = tuple(values["load_model"])
    values["repository_poll_secs"] = values["repository_poll_secs"] or _POLL_SECS
    values["listen"] = tuple(values["listen"])
    values["concurrency"] = values["concurrency"] or values["threads"]
    return ServeOptions(**values)
