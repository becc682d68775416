"""What one program leaves to the next one in the same process (execve(2)): descriptors that stay open, and what they
are.

A memfd has it as msgpack; an environment variable has the memfd's number. Fields that a program does not know are
passed over, those that it misses have their defaults, so that programs of different versions understand each other. A
program that cannot begin goes back to the one before by the same way, with copies of all descriptors.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, MutableMapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

import lb
from lb.control import signals
from lb.control.systemd import Passed, Stored
from lb.errors import StartError

log = logging.getLogger("tidegate.upgrade")

VARIABLE = "TIDEGATE_HANDOVER"
SEARCH_PATH = "TIDEGATE_PYTHONPATH"  # PYTHONPATH of the operator, for a program that begins with its own
FORMAT = 1  # another one for what a program before would misunderstand
_FIRST_FREE = 3
# As it was at the start: a link on the way may lead elsewhere by the time of an upgrade. Not through the interpreter's
# own link, which points out of a virtual environment.
_INTERPRETER = os.path.join(os.path.realpath(sys.prefix), os.path.relpath(sys.executable, sys.prefix))


class Program(Struct, frozen=True):
    """A program that runs, or ran. By `command` and `arguments` the one is started that is installed now in its place.
    `exact` starts this one, with its package in `path`, whatever symbolic links lead to by then."""

    command: tuple[str, ...]
    arguments: tuple[str, ...]
    exact: tuple[str, ...]
    version: str
    path: str


class Origin(Struct, frozen=True):
    """What every program understands of every handover: a format changes anything but these fields."""

    before: Program
    format: int
    failed: str = ""


class OldWorker(Struct, frozen=True):
    """A worker of the program before, which goes on until it is let go. One that `hears` understands the frames "leave"
    and "health" (lb.control.workers.worker); others are let go when the channel closes."""

    pid: int
    pidfd: int
    channel: int
    hears: bool = False


class ServerHandover(Struct, frozen=True):
    """A model server that goes on: its watcher's socket, the pipe of its output, and what its replica knows of it.
    Times are monotonic ns; `serve` is the section of the configuration as JSON."""

    pool: str
    index: int
    address: str
    pid: int
    socket: int
    output: int
    started_at: int
    ready_at: int
    restarts: int
    serve: str
    ports: dict[str, int] = {}
    gpus: tuple[str, ...] = ()
    share: float = 1.0  # of each of them
    cores: tuple[int, ...] = ()


class Operated(Struct, frozen=True):
    """What an operator has said of an endpoint: enum tg_admin, and a weight, None for that of the configuration."""

    pool: str
    address: str
    admin: int
    weight: int | None = None


class OperatedLimit(Struct, frozen=True):
    """An operator's limit of an endpoint, and the configuration's when it was set; 0: none."""

    pool: str
    address: str
    most: int
    file: int


class SharedTableHandover(Struct, frozen=True):
    """What a program knows of a table that daemons share by a stream of Redis: as which sender it writes there, how far
    it has read, the last number of each sender, the message that may not have arrived (rows as of
    lb.shared.stick_updates), and what its peers know of each entry."""

    table: str
    stream: str
    sender: bytes
    position: bytes
    numbers: dict[bytes, int]
    pending: tuple[int, list[tuple[int, int, int, bytes, list[int], list[int], int | None]]] | None
    known: bytes


class Said(Struct, frozen=True):
    """Who has set something of an endpoint (admin, weight or max_in_flight), and when: Unix seconds."""

    pool: str
    address: str
    what: str
    at: float
    by: str


class ChangedSetting(Struct, frozen=True):
    """A setting whose value is not the file's. Values are spelled as in the file."""

    name: str
    value: bool | int | float | str | None
    file: bool | int | float | str | None
    at: float
    by: str


class Handover(Struct, frozen=True):
    """Descriptors are numbers in the process. `failed` says why the next program went back to this one."""

    before: Program
    number: int  # of upgrades of this process
    format: int = FORMAT
    inherited: tuple[int, ...] = ()  # listening sockets of the service manager
    stored: tuple[tuple[str, int], ...] = ()  # by name, as in the descriptor store
    workers: tuple[OldWorker, ...] = ()
    servers: tuple[ServerHandover, ...] = ()
    wanted: dict[str, int] = {}  # replicas by pool
    operated: tuple[Operated, ...] = ()
    limits: tuple[OperatedLimit, ...] = ()
    said: tuple[Said, ...] = ()
    settings: tuple[ChangedSetting, ...] = ()
    children: tuple[int, ...] = ()  # processes that are ours to wait for, besides
    runtime: str = ""  # the private folder for sockets
    runtime_lock: int = -1
    text: bytes = b""  # of the configuration file as it was loaded last, for the way back
    shared_tables: tuple[SharedTableHandover, ...] = ()
    canaries: bytes = b""  # how far they have come, and their history, as JSON
    message: int = 0  # number of the last message to daemons that share tables
    segment: int = -1  # a copy of the shared segment, where there are quotas: the workers before count on in it
    failed: str = ""

    def descriptors(self) -> list[int]:
        found = [*self.inherited, *(fd for _, fd in self.stored)]
        for worker in self.workers:
            found += [worker.pidfd, worker.channel]
        for server in self.servers:
            found += [server.socket, server.output]
        return [*found, *(fd for fd in (self.runtime_lock, self.segment) if fd >= 0)]

    def copied(self) -> Handover:
        """The same with duplicates of all descriptors. Raises OSError, with none left open."""
        copies: dict[int, int] = {}
        try:
            for fd in self.descriptors():
                copies[fd] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
        except OSError:
            for fd in copies.values():
                os.close(fd)
            raise
        return replace(
            self,
            inherited=tuple(copies[fd] for fd in self.inherited),
            stored=tuple((name, copies[fd]) for name, fd in self.stored),
            workers=tuple(replace(w, pidfd=copies[w.pidfd], channel=copies[w.channel]) for w in self.workers),
            servers=tuple(replace(s, socket=copies[s.socket], output=copies[s.output]) for s in self.servers),
            runtime_lock=copies.get(self.runtime_lock, -1),
            segment=copies.get(self.segment, -1),
        )

    def close(self) -> None:
        for fd in self.descriptors():
            os.close(fd)

    def passed(self) -> Passed:
        """The listening sockets, and what is stored, as the service manager passes them at a start."""
        return Passed([socket.socket(fileno=fd) for fd in self.inherited], [Stored(*each) for each in self.stored])


