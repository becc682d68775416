"""Checks of jobs that concern several sections."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from lb.config.forms import by_form, members_of

if TYPE_CHECKING:
    from lb.config.schema.file import Config

Found = tuple[str, str]
NAME = "jobs"  # of the pool and of the listener that Tidegate adds
_PROTOCOLS = ("oip", "http", "http2")


def check_jobs(config: Config, broken: Set[str]) -> Iterator[Found]:
    """Problems with routes that have `jobs`."""
    if config.jobs is not None:
        for section, names in (("listeners", config.listeners), ("pools", config.pools)):
            if NAME in names:
                yield f"{section}.{NAME}", "is the name of Tidegate's own; with the section jobs give it another"
    for name, pool in config.pools.items():
        signals = pool.scaling.signals if pool.scaling is not None else ()
        if config.jobs is None and "jobs" not in broken and any(signal.type == NAME for signal in signals):
            yield f"pools.{name}.scaling", "the signal jobs needs the section jobs"
    for name, listener in config.listeners.items():
        for first, places in by_form(members := members_of(listener.routes)):
            if not first.jobs:
                continue
            for i in places:
                path = f"listeners.{name}.routes[{i}]"
                route = members[i].route
                if config.jobs is None and "jobs" not in broken:
                    yield f"{path}.jobs", "needs the section jobs, which says where they are kept"
                if any(field.lower() == "prefer" for field in route.match.headers):
                    yield f"{path}.match.headers", "the field Prefer says whether a request is to be a job"
                for answering in route.pool_names:
                    found = config.pools.get(answering)
                    if found is not None and found.protocol not in _PROTOCOLS:
                        yield f"{path}.jobs", f"not for pools of protocol {found.protocol}, as {answering!r} is"
