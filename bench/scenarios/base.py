"""What a scenario is: a task for the proxies, servers behind them, a way to measure, and the project's own limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bench.bed import Bed
from bench.errors import Cannot
from bench.generator import Generator
from bench.peers import OURS, Task
from bench.peers.base import Upstream
from bench.results import Limit, Metric, Outcome, Sample, Subject
from bench.servers import Server

Measure = Callable[[Bed], Sample]


@dataclass(frozen=True)
class Row:
    """A row of a scenario's table: the program `proxy` with a task, under a name of its own."""

    name: str
    proxy: str
    task: Task


@dataclass(frozen=True)
class Scenario:
    """`measure` makes one sample on a bed; `metrics[0]` is the headline, a figure of which less is better.

    `peer_task` is what the peers do where they cannot do what we do; `note` then says what differs. `ours_only` is the
    reason why no peer can take part at all. `rows` are further rows of programs that take part: tuned otherwise, or
    with another policy. `default` puts it into the default run; `max_rounds` bounds long ones.
    """

    name: str
    title: str
    task: Task
    servers: Mapping[Upstream, Server]
    measure: Measure
    metrics: tuple[Metric, ...]
    generators: tuple[Generator, ...]
    limits: tuple[Limit, ...] = ()
    note: str = ""
    peer_task: Task | None = None
    ours_only: str = ""
    rows: tuple[Row, ...] = ()
    default: bool = False
    max_rounds: int = 1000

    def task_for(self, proxy: str) -> Task:
        """Raises Cannot for a peer where none can do it."""
        if proxy == OURS:
            return self.task
        if self.ours_only:
            raise Cannot(self.ours_only)
        return self.peer_task or self.task

    def row(self, name: str) -> Row:
        """The row with this name. Raises Cannot for a peer that cannot do it."""
        for row in self.rows:
            if row.name == name:
                return row
        return Row(name, name, self.task_for(name))

    def names(self, proxies: Iterable[str]) -> list[str]:
        """The rows that there are where these programs are measured."""
        known = list(proxies)
        return [*known, *(row.name for row in self.rows if row.proxy in known)]

    def server_for(self, upstream: Upstream) -> Server:
        """Raises Cannot where the scenario has no server that speaks so."""
        if upstream not in self.servers:
            raise Cannot(f"speaks only {upstream} to servers")
        return self.servers[upstream]

    def outcome(self, proxies: Iterable[str]) -> Outcome:
        """An outcome without samples yet."""
        subjects = {name: Subject() for name in self.names(proxies)}
        return Outcome(self.name, subjects, self.title, self.metrics, self.limits, self.note)
