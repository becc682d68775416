"""What a start would find out beside the configuration file: looked at by `tidegate check`.

Errors are what keeps a pool or the daemon from working; warnings are what may be right on another machine, or at
another time, as an address that a running daemon has.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lb.config.address import Bind, HostPort, UnixPath, parse_socket, socket_name
from lb.config.document import MAX_BYTES, MalformedError, parse
from lb.config.endpoint_file import parse_endpoints
from lb.config.environment import hidden
from lb.config.regular_file import read_regular
from lb.config.schema.admin import AdminConfig
from lb.config.schema.file import Config, PoolConfig
from lb.config.schema.listeners.bind import MOST
from lb.control.certificates import CertificateFacts
from lb.control.datagrams import set_options
from lb.control.servers.model_file import model_problem
from lb.control.servers.placement import Placement
from lb.control.servers.ports import port_range
from lb.control.sources import check_sources
from lb.errors import ConfigError
from lb.proxy.routing.checks import rewrites_in_vain

Found = tuple[str, str]
IsOwn = Callable[[AdminConfig, str, Bind, bool], bool]

# What the extras bring: modules that the model server imports, and the packages that have them.
MODEL_SERVER = {
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
    "grpc_reflection": "grpcio-reflection",
}
_VERSION = re.compile(r"[1-9][0-9]*", re.ASCII)
MODEL_FILE = "model.onnx"
# Of a model, for its server alone to read: it may give the model's file another name (backend.repository).
_CONFIGURATIONS = ("config.pbtxt", "config.yaml", "config.yml")


class Preflight:
    """`check` is a hook for lb.config.load; `warnings` are there after it."""

    def __init__(self, is_own: IsOwn | None = None) -> None:
        """`is_own` says of an address that could not be listened on whether the daemon that runs the file has it."""
        self.warnings: list[Found] = []
        self._is_own = is_own

    def check(self, config: Config) -> list[Found]:
        """Errors as (path, message). Blocks on the file system."""
        errors: list[Found] = []
        for place, message, others in _model_servers(config):
            (self.warnings if others else errors).append((place, message))
        for name, pool in config.pools.items():
            if pool.discover is not None and pool.discover.file is not None:
                found = list(_endpoint_file(name, pool, pool.discover.file.path))
                required = pool.discover.initial == "required"
                (errors if required else self.warnings).extend(found)
        self.warnings += _places(config)
        self.warnings += _ports(config)
        self.warnings += rewrites_in_vain(config)
        self.warnings += check_sources(config)  # the daemon may be allowed what this user is not
        binds = [("admin.bind", config.admin.bind, False)]
        binds += [
            (f"listeners.{name}.bind", bind, x.protocol == "udp")
            for name, x in config.listeners.items()
            if len(x.binds) <= MOST  # more are an error already
            for bind in x.binds
        ]
        for path, text, datagrams in binds:
            bind = parse_socket(text)
            address = bind.address
            if isinstance(address, UnixPath):
                if not address.abstract:
                    errors += _unix_socket(path, Path(address.path))
                found = list(_unix_in_use(path, address.name))
            else:
                found = list(_address(path, bind, address, datagrams))
            if found and not (self._is_own is not None and self._is_own(config.admin, text, bind, datagrams)):
                self.warnings += found
        return errors


def check_model_servers(config: Config) -> list[Found]:
    """Why model servers of `config` could not start: a check for lb.config.load, of reloads too."""
    return [(place, message) for place, message, others in _model_servers(config) if not others]


def _model_servers(config: Config) -> Iterator[tuple[str, str, bool]]:
    """What is wrong with models and servers, and whether the server starts with its other models."""
    for name, pool in config.pools.items():
        if pool.serve is not None and pool.serve.models is not None:
            yield from _model_server(f"pools.{name}.serve", pool.serve.models)
        if pool.serve is not None and pool.serve.command is not None:
            path = pool.serve.env.get("PATH")
            yield from _program(f"pools.{name}.serve.command", pool.serve.command[0], path)


def _places(config: Config) -> Iterator[Found]:
    """GPUs and cores that servers would wait for."""
    machine = Placement()
    pools = {name: pool.serve for name, pool in config.pools.items() if pool.serve is not None}
    for kind, what in (("gpus", machine.gpus), ("cores", machine.cores)):
        needs = {name: (serve.min + serve.standby) * (getattr(serve, kind) or 0) for name, serve in pools.items()}
        wanted = sum(needs.values())
        if wanted > len(what):
            name = max(needs, key=lambda name: needs[name])
            there = f"{wanted:g} {kind} are wanted by the servers of all pools together, and there are {len(what)}"
            yield f"pools.{name}.serve.{kind}", f"{there}: some servers will wait"


def _ports(config: Config) -> Iterator[Found]:
    """Ranges of ports that are too small: for all servers of a pool, or for the new ones of a reload beside the old."""
    for name, pool in config.pools.items():
        serve = pool.serve
        numbers = port_range(serve.port) if serve is not None else None
        if serve is None or numbers is None:
            continue
        there, most = numbers[1] - numbers[0] + 1, serve.max + serve.standby
        one_by_one = serve.gpus is not None or serve.cores is not None
        beside = most + 1 if one_by_one else 2 * most
        ports = f"{there} port{'' if there == 1 else 's'}"
        if there < most:
            yield f"pools.{name}.serve.port", f"has {ports} for {most} servers: those beyond will not start"
        elif there < beside:
            text = f"has {ports}; a reload that changes the servers takes {beside}, as new ones start beside the old"
            yield f"pools.{name}.serve.port", f"{text}: it would wait for free ports"


def _program(place: str, program: str, path: str | None) -> Iterator[tuple[str, str, bool]]:
    if shutil.which(program, path=path) is None:
        where = "" if "/" in program else " in PATH"
        yield place, f"{program}: there is no such program{where} that this user may run", False


def certificate_warnings(facts: Sequence[CertificateFacts], now: float) -> Iterator[Found]:
    """Of certificates that are not valid at the Unix time `now`, or not for long."""
    words = {"expired": "has expired", "future": "is not valid yet"}
    for fact in facts:
        state = fact.state(now)
        if state == "expiring":
            day = time.strftime("%Y-%m-%d", time.gmtime(fact.not_after))
            yield f"{fact.owner}.tls", f"the certificate {fact.file} expires on {day}"
        elif state in words:
            yield f"{fact.owner}.tls", f"the certificate {fact.file} {words[state]}"
        if fact.staple_state(now) == "expired":
            yield f"{fact.owner}.tls", f"the OCSP response for {fact.file} is too old and is not given to clients"


def lined(path: Path, found: Sequence[Found]) -> list[str]:
    """Warnings as lines `FILE:LINE: path: warning: message`."""
    try:
        document = parse(read_regular(path), hidden)
    except (OSError, MalformedError):
        return [f"{path}: {place}: warning: {message}" for place, message in found]
    return [f"{path}:{document.line(place)}: {place}: warning: {message}" for place, message in found]


def _model_server(path: str, folder: Path) -> Iterator[tuple[str, str, bool]]:
    missing = [package for module, package in MODEL_SERVER.items() if importlib.util.find_spec(module) is None]
    if missing:
        extra = "pip install 'tidegate[cpu]', or 'tidegate[gpu]' for NVIDIA's GPUs"
        yield path, f"the model server cannot start without {' and '.join(missing)}: {extra}", False
    try:
        models = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        found = {model: list(_model(model)) for model in models}
    except (FileNotFoundError, NotADirectoryError):
        return  # the loader says so
    except OSError as error:
        yield f"{path}.models", f"{error.filename or folder}: {error.strerror}", False
        return
    if not models:
        yield f"{path}.models", f"{folder}: has no model; put one at {folder / 'NAME' / '1' / MODEL_FILE}", False
    others = any(not problem for problems in found.values() for problem in problems)
    for problems in found.values():
        yield from ((f"{path}.models", problem, others) for problem in problems if problem)


def _model(model: Path) -> Iterator[str]:
    """What is wrong with each version, "" for a good one."""
    try:
        versions = [entry for entry in model.iterdir() if _VERSION.fullmatch(entry.name)]
        files = [entry / MODEL_FILE for entry in versions if (entry / MODEL_FILE).is_file()]
    except OSError as error:
        yield f"{model}: {error.strerror}"
        return
    if not files and versions and any((model / name).is_file() for name in _CONFIGURATIONS):
        yield ""
    elif not files:
        yield f"{model}: has no version; put one at {model / '1' / MODEL_FILE}"
    for file in files:
        if not os.access(file, os.R_OK):
            yield f"{file}: may not be read"
        else:
            problem = model_problem(file)
            yield f"{file}: {problem}" if problem else ""


def _endpoint_file(name: str, pool: PoolConfig, file: Path) -> Iterator[Found]:
    place = f"pools.{name}.discover.file.path"
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        parse_endpoints(raw, file, name, pool)
    except OSError as error:
        yield place, f"{file}: cannot be read: {error.strerror}"
    except ConfigError as error:
        for line in error.problems:
            yield place, line


def _unix_socket(place: str, path: Path) -> Iterator[Found]:
    folder = path.parent
    if not folder.is_dir():
        yield place, f"{folder}: there is no such folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield place, f"{folder}: may not be written"
    elif path.exists() and not stat.S_ISSOCK(os.lstat(path).st_mode):
        yield place, f"{path}: exists and is not a socket"


def _unix_in_use(place: str, path: str) -> Iterator[Found]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        if probe.connect_ex(path) in (0, errno.EAGAIN):
            shown = path.replace("\0", "@")
            yield place, f"somebody listens on unix:{shown} now (ss -lxp shows who); a start fails while that runs"


def _address(place: str, bind: Bind, address: HostPort, datagrams: bool) -> Iterator[Found]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM) as probe:
            if not datagrams:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            set_options(probe, bind)
            probe.bind(socket_name(address))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield place, f"somebody has {address} now (ss -lntup shows who); a start fails while that runs"
        elif error.errno == errno.EADDRNOTAVAIL:
            yield place, f"no interface of this machine has {address.host}"
        elif error.errno == errno.EACCES:
            yield place, f"this user may not listen on {address}; a port below 1024 needs CAP_NET_BIND_SERVICE"
        elif error.errno in (errno.ENODEV, None):
            yield place, f"there is no such interface: {bind}"
        elif error.errno == errno.EPERM:
            yield place, "this user may not have such a socket; transparent needs CAP_NET_ADMIN"
        else:
            yield place, f"cannot be listened on here: {error.strerror}"
