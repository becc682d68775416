"""Who owns which record of the shared segment: endpoint slots and counter series, kept by name over reloads.

A plan is compiled inside a transaction: `begin`, then the compiler asks for slots and series, then `commit` or
`rollback`. What a committed plan no longer names is retired: it takes no new requests, and its record is freed once
nothing is in flight there and `LINGER_NS` have passed. Until then its name gets it back, with its state.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from msgspec import Struct, field

from lb.errors import StartError

HEAVIEST = 1000  # as in the configuration
# Kinds of series that are named by pool|address (lb.config.plan.compile).
ENDPOINT_SERIES = ("endpoint", "udp-endpoint")
LINGER_NS = 5_000_000_000  # an exchange that began under an old plan may still look at the record

ENABLED, DRAIN, MAINTENANCE = 0, 1, 2  # enum tg_admin
UP, DOWN = 1, 2  # enum tg_health
HEALTH = {0: "unknown", UP: "up", DOWN: "down"}
ADMIN = {ENABLED: "enabled", DRAIN: "drain", MAINTENANCE: "maintenance"}


class SegmentLike(Protocol):
    """The control words of the segment, as lb.shared.segment.Segment gives them to the master."""

    def set_health(self, slot: int, up: bool, now: int) -> None: ...
    def set_admin(self, slot: int, state: int) -> None: ...
    def set_weight(self, slot: int, weight: int) -> None: ...
    def set_key(self, slot: int, key: str) -> None: ...
    def clear_slot(self, slot: int) -> None: ...
    def clear_series(self, index: int) -> None: ...
    def inflight(self, slot: int) -> int: ...


class Initial(Struct, frozen=True):
    """What the configuration says of an endpoint: its weight, and whether it takes requests before its first check."""

    weight: int
    up: bool


class Advice(Struct, frozen=True):
    """What an endpoint's agent wants: its state (enum tg_admin), and a percentage of its weight."""

    admin: int = ENABLED
    percent: int = 100


NO_ADVICE = Advice()


