"""What a reload changes: decided here, carried out by the master."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from lb.config.schema.file import Config
from lb.config.schema.jobs import JobsConfig
from lb.config.schema.listeners.udp import lasting
from lb.config.schema.pools.affinity import session_sets


class ReloadResult(Struct, frozen=True):
    """The outcome of a reload, as the admin API and status show it."""

    ok: bool
    at: float  # Unix time, seconds
    generation: int  # of the plan in force afterwards
    error: str = ""
    problems: tuple[str, ...] = ()  # of the configuration file, one line each
    notes: tuple[str, ...] = ()  # what was not applied because it needs a restart
    changes: tuple[str, ...] = ()  # changes made at run time that go on, and why others have ended
    by: str = ""  # who asked: "SIGHUP", or the caller of the admin API

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Decision(Struct, frozen=True):
    """The configuration to run, and what of the wanted one it leaves out."""

    config: Config
    notes: tuple[str, ...]


def decide(running: Config, wanted: Config) -> Decision:
    """`wanted`, but what only a restart changes (workers, the admin address, cache memory) is taken from `running`.

    Removing the cache section takes effect at once; its memory stays until the restart.
    """
    notes = []
    config = wanted
    if wanted.workers != running.workers:
        notes.append(f"workers: {running.workers} stays until a restart, then {wanted.workers}")
        config = config.model_copy(update={"workers": running.workers})
    if wanted.admin.bind != running.admin.bind:
        notes.append(f"admin.bind: {running.admin.bind} stays until a restart, then {wanted.admin.bind}")
        # The token file guards the address, so the two stay together.
        config = config.model_copy(update={"admin": running.admin})
    if wanted.cache is not None and running.cache is None:
        notes.append("cache: none until a restart, which makes its memory")
        config = config.model_copy(update={"cache": None})
    elif wanted.cache is not None and running.cache is not None and wanted.cache.size != running.cache.size:
        notes.append(f"cache.size: {running.cache.size} bytes stay until a restart, then {wanted.cache.size}")
        cache = wanted.cache.model_copy(update={"size": running.cache.size})
        config = config.model_copy(update={"cache": cache})
    if config.cache is not None and running.cache is not None and config.cache.disk != running.cache.disk:
        notes.append("cache.disk: stays as it is until a restart")
        config = config.model_copy(update={"cache": config.cache.model_copy(update={"disk": running.cache.disk})})
    if wanted.jobs is not None and running.jobs is not None and _place(wanted.jobs) != _place(running.jobs):
        notes.append("jobs.path and jobs.store: jobs stay where they are until a restart")
        config = config.model_copy(update={"jobs": wanted.jobs.model_copy(update=_place(running.jobs))})
    return Decision(config, tuple(notes))


def _place(jobs: JobsConfig) -> dict[str, Any]:
    """Where jobs are kept."""
    return {"path": jobs.path, "store": jobs.store}


def sets_wanted(config: Config) -> int:
    """Sets of the table of learned sessions that `config` asks for."""
    lasting_flows = (x.udp.max_sessions for x in config.listeners.values() if x.protocol == "udp" and lasting(x.udp))
    return session_sets((pool.affinity for pool in config.pools.values()), sum(lasting_flows))


def short_of_room(config: Config, sets: int) -> tuple[str, ...]:
    """What `config` needs a restart for, when the segment has `sets` sets of learned sessions."""
    wanted = sets_wanted(config)
    if wanted <= sets:
        return ()
    return (f"affinity.learn.max: room for {4 * sets} sessions in all pools until a restart, then {4 * wanted}",)
