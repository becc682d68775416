"""How a server of a managed pool is started: its command line, its environment, and where it will listen."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from lb.config.address import UNIX_PATH_MAX
from lb.config.schema.file import ServeConfig
from lb.config.schema.pools.serve import fill
from lb.config.units import MILLISECOND
from lb.control.servers.placement import NOWHERE, Place
from lb.control.servers.ports import Ports, port_range
from lb.control.servers.watcher import Specification
from lb.control.workers.launch import OF_THE_MASTER, child_environment
from lb.errors import StartError

# What `python -m backend serve` prints on standard output: for each address it listens on, and when models are loaded.
LISTENING = "listening on "
READY = "ready"
BACKEND = (sys.executable, "-P", "-m", "backend")
WARM = "backend.warm"  # has what the model server loads before its models
HOST = "127.0.0.1"  # of servers that are told a port

Command = Callable[[ServeConfig, str], Sequence[str]]


class Start(Struct, frozen=True):
    """One start of a server. `address` is None where the server chooses its port, and says which. `ports` are its own
    until it has ended: by name, "" for that of the requests."""

    specification: Specification
    address: str | None
    ports: dict[str, int] = {}


def serve_command(serve: ServeConfig, listen: str) -> list[str]:
    """The command line of the model server in `backend`, listening on `listen`, which ends with its parent."""
    command = [*BACKEND, "serve", "--die-with-parent"]
    command += ["--models", str(serve.models), "--listen", listen]
    command += ["--providers", ",".join(serve.providers), "--grace", f"{serve.drain_timeout // MILLISECOND}ms"]
    threads = serve.threads or serve.cores
    if threads is not None:
        command += ["--threads", str(threads)]
    if serve.batch is not None:
        command += ["--max-batch", str(serve.batch)]
    if serve.instances is not None:
        command += ["--concurrency", str(serve.instances)]
    return [*command, *serve.args]


def prepare(
    serve: ServeConfig,
    pool: str,
    index: int,
    runtime_dir: Path,
    ports: Ports,
    place: Place = NOWHERE,
    command: Command = serve_command,
) -> Start:
    """A start of replica `index` of `pool`, at an address that no server has now; `command` makes the command line of
    the model server. Raises StartError when a socket's path would be too long, or no port is free."""
    placed = {"CUDA_VISIBLE_DEVICES": ",".join(place.gpus)} if place.gpus else {}
    if serve.command is None:
        listen = f"{HOST}:0" if serve.listen == "tcp" else new_socket(pool, index, runtime_dir)
        environment = {**child_environment(), **serve.env, **placed}
        words = list(command(serve, listen))
        # Some variables count only while a program is loaded.
        warm = words[len(BACKEND) :] if tuple(words[: len(BACKEND)]) == BACKEND and not serve.env else []
        specification = Specification(words, environment, list(place.cores), warm)
        return Start(specification, None if serve.listen == "tcp" else listen)
    cores = len(place.cores or os.sched_getaffinity(0))
    known = {"index": str(index), "pool": pool, "host": HOST, "cores": str(cores)}
    known |= {name: str(n) for name, n in (("batch", serve.batch), ("instances", serve.instances)) if n is not None}
    taken: dict[str, int] = {}
    try:
        if serve.listen == "unix":
            address = new_socket(pool, index, runtime_dir)
            known["socket"] = address.removeprefix("unix:")
        else:
            taken[""] = ports.take(port_range(serve.port))
            address = f"{HOST}:{taken['']}"
            known["port"] = str(taken[""])
        known["address"] = address
        for name in serve.port_names:
            taken[name] = ports.take()
            known[f"port:{name}"] = str(taken[name])
    except StartError:
        give_back(ports, taken)
        raise
    own = {"TIDEGATE_ADDRESS": address, "TIDEGATE_INDEX": str(index)}
    if "port" in known:
        own["PORT"] = known["port"]
    inherited = {name: value for name, value in os.environ.items() if name not in OF_THE_MASTER}
    said = {name: fill(value, known) for name, value in serve.env.items()}
    words = [fill(word, known) for word in serve.command]
    return Start(Specification(words, {**inherited, **own, **said, **placed}, list(place.cores), []), address, taken)


def same_process(a: ServeConfig, b: ServeConfig) -> bool:
    """Whether both say the same of each process: all but how many there are, and when there are none."""
    numbers = {"min": 0, "max": 0, "idle_timeout": 0, "standby": 0, "vertical": None}
    return a is b or a.model_copy(update=numbers) == b.model_copy(update=numbers)


def give_back(ports: Ports, taken: dict[str, int]) -> None:
    """The ports of a server that has ended."""
    for port in taken.values():
        ports.give_back(port)


def new_socket(pool: str, index: int, runtime_dir: Path) -> str:
    """The address of a Unix socket that no start of any server has had before.

    State is keyed by address (health, in-flight counts, connections and their back-off in every worker), and exchanges
    of the process before may still be under way, so a restarted one must not inherit its name. The price is that keyed
    policies see a new endpoint: its share of the keys moves, as it does to a new pod in Kubernetes; the caches that
    affinity is for died with the process anyway. Raises StartError when a socket's path would be too long.
    """
    path = runtime_dir / f"{quote(pool, safe='')}-{index}-{secrets.token_hex(4)}.sock"
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise StartError(f"{path} is longer than the {UNIX_PATH_MAX} bytes a socket's path may have")
    return f"unix:{path}"