def this_program() -> Program:
    """The program that runs."""
    end = sys.orig_argv.index("run") if "run" in sys.orig_argv else len(sys.orig_argv)
    loader, arguments = sys.orig_argv[1:end], sys.orig_argv[end:]
    # A script names its interpreter, which with another version is another one.
    script = len(loader) == 1 and os.access(loader[0], os.X_OK)
    command = tuple(loader) if script else (sys.executable, *loader)
    return Program(command, tuple(arguments), (_INTERPRETER, *loader), lb.__version__, lb.__path__[0])


def still_there(program: Program) -> bool:
    """Whether nothing else has been installed over it."""
    try:
        with open(os.path.join(program.path, "__init__.py")) as file:
            return f'__version__ = "{program.version}"' in file.read()
    except OSError:
        return False


def become(program: Program, handover: Handover, environment: Mapping[str, str], exactly: bool = False) -> None:
    """Runs the program that is installed in the place of `program` in this process, or `exactly` that one. Returns
    never; raises OSError, with everything as it was, when it cannot be run."""
    _execute(program, msgspec.msgpack.encode(handover), handover.descriptors(), environment, exactly)


def _execute(
    program: Program, data: bytes, descriptors: Sequence[int], environment: Mapping[str, str], exactly: bool
) -> None:
    command, environment = [*program.command, *program.arguments], dict(environment)
    if exactly:
        command = [*program.exact, *program.arguments]
        known = environment.get("PYTHONPATH", "")
        environment[SEARCH_PATH] = known
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (os.path.dirname(program.path), known)))
    memory = os.memfd_create("tidegate-handover", 0)  # not closed by exec
    before = signals.hold_all()  # until the next program hears of them: they would end the process
    try:
        os.write(memory, data)
        for fd in descriptors:
            os.set_inheritable(fd, True)
        os.execve(command[0], command, {**environment, VARIABLE: str(memory)})  # noqa: S606
    except OSError:
        for fd in descriptors:
            os.set_inheritable(fd, False)
        os.close(memory)
        signals.restore(before)
        raise


def take(environ: MutableMapping[str, str]) -> Handover | None:
    """What the program before has left, None at a first start. What cannot be understood goes back to the program
    before, which goes on; raises StartError where that one cannot be run."""
    number = environ.pop(VARIABLE, "")
    if SEARCH_PATH in environ:  # our children find us without it
        known = environ.pop(SEARCH_PATH)
        if known:
            environ["PYTHONPATH"] = known
        else:
            environ.pop("PYTHONPATH", None)
    if not number.isdigit():
        return None
    data = b""
    try:
        data = _contents(int(number))
        handover = _understood(data)
        for fd in handover.descriptors():
            os.set_inheritable(fd, False)
    except (OSError, msgspec.MsgspecError) as error:
        reason = f"what the program before has left cannot be understood: {error}"
    except StartError as error:
        reason = str(error)
    else:
        return handover
    _return(data, reason, environ)
    raise StartError(reason)


def _contents(memory: int) -> bytes:
    try:
        return os.pread(memory, os.fstat(memory).st_size, 0)
    finally:
        os.close(memory)


def _understood(data: bytes) -> Handover:
    """Raises StartError, MsgspecError."""
    found = msgspec.msgpack.decode(data, type=Origin).format
    if found != FORMAT:
        raise StartError(f"the program before hands over by format {found}, this one by {FORMAT}")
    return msgspec.msgpack.decode(data, type=Handover)


def _return(data: bytes, reason: str, environment: Mapping[str, str]) -> None:
    """Runs the program before again, which finds what it has left as it was. Returns where that is not possible. The
    descriptors in it are still those that stay open."""
    try:
        origin, fields = msgspec.msgpack.decode(data, type=Origin), msgspec.msgpack.decode(data)
    except msgspec.MsgspecError:
        return
    if origin.failed or not still_there(origin.before):
        return
    log.error("the upgrade failed, version %s goes on: %s", origin.before.version, reason)
    fields |= {"before": this_program(), "failed": reason}
    try:
        _execute(origin.before, msgspec.msgpack.encode(fields), (), environment, exactly=True)
    except OSError as error:
        log.error("%s cannot be run any more: %s", origin.before.exact[0], error.strerror)


def end(pidfds: Sequence[int]) -> None:
    """SIGTERM to processes of the program before."""
    for pidfd in pidfds:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        except ProcessLookupError:
            continue
