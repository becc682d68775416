"""Model servers as actors of Ray: processes that a supervisor has on other machines.

An agent (lb/engines/ray_agent.py), one for each pool, is the driver of the actors; it is a process of its own, since
Ray has threads and signal handlers that the master must not have. The supervisor above restarts, drains and replaces
what runs here as it does on this machine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lb.config.schema.file import ServeConfig
from lb.config.schema.pools.engine import RayEngineConfig
from lb.control import signals
from lb.control.servers.model_server import serve_command
from lb.control.servers.watcher import Specification
from lb.control.workers.launch import child_environment
from lb.control.workers.lines import LineReader
from lb.errors import StartError

log = logging.getLogger("tidegate.supervisor")

AGENT = Path(__file__).parents[2] / "engines" / "ray_agent.py"


class RayProcess:
    """A model server on some node, as lb.control.servers.launcher.ServerProcess is one here. It has no pid that
    means anything on this machine."""

    pid: int | None = None

    def __init__(
        self, agent: _Agent, number: int, on_line: Callable[[str], None], on_exit: Callable[[int | None, str], None]
    ) -> None:
        self.number = number
        self.on_line = on_line
        self.on_exit = on_exit
        self._agent = agent

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and what it started, soon."""
        self._agent.send({"signal": self.number, "number": int(number)})


class RayProcesses:
    """Starts the model servers of one pool; everything on the running loop. The agent is started with the first, and
    anew when it has ended."""

    def __init__(self, pool: str, options: RayEngineConfig) -> None:
        self._pool = pool
        self._options = options
        self._agent: _Agent | None = None
        self._numbers = itertools.count(1)
        self._named = {"PYTHONPATH"}

    def launch(
        self,
        wanted: Specification,
        on_start: Callable[[int], None],
        on_line: Callable[[str], None],
        on_exit: Callable[[int | None, str], None],
    ) -> RayProcess:
        """A launcher.Launch. Raises StartError when the agent cannot be started. Of the environment a node gets what
        `serve` names and where Tidegate's packages are; the rest is this machine's."""
        if self._agent is None or self._agent.ended:
            self._agent = _Agent(self._pool, self._options)
        process = RayProcess(self._agent, next(self._numbers), on_line, on_exit)
        theirs = {name: value for name, value in wanted.environment.items() if name in self._named}
        self._agent.start(process, wanted.command, theirs)
        return process

    def settings(self, serve: ServeConfig) -> ServeConfig:
        """`serve` as it is there: on other machines nobody can reach a Unix socket of ours."""
        self._named |= serve.env.keys()
        return serve.model_copy(update={"listen": "tcp"})

    def command(self, serve: ServeConfig, listen: str) -> list[str]:
        """The command line of a model server that listens on the address of the node it runs on."""
        return serve_command(serve, "{host}:0")

    async def close(self) -> None:
        """Ends the agent; the model servers have ended before, or end with it."""
        agent, self._agent = self._agent, None
        if agent is not None:
            await agent.close()

    def status(self) -> dict[str, Any]:
        """The engine's part of the status document."""
        agent = self._agent
        return {
            "engine": "ray",
            "target": f"ray {self._options.address}",
            "state": "current" if agent is not None and agent.connected else "waiting",
            "error": (agent.error or None) if agent is not None else None,
        }


class _Agent:
    """The process that Ray knows as the driver."""

    def __init__(self, pool: str, options: RayEngineConfig) -> None:
        self.connected = self.ended = False
        self.error = ""
        self._pool = pool
        self._processes: dict[int, RayProcess] = {}
        self._over = asyncio.Event()
        said = options.model_dump(mode="json", include={"address", "cpus", "gpus", "resources"})
        python = str(options.python) if options.python is not None else sys.executable
        loop = asyncio.get_running_loop()
        try:
            with signals.held():
                self._process = subprocess.Popen(
                    [python, "-P", str(AGENT), json.dumps(said)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    env=child_environment(), process_group=0,
                )  # fmt: skip
        except OSError as error:
            raise StartError(f"cannot start {python}: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._unsent = b""
        self._loop = loop
        self._output = LineReader(loop, os.dup(self._process.stdout.fileno()), self._heard)
        self._complaints = LineReader(loop, os.dup(self._process.stderr.fileno()), self._complained)
        self._process.stdout.close()
        self._process.stderr.close()
        self._pidfd = os.pidfd_open(self._process.pid)
        loop.add_reader(self._pidfd, self._exited)
        log.info("pool %s: the agent of Ray has pid %d", pool, self._process.pid)

    def start(self, process: RayProcess, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._processes[process.number] = process
        self.send({"start": process.number, "command": list(command), "env": dict(environment)})

    def send(self, message: Mapping[str, Any]) -> None:
        """One line to the agent; what its pipe does not take at once follows."""
        if not self.ended:
            waits = bool(self._unsent)
            self._unsent += json.dumps(message).encode() + b"\n"
            if not waits:
                self._write()

    async def close(self) -> None:
        if self.ended:
            return
        assert self._process.stdin is not None
        self._loop.remove_writer(self._process.stdin.fileno())
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._over.wait()
        except TimeoutError:
            log.error("pool %s: the agent of Ray does not end, killed", self._pool)
            self._process.kill()
            await self._over.wait()

    def _write(self) -> None:
        assert self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        self._loop.remove_writer(descriptor)
        try:
            sent = os.write(descriptor, self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # it has ended, which is told apart
            self._unsent = b""
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            self._loop.add_writer(descriptor, self._write)

    def _heard(self, line: str) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            self._complained(line)
            return
        if "connected" in message:
            self.connected = True
            log.info("pool %s: connected to Ray at %s", self._pool, message["connected"])
        elif "error" in message:
            self.error = message["error"]
            log.error("pool %s: %s", self._pool, self.error)
        elif "line" in message and message["line"] in self._processes:
            self._processes[message["line"]].on_line(message["text"])
        elif "exit" in message and message["exit"] in self._processes:
            process = self._processes.pop(message["exit"])
            process.on_exit(message["code"], message["why"])

    def _complained(self, line: str) -> None:
        if line.strip():
            log.info("pool %s: ray: %s", self._pool, line)
            self.error = self.error or ("" if self.connected else line)

    def _exited(self) -> None:
        self.ended = True
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._loop.remove_writer(self._process.stdin.fileno())
            self._process.stdin.close()
        self._output.finish()
        self._complaints.finish()
        lost, self._processes = list(self._processes.values()), {}
        if lost:
            log.error("pool %s: the agent of Ray has ended with status %d, and its model servers", self._pool, code)
        for process in lost:
            process.on_exit(None, self.error or f"the agent of Ray has ended with status {code}")
        self._over.set()
