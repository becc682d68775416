"""A proxy under test, as the bench sees it: what it is asked to do, how it is configured, started, reloaded, named."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bench.processes import Process

# What a proxy does with what arrives: pass on HTTP/1.1 requests, HTTP/2 requests, gRPC calls, bytes or datagrams; turn
# inference requests of HTTP/1.1 into what the model server speaks; answer repeated inference requests from its cache;
# answer repeated GETs from its HTTP cache, for an hour, although the server says nothing of freshness.
Job = Literal["http", "http2", "grpc", "tcp", "udp", "oip", "cache", "http_cache"]
# What the server behind the proxy speaks; http2 and grpc by prior knowledge, in clear.
Upstream = Literal["http", "http2", "grpc", "tcp", "udp"]


@dataclass(frozen=True)
class Serve:
    """Model servers that the proxy starts and scales itself: `model` is one of `bench.models`, `target` the requests
    in flight on each that scaling aims at.
    """

    model: str
    min: int
    max: int
    target: float


# The header that says which of a task's classes a request is of.
CLASS_HEADER = "x-class"


@dataclass(frozen=True)
class Class:
    """Requests with `name` in CLASS_HEADER: an answer is of use within `deadline` seconds, high priority goes first."""

    name: str
    deadline: float
    priority: Literal["high", "normal", "low"]


@dataclass(frozen=True)
class Task:
    """What a scenario asks of every proxy.

    `tls`: clients come by TLS (1.2 or 1.3, HTTP/2 by ALPN where the job is http2 or grpc), servers stay in clear.
    `routes`: so many rules, each for the paths below `route_prefix(i)`, all to the same servers; 1 = one for all paths.
    `balance`: how the endpoints of a request are chosen, by the proxy's own policy of that kind.
    `policy`: Tidegate's, where it has one of its own for the purpose; "" = as `balance` says.
    `cost`: what Tidegate weighs requests by; "" = each counts one.
    `serial`: proxies with a queue that waits patiently (HAProxy) give an endpoint one request at a time.
    `endpoint_limit`: at most so many requests at once on an endpoint, further ones wait in the proxy up to
    `queue_timeout` seconds and are then refused; 0 = no limit. `deadline`: seconds after which an answer is of no use,
    for whoever can do something with that; 0 = none.
    `classes`: requests of different deadlines and priorities, for whoever can tell them apart in its queue.
    `hedge`: when a request goes to a second endpoint as well, where the proxy can do that so that the first answer is
    taken; "" = never.
    `checks`: active health checks every second, two failures in a row take an endpoint out.
    `failover`: a request that an endpoint fails, by an error, 429 or a reset, goes to another one, POST too, and an
    endpoint that fails several is left out for some seconds. Tidegate does what it does by its defaults.
    `serve`: the proxy runs the model servers itself; no peer does.
    `untuned`: every program has its documented defaults. Its file names the servers and the deadline, by the time limit
    that the program has for a route or a server, and what this machine makes necessary: one thread, ports, connections.
    `endpoints`: so many of the servers, the first ones, are in the files at first; 0 = all.
    `access`: requests prove who they are from (bench/peers/access.py), by a key or by a signed token; "" = nobody asks.
    `jobs`: requests that ask for it become jobs, in a file beside the configuration.
    `compress`: answers of JSON are compressed with gzip, at the proxy's default level, for clients that accept it.
    `proxies`: so many of the program run side by side before the same servers, each with its share of the load.
    `workers`: worker processes, or threads where a program has these. More than one may run on every CPU of the bench,
    beside the load.
    """

    job: Job
    tls: bool = False
    routes: int = 1
    balance: Literal["round_robin", "least_request"] = "round_robin"
    policy: str = ""
    cost: str = ""
    serial: bool = False
    endpoint_limit: int = 0
    queue_timeout: float = 0.5
    deadline: float = 0.0
    classes: tuple[Class, ...] = ()
    hedge: str = ""
    checks: bool = False
    failover: bool = False
    serve: Serve | None = None
    untuned: bool = False
    endpoints: int = 0
    access: Literal["", "api_key", "jwt"] = ""
    jobs: bool = False
    compress: bool = False
    proxies: int = 1
    workers: int = 1


@dataclass(frozen=True)
class Certificate:
    """Files in PEM: the chain, its key, both in one (as HAProxy wants them), and the authority that clients trust."""

    chain: Path
    key: Path
    both: Path
    authority: Path


@dataclass(frozen=True)
class Setup:
    """A task in one place: the proxy's port, the servers' ports, all on 127.0.0.1, and a directory of its own.

    `certificate` is there if the task wants TLS; its subject is `localhost`. `models` is the repository of the model
    servers that the proxy runs itself.
    """

    task: Task
    port: int
    server_ports: tuple[int, ...]
    admin_port: int
    directory: Path
    max_connections: int = 8_000
    certificate: Certificate | None = None
    models: Path | None = None


class Proxy(Protocol):
    """A program that can stand between the load and the servers."""

    name: str
    install: str  # the command that installs it, for messages

    def version(self) -> str | None:
        """Its version, or None if it is not installed."""

    def upstream(self, task: Task) -> Upstream:
        """What it speaks to the server for this task."""

    def files(self, setup: Setup) -> dict[str, str]:
        """Its configuration: text by file name, the main one first; all belong into `setup.directory`.

        Raises Cannot where it has no way to do the task.
        """

    def command(self, setup: Setup) -> list[str]:
        """The command that runs it in the foreground on its written files."""

    def check_command(self, setup: Setup) -> list[str]:
        """The command that checks its written files and exits with 0 if they are valid."""

    def reload(self, setup: Setup, process: Process) -> None:
        """Puts newly written files into effect in the running process, as its manual says. Raises BenchError."""


def route_prefix(number: int) -> str:
    """The paths of a task's rule: `/route-0000/`, `/route-0001/`, …"""
    return f"/route-{number:04d}/"


def write_files(proxy: Proxy, setup: Setup) -> str:
    """Writes its configuration, each file by rename so that a reader sees it whole; returns all of it as one text."""
    files = proxy.files(setup)
    for name, text in files.items():
        target = setup.directory / name
        partial = target.with_name(f".{name}.new")
        partial.write_text(text)
        partial.rename(target)
    return show_files(files)


def show_files(files: dict[str, str]) -> str:
    """A configuration for reading; with several files each has its name above it."""
    if len(files) == 1:
        return next(iter(files.values()))
    return "\n".join(f"# ---- {name}\n{text}" for name, text in files.items())


def version_of(command: list[str], pattern: str) -> str | None:
    """The first group of `pattern` in what the command prints; None if it cannot be run or says something else."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else None
