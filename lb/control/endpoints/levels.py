"""The levels of a steered pool: what their endpoints get now, in status, and in the log when that changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from lb.config.plan.plan import PoolPlan
from lb.config.schema.file import PoolConfig
from lb.config.schema.pools.failover import PrioritiesConfig, ZonesConfig
from lb.health.levels import Candidate, Level, Rules, decide_levels
from lb.health.shares import WHOLE

log = logging.getLogger("tidegate.health")

Carriers = tuple[int, ...]  # levels that get requests


def rules_of(config: PoolConfig, panic_threshold: int) -> Rules:
    """What a pool's sections say, with their defaults; `panic_threshold` in percent, 0: never."""
    priorities, zones = config.priorities or PrioritiesConfig(), config.zones or ZonesConfig()
    return Rules(priorities.spill == "share", priorities.overprovisioning, zones.overprovisioning, panic_threshold)


class PoolLevels:
    """Of one pool whose plan has groups. `failovers` counts how often another level than the first began to get
    requests."""

    def __init__(self, plan: PoolPlan) -> None:
        self.failovers = 0
        self._levels: tuple[Level, ...] = ()
        self._able: tuple[bool, ...] = ()  # of each endpoint, whether it could have requests
        self._said: Carriers | None = None  # None: nothing yet
        self._crossing: frozenset[int] = frozenset()  # levels whose own zone does not carry all of them
        self.follow(plan)

    def follow(self, plan: PoolPlan) -> None:
        """The plan has changed."""
        ranks = {group // 2: e.priority for group, e in zip(plan.groups, plan.endpoints, strict=True)}
        self._name, self._groups = plan.name, plan.groups
        self._priorities = [ranks[level] for level in sorted(ranks)]

    def update(self, candidates: Sequence[Candidate], rules: Rules) -> None:
        """Decides; says what that changes."""
        self._levels = levels = decide_levels(candidates, rules)
        self._able = tuple(candidate.carries for candidate in candidates)
        carriers = tuple(i for i, level in enumerate(levels) if level.share)
        # Before anybody is known to be healthy, nobody is missed.
        if carriers != self._said and (carriers or self._said is not None):
            self._say(carriers)
            self.failovers += any(carriers) and not any(self._said or ())
            self._said = carriers
        crossing = frozenset(i for i, level in enumerate(levels) if level.split and level.share and level.other)
        for level in sorted(crossing ^ self._crossing):
            if level < len(levels) and levels[level].share:
                self._say_zone(level)
        self._crossing = crossing

    def _say(self, carriers: Carriers) -> None:
        if not carriers:
            log.warning("pool %s: no endpoint of any priority is healthy", self._name)
        elif any(carriers):
            text = "pool %s fails over: %s (%s)"
            log.warning(text, self._name, self._shares(carriers), self._healthy())
        elif self._said is not None:
            text = "pool %s: priority %d has all requests again (%s)"
            log.info(text, self._name, self._priorities[0], self._healthy())

    def _say_zone(self, level: int) -> None:
        row = self._levels[level]
        if row.other:
            text = "pool %s: the own zone has %s of the requests of priority %d, other zones the rest"
            log.warning(text, self._name, _percent(row.own, row.share), self._priorities[level])
        else:
            text = "pool %s: the own zone has all requests of priority %d again"
            log.info(text, self._name, self._priorities[level])

    def _shares(self, carriers: Carriers) -> str:
        parts = [f"priority {self._priorities[i]} has {_percent(self._levels[i].share)}" for i in carriers]
        return " and ".join(parts) + " of the requests"

    def _healthy(self) -> str:
        rows = zip(self._priorities, self._levels, strict=True)
        return ", ".join(f"priority {p}: {level.healthy} of {level.endpoints} healthy" for p, level in rows)

    @property
    def panicking(self) -> tuple[int, ...]:
        """The priorities of the levels that are in a panic."""
        rows = zip(self._priorities, self._levels, strict=True)
        return tuple(priority for priority, level in rows if level.panic)

    def share_of(self, i: int) -> int:
        """Thousandths of the requests that are for the group of the endpoint at place `i`."""
        group = self._groups[i]
        level = self._levels[group // 2]
        return level.other if group % 2 else level.own

    def panic_of(self, i: int) -> bool:
        """Whether its level is in a panic."""
        return self._levels[self._groups[i] // 2].panic

    def why_not(self, i: int) -> str:
        """Why the endpoint at place `i` gets nothing though it could have requests; empty where that is not so."""
        if self.share_of(i) or not self._able[i]:
            return ""
        if self._levels[self._groups[i] // 2].share:
            return "another zone: the own one has all requests"
        carriers = [f"priority {self._priorities[c]}" for c, other in enumerate(self._levels) if other.share]
        mine = self._priorities[self._groups[i] // 2]
        return f"priority {mine}: {' and '.join(carriers)} {'has' if len(carriers) == 1 else 'have'} all requests"

    def status(self) -> list[dict[str, Any]]:
        """[{priority, endpoints, healthy, carries, share, panic, own_zone, other_zones}]; of 1, the last two None
        where zones have no say."""
        return [_row(priority, level) for priority, level in zip(self._priorities, self._levels, strict=True)]


def _row(priority: int, level: Level) -> dict[str, Any]:
    return {
        "priority": priority,
        "endpoints": level.endpoints,
        "healthy": level.healthy,
        "carries": round(level.carries, 3),
        "share": level.share / WHOLE,
        "panic": level.panic,
        "own_zone": level.own / WHOLE if level.split else None,
        "other_zones": level.other / WHOLE if level.split else None,
    }


def _percent(part: int, of: int = WHOLE) -> str:
    return f"{100 * part / of:.0f} %"
