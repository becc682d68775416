"""What operators want of endpoints that the configuration does not say: state, weight and limit, since when, by whom.

It outlives workers and reloads. A weight and a limit end when the configuration gives the endpoint another one, all of
it when the endpoint goes, and with the daemon
(an upgrade is the same daemon).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct

from lb.config.plan.plan import EndpointPlan
from lb.control.registry import ADMIN, ENABLED, Registry


class EndpointUpdate(Struct, frozen=True):
    """What an operator wants of an endpoint; None leaves as it is, "default" is the configuration's. `admin` is enum
    tg_admin."""

    admin: int | None = None
    weight: int | Literal["default"] | None = None
    max_in_flight: int | Literal["default"] | None = None


_Endpoint = tuple[str, str]  # pool, address


class Limit(Struct):
    """An operator's limit of an endpoint, which holds as long as the configuration says what it said then."""

    most: int
    slot: int
    file: int  # the configuration's when it was set; 0: none
    now: int  # the configuration's by the last plan that was compiled


class OperatedEndpoints:
    """State and weight are the registry's, limits are kept here. Everything on the loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._limits: dict[_Endpoint, Limit] = {}
        self._said: dict[tuple[str, str, str], tuple[float, str]] = {}  # pool, address, what -> Unix time, by whom
        self._remembered: dict[_Endpoint, tuple[int, int]] = {}  # (most, file) of a limit from before an upgrade

    def hand_over(self) -> tuple[list[tuple[str, str, int, int]], list[tuple[str, str, str, float, str]]]:
        """Limits (pool, address, most, file), and who has said what (pool, address, what, at, by)."""
        limits = [(*key, limit.most, limit.file) for key, limit in self._limits.items() if limit.now == limit.file]
        return limits, [(*key, *said) for key, said in self._said.items()]

    def remember_limit(self, pool: str, address: str, most: int, file: int) -> None:
        """A limit that `hand_over` gave, of an endpoint that is yet to come."""
        self._remembered[pool, address] = most, file

    def note(self, pool: str, address: str, what: str, at: float, by: str) -> None:
        """Who set something of an endpoint, and when: admin, weight or max_in_flight."""
        self._said[pool, address, what] = at, by

    def set_limit(self, pool: str, endpoint: EndpointPlan, most: int | None) -> Limit | None:
        """Most requests that an endpoint has at once; None: the configuration's. It holds from the next plan on.
        Returns what `restore` takes."""
        known = self._limits.pop((pool, endpoint.address), None)
        if most is not None:
            file = known.now if known is not None and known.slot == endpoint.slot else endpoint.max_in_flight
            self._limits[pool, endpoint.address] = Limit(most, endpoint.slot, file, file)
        return known

    def restore(self, pool: str, endpoint: EndpointPlan, before: Limit | None) -> None:
        """Undoes `set_limit`, whose plan the workers did not take."""
        self._limits.pop((pool, endpoint.address), None)
        if before is not None:
            self._limits[pool, endpoint.address] = before

    def limits(self, pool: str) -> bool:
        """Whether an operator has set a limit of an endpoint of the pool."""
        return any(name == pool for known in (self._limits, self._remembered) for name, _ in known)

    def limit(self, pool: str, endpoint: EndpointPlan) -> int | None:
        """The limit of an endpoint as it was compiled from the configuration; None where no operator set one, or the
        configuration has given it another one since."""
        known = self._limits.get((pool, endpoint.address))
        if known is None and (before := self._remembered.pop((pool, endpoint.address), None)) is not None:
            most, file = before
            known = self._limits[pool, endpoint.address] = Limit(most, endpoint.slot, file, file)
        if known is None or known.slot != endpoint.slot:
            return None
        known.now = endpoint.max_in_flight
        return known.most if known.now == known.file else None

    def file_limit(self, pool: str, endpoint: EndpointPlan) -> int:
        """The configuration's limit of an endpoint of the plan in force; 0: none."""
        known = self._limits.get((pool, endpoint.address))
        return known.now if known is not None and known.slot == endpoint.slot else endpoint.max_in_flight

    def settle(self) -> None:
        """After a reload: what has ended does not come back with the file's old values."""
        for key, known in list(self._limits.items()):
            if known.now != known.file or self._registry.slot(*key) != known.slot:
                del self._limits[key]
        for pool, address, what in list(self._said):
            if self._registry.slot(pool, address) is None:
                del self._said[pool, address, what]

    def rows(self) -> list[dict[str, Any]]:
        """What is in force: {pool, endpoint, setting, value, file, at, by}."""
        rows: list[dict[str, Any]] = []
        # Of thousands of endpoints, operators have changed few.
        changed = self._registry.changed() | {limit.slot for limit in self._limits.values()}
        if not changed:
            return rows
        for pool, address, slot in self._registry.slots():
            if slot not in changed:
                continue
            for what, value, file in self._wanted(pool, address, slot):
                at, by = self._said.get((pool, address, what), (None, None))
                rows.append(
                    {
                        "pool": pool, "endpoint": address, "setting": what, "value": value, "file": file, "at": at,
                        "by": by,
                    }
                )  # fmt: skip
        return rows

    def _wanted(self, pool: str, address: str, slot: int) -> Iterator[tuple[str, Any, Any]]:
        admin, (weight, file) = self._registry.operated(slot), self._registry.weights(slot)
        if admin != ENABLED:
            yield "admin", ADMIN[admin], ADMIN[ENABLED]
        if weight != file:
            yield "weight", weight, file
        limit = self._limits.get((pool, address))
        if limit is not None and limit.slot == slot and limit.now == limit.file:
            yield "max_in_flight", limit.most, limit.file or None