def scaled(weight: int, percent: int) -> int:
    """`percent` of a weight, within what a weight may be; 0 only of 0, or for 0 %, as it keeps requests away."""
    if weight == 0 or percent == 0:
        return 0
    return max(1, min(weight * percent // 100, HEAVIEST))


class _Table(Struct):
    """Numbers below `capacity` by key, lowest first, with those that wait to be freed."""

    what: str
    capacity: int
    used: dict[tuple[str, str], int] = field(default_factory=dict)
    retired: dict[tuple[str, str], int] = field(default_factory=dict)  # key -> since, monotonic ns
    wanted: set[tuple[str, str]] = field(default_factory=set)
    fresh: set[tuple[str, str]] = field(default_factory=set)
    _free: list[int] = field(default_factory=list)
    _next: int = 0

    def want(self, key: tuple[str, str]) -> int:
        self.wanted.add(key)
        if key in self.used:
            return self.used[key]
        if not self._free and self._next >= self.capacity:
            raise StartError(f"too many {self.what}: the limit is {self.capacity}, recently removed ones included")
        self.used[key] = number = heapq.heappop(self._free) if self._free else self._next
        self._next = max(self._next, number + 1)
        self.fresh.add(key)
        return number

    def unused(self) -> list[tuple[tuple[str, str], int]]:
        """The retired keys that no transaction under way wants back, with the time of their retirement."""
        return [(key, since) for key, since in self.retired.items() if key not in self.wanted]

    def release(self, key: tuple[str, str]) -> None:
        heapq.heappush(self._free, self.used.pop(key))
        self.retired.pop(key, None)


class Registry:
    """The compiler's Allocator (lb.config.plan.compile) over one segment. Not thread-safe: one transaction at a
    time."""

    def __init__(self, segment: SegmentLike, endpoint_capacity: int, series_capacity: int) -> None:
        self._segment = segment
        self._endpoints = _Table("endpoints", endpoint_capacity)
        self._series = _Table("counter series", series_capacity)
        self._drained: set[int] = set()  # by us, not by an operator
        self._wanted: dict[int, int] = {}  # what an operator wants of a slot, if not ENABLED
        self._enabled: set[int] = set()  # by the transaction under way
        self._raised: set[int] = set()  # from weight 0, by the transaction under way
        self._weights: dict[int, int] = {}  # what the last plan said: an operator's own weight survives an equal plan
        self._own: dict[int, int] = {}  # the same, or an operator's: what an agent's percentage is of
        self._advised: dict[int, Advice] = {}  # what an agent wants of a slot
        self._remembered: dict[tuple[str, str], tuple[int, int | None]] = {}

    # The Allocator of lb.config.plan.compile.
    def endpoint(self, pool: str, address: str) -> int:
        """The slot of an endpoint. Raises StartError when the segment is full."""
        return self._endpoints.want((pool, address))

    def series(self, kind: str, name: str) -> int:
        """The series of a listener, route or endpoint. Raises StartError when the segment is full."""
        return self._series.want((kind, name))

    def begin(self) -> None:
        self._enabled, self._raised = set(), set()
        for table in (self._endpoints, self._series):
            table.wanted, table.fresh = set(), set()

    def rollback(self) -> None:
        """Frees what this transaction took, and drains again what it brought back."""
        for slot in self._enabled:
            self.drain(slot)
        for slot in self._raised:
            self._reweight(slot, 0)
        self._enabled, self._raised = set(), set()
        for table in (self._endpoints, self._series):
            for key in table.fresh:
                table.release(key)
            table.wanted, table.fresh = set(), set()

    def prepare(self, endpoints: Mapping[int, Initial], now: int) -> None:
        """Writes the control words of the endpoints that are new or come back, before any worker has the plan.

        A worker takes the plan the moment it gets it, and must find somebody there, even if all that the plan names
        were removed, or had weight 0, until now. `endpoints`: every slot of the plan.
        """
        for key in self._endpoints.fresh:
            slot = self._endpoints.used[key]
            self._segment.clear_slot(slot)
            self._segment.set_key(slot, f"{key[0]}|{key[1]}")
            self._segment.set_admin(slot, ENABLED)
            self._weights[slot] = endpoints[slot].weight
            self._weigh(slot, endpoints[slot].weight)
            self._segment.set_health(slot, endpoints[slot].up, now)
            admin, own = self._remembered.pop(key, (ENABLED, None))
            self.operate(slot, admin)
            if own is not None:
                self._weigh(slot, own)
        for key in self._endpoints.wanted & self._endpoints.retired.keys():
            slot = self._endpoints.used[key]
            self._reweight(slot, endpoints[slot].weight)
            self._segment.set_health(slot, endpoints[slot].up, now)  # nobody has checked it meanwhile
        self._raised = {slot for slot, initial in endpoints.items() if initial.weight and not self._weights.get(slot)}
        for slot in self._raised:
            self._reweight(slot, endpoints[slot].weight)
        # Only what is drained now: what is drained while the workers take the plan is meant to stay so.
        self._enabled = self._drained & endpoints.keys()
        self._drained -= self._enabled
        for slot in self._enabled:
            self._segment.set_admin(slot, self._admin(slot))

    def commit(self, endpoints: Mapping[int, Initial], now: int) -> None:
        """The plan is everywhere: re-weights, and retires what the plan does not name.

        An endpoint whose pool has others now is drained. Those of a pool of which the plan names none are not: no
        request comes to it any more, and those that wait in its queue, or are tried again, have nowhere else to go.
        """
        for slot, initial in endpoints.items():
            self._reweight(slot, initial.weight)
        self._enabled, self._raised = set(), set()
        pools = {pool for pool, _ in self._endpoints.wanted}
        for key in self._endpoints.used.keys() - self._endpoints.wanted - self._endpoints.retired.keys():
            if key[0] in pools:
                self.drain(self._endpoints.used[key])
        for table in (self._endpoints, self._series):
            table.retired = {key: table.retired.get(key, now) for key in table.used.keys() - table.wanted}
            table.wanted, table.fresh = set(), set()

    def _reweight(self, slot: int, weight: int) -> None:
        if self._weights.get(slot) != weight:
            self._weights[slot] = weight
            self._weigh(slot, weight)

    def _weigh(self, slot: int, own: int) -> None:
        self._own[slot] = own
        self._segment.set_weight(slot, scaled(own, self._advised.get(slot, NO_ADVICE).percent))

    def _admin(self, slot: int) -> int:
        """Of what the operator and the agent want, what keeps more away."""
        return max(self._wanted.get(slot, ENABLED), self._advised.get(slot, NO_ADVICE).admin)

    def drain(self, slot: int) -> None:
        """Keeps new requests away from an endpoint, until a committed plan names it again."""
        self._drained.add(slot)
        self._segment.set_admin(slot, DRAIN)

    def operate(self, slot: int, admin: int) -> None:
        """An operator's word on an endpoint: ENABLED, DRAIN or MAINTENANCE. It outlives reloads and the workers, and
        ends with the endpoint. Of one that the plan no longer names it is kept for its return."""
        if admin == ENABLED:
            self._wanted.pop(slot, None)
        else:
            self._wanted[slot] = admin
        if slot not in self._drained:
            self._segment.set_admin(slot, self._admin(slot))

    def operate_weight(self, slot: int, weight: int | None) -> None:
        """An operator's weight of an endpoint, until the configuration's changes; None: the configuration's."""
        self._weigh(slot, self._weights[slot] if weight is None else weight)

    def operated_endpoints(self) -> Iterator[tuple[str, str, int, int | None]]:
        """(pool, address, admin, weight) of each endpoint of which an operator has said something; None: the
        configuration's weight."""
        for pool, address, slot in self.slots():
            admin, own = self._wanted.get(slot, ENABLED), self._own[slot]
            weight = own if own != self._weights[slot] else None
            if admin != ENABLED or weight is not None:
                yield pool, address, admin, weight

    def remember(self, pool: str, address: str, admin: int, weight: int | None) -> None:
        """What an operator has said of an endpoint before it comes."""
        self._remembered[pool, address] = admin, weight

    def advise(self, slot: int, advice: Advice) -> None:
        """The word of an endpoint's agent, beside the operator's; it holds until the next, also over reloads."""
        if advice == NO_ADVICE:
            self._advised.pop(slot, None)
        else:
            self._advised[slot] = advice
        self._weigh(slot, self._own[slot])
        if slot not in self._drained:
            self._segment.set_admin(slot, self._admin(slot))

    def changed(self) -> set[int]:
        """The slots of which an operator wants what the configuration does not say."""
        return self._wanted.keys() | {slot for slot, own in self._own.items() if own != self._weights[slot]}

    def operated(self, slot: int) -> int:
        """What an operator wants of an endpoint: ENABLED, DRAIN or MAINTENANCE."""
        return self._wanted.get(slot, ENABLED)

    def weights(self, slot: int) -> tuple[int, int]:
        """The weight of an endpoint before its agent has a say, an operator's if there is one, and the
        configuration's."""
        return self._own[slot], self._weights[slot]

    def kept_away(self, slot: int) -> bool:
        """Whether an operator, or the agent, keeps new requests away from an endpoint."""
        return self._admin(slot) != ENABLED

    def in_maintenance(self, slot: int) -> bool:
        return self._admin(slot) == MAINTENANCE

    def sweep(self, now: int, held: Callable[[str, int, int], bool] = lambda pool, slot, age: False) -> int:
        """Frees the retired records that nobody uses any more; returns how many endpoint slots are still draining.
        `held(pool, slot, ns since its removal)` says of one that has nothing in flight whether it is to stay."""
        for key, since in self._endpoints.unused():
            slot = self._endpoints.used[key]
            idle = now - since >= LINGER_NS and self._segment.inflight(slot) == 0
            if idle and not held(key[0], slot, now - since):
                self._endpoints.release(key)
                self._weights.pop(slot, None)
                self._own.pop(slot, None)
                self._advised.pop(slot, None)
                self._drained.discard(slot)
                self._wanted.pop(slot, None)
                self._segment.clear_slot(slot)
        leaving = {f"{pool}|{address}" for pool, address in self._endpoints.retired}
        oldest = min(self._endpoints.retired.values(), default=now)
        for key, since in self._series.unused():
            # An endpoint's series goes with its slot, whose last exchange may still count. Another's waits for all that
            # were removed with it or before: so endpoints that keep changing do not keep it.
            busy = key[1] in leaving if key[0] in ENDPOINT_SERIES else oldest <= since
            if now - since >= LINGER_NS and not busy:
                self._segment.clear_series(self._series.used[key])
                self._series.release(key)
        return len(self._endpoints.retired)

    def draining(self) -> bool:
        """Whether there are endpoints that were removed and are not free yet."""
        return bool(self._endpoints.retired)

    def slot(self, pool: str, address: str) -> int | None:
        """The slot of a known endpoint, retired or not."""
        return self._endpoints.used.get((pool, address))

    def slots(self) -> Iterator[tuple[str, str, int]]:
        """(pool, address, slot) of every endpoint that is not retired."""
        for (pool, address), slot in self._endpoints.used.items():
            if (pool, address) not in self._endpoints.retired:
                yield pool, address, slot

    def retired(self) -> Iterator[tuple[str, str, int, int]]:
        """(pool, address, slot, since when) of every endpoint that no plan names any more and that is not free yet."""
        for (pool, address), since in self._endpoints.retired.items():
            yield pool, address, self._endpoints.used[pool, address], since

    def series_index(self, kind: str, name: str) -> int | None:
        return self._series.used.get((kind, name))
