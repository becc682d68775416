"""Runs model servers as actors of a Ray cluster for one pool: a program of its own, which needs Ray and nothing else.

    python ray_agent.py '{"address": "auto", "cpus": 1, "gpus": 0, "resources": {}}'

Ray has threads, signal handlers and a connection to the cluster that the master of a load balancer must not have, and
may live in an environment of its own. The two talk in lines of JSON. From the master on standard input:

    {"start": ID, "command": [...], "env": {...}}    {"signal": ID, "number": 15}

To the master on standard output:

    {"connected": "ADDRESS"}    {"line": ID, "text": "..."}    {"exit": ID, "code": -9, "why": "..."}

In a command `{host}` is the address of the node that it runs on, `{parent}` the process that it is to die with. When
the input ends, the actors end, and so do their processes. They end, too, when this program is killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import ray

ROOM = 5.0  # s without a place in the cluster, after which that is said
CONNECT = 10.0  # s

# What is run in place of a command, to become it: it ends with the actor's process, whatever ends that.
_SHELL = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None, use_errno=True).prctl(1, 9)\n"
    "os.getppid() == int(sys.argv[1]) or os._exit(1)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)


class ModelServer:
    """An actor that runs one process. `news` waits for what it writes and for its end."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, command: Sequence[str], environment: Mapping[str, str]) -> str:
        """Starts the process; the address of the node. Raises OSError."""
        host = str(ray.util.get_node_ip_address())
        parent = str(os.getpid())
        filled = [part.replace("{host}", host).replace("{parent}", parent) for part in command]
        # The variables of Ray's own workers would have a Ray in the model server join as one of them.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _SHELL, parent, *filled,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**kept, **environment}, start_new_session=True,
        )  # fmt: skip
        return host

    async def news(self) -> tuple[str, int | None]:
        """The next line, or the exit status: minus the number of the signal that ended it."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            line = await self._process.stdout.readline()
        except ValueError:  # longer than any line should be; the rest follows
            return "(a line that is too long)", None
        if line:
            return line.decode(errors="replace").rstrip(), None
        return "", await self._process.wait()

    async def signal(self, number: int) -> None:
        """Sends a signal to the process and what it started."""
        if self._process is not None and self._process.returncode is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return


class Agent:
    """The actors by the master's numbers."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._kind = ray.remote(ModelServer).options(
            num_cpus=options["cpus"],
            num_gpus=options["gpus"],
            resources=options["resources"] or None,
            max_restarts=0,  # the master restarts, and paces it
            max_concurrency=8,
        )
        self._actors: dict[int, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, message: Mapping[str, Any]) -> None:
        if "start" in message:
            self._spawn(self._run(message["start"], message["command"], message["env"]))
        elif "signal" in message:
            self._spawn(self._signal(message["signal"], message["number"]))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, number: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        code, why = -signal.SIGKILL, ""
        try:
            actor = self._actors[number] = self._kind.remote()
            host = await self._placed(number, actor.start.remote(command, environment))
            tell(line=number, text=f"runs on node {host}")
            while True:
                text, ended = await actor.news.remote()
                if ended is not None:
                    code = ended
                    break
                tell(line=number, text=text.replace("listening on 0.0.0.0:", f"listening on {host}:"))
        except ray.exceptions.RayError as error:
            why = _first_line(error)
        except Exception as error:
            why = f"{type(error).__name__}: {_first_line(error)}"
        gone = self._actors.pop(number, None)
        if gone is not None:
            ray.kill(gone)
        tell(exit=number, code=code, why=why)

    async def _placed(self, number: int, starting: Any) -> str:
        """Where it runs, once Ray has room for it."""
        future = asyncio.ensure_future(_awaited(starting))
        done, _ = await asyncio.wait([future], timeout=ROOM)
        if not done:
            tell(line=number, text="Ray has no room for it yet")
        return await future

    async def _signal(self, number: int, which: int) -> None:
        actor = self._actors.get(number)
        if actor is None:
            return
        if which == signal.SIGKILL:
            ray.kill(actor)  # one that waits for room has no process yet
            return
        try:
            await actor.signal.remote(which)
        except ray.exceptions.RayError:
            return  # its end is told by `_run`


async def _awaited(reference: Any) -> str:
    return str(await reference)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def tell(**message: Any) -> None:
    """One line to the master."""
    _OUTPUT.write(json.dumps(message) + "\n")
    _OUTPUT.flush()


async def serve(options: Mapping[str, Any]) -> None:
    """Until the input ends."""
    agent = Agent(options)
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        agent.hear(json.loads(line))


def reach(address: str) -> None:
    """Raises OSError when nobody listens at `HOST:PORT`: Ray itself says so after a minute, and by ending us."""
    host, sign, port = address.rpartition(":")
    if sign and "/" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()


def main() -> int:
    """Raises nothing: what goes wrong is the last line."""
    options = json.loads(sys.argv[1])
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: not without the master
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the master's terminal: the master says what is to end
    try:
        reach(options["address"])
        ray.init(
            address=options["address"], log_to_driver=False, logging_level="WARNING", configure_logging=True,
            namespace="tidegate",
        )  # fmt: skip
    except Exception as error:
        tell(error=f"no connection to Ray at {options['address']}: {_first_line(error)}")
        return 1
    tell(connected=ray.get_runtime_context().gcs_address)
    asyncio.run(serve(options))
    ray.shutdown()
    return 0


if __name__ == "__main__":
    # Ray and its libraries print; the master reads this pipe only for us.
    _OUTPUT = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    raise SystemExit(main())
