"""Stick tables as the master sees them: where each is in the segment, what it has counted, and commands on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from lb.clock import Clock
from lb.config.plan.tables import COUNTERS, FIELDS, MOST_SETS, MOST_TABLES, WAYS, TablePlace, TablePlan, sets_of
from lb.config.schema.tables import TableConfig, meaning_of, shape_of, table_plan
from lb.config.values import spelled
from lb.control.kept_tables import KeptTable, TablesBefore, definition_of
from lb.control.upgrade.handover import SharedTableHandover
from lb.errors import ConfigError, StartError
from lb.shared.segment import Segment
from lb.shared.stick_succession import StickSuccession
from lb.shared.stick_tables import StickTable
from lb.shared.stick_updates import StickUpdates

log = logging.getLogger("tidegate.tables")

_LINGER = 10_000_000_000  # ns for which the place of a table that is gone is nobody's
_LEAST_SETS = 4096  # of a segment: room for tables that a reload brings


def stick_sets(tables: Mapping[str, TableConfig]) -> int:
    """Sets of a segment for `tables`, with room for each to be replaced by another of its size: a power of two."""
    wanted = min(2 * sum(sets_of(table.size) for table in tables.values()), MOST_SETS)
    return 1 << (max(wanted, _LEAST_SETS) - 1).bit_length()


Holds = Callable[[dict[str, int]], bool]


def _rows(table: StickTable, key: str | None, holds: Holds | None) -> list[tuple[bytes, int, dict[str, int]]]:
    rows = table.rows(None if key is None else key.encode())
    return rows if holds is None else [row for row in rows if holds(row[2])]


class _Placed(Struct, frozen=True):
    place: TablePlace
    shape: str
    meaning: str  # what has to be the same in a peer; "" = it is not shared
    kept: KeptTable


class SharedTable(Struct, frozen=True):
    """A table that counts together with those of other daemons."""

    name: str
    meaning: str
    expire_ns: int
    updates: StickUpdates
    before: SharedTableHandover | None  # of the program with whose counts it goes on


class TableKeeper:
    """Of the tables of `segment`. A table whose shape stays keeps its place, and so its counts, over reloads; the place
    of one that is gone is given to others once no request holds an entry there. The first tables go on with those of
    `before`, which it closes, shared ones only with what that program knew of their peers."""

    def __init__(
        self,
        segment: Segment,
        clock: Clock,
        before: TablesBefore | None = None,
        handed: Iterable[SharedTableHandover] = (),
    ) -> None:
        self._segment = segment
        self._clock = clock
        self._held: dict[str, _Placed] = {}
        self._wanted: dict[str, _Placed] = {}  # by the transaction under way
        self._resting: list[tuple[TablePlace, int]] = []  # since when
        self._tables: dict[str, StickTable] = {}  # of the plan in force
        self._plans: dict[str, TablePlan] = {}
        self._updates: dict[str, tuple[TablePlace, StickUpdates]] = {}  # of those that are shared
        self._before = before
        self._successions: dict[str, tuple[TablePlace, StickSuccession]] = {}
        self._handed = {each.table: each for each in handed}
        self._continued: dict[str, SharedTableHandover] = {}  # shared tables that go on

    # Places, in a transaction that ends with `commit` or `rollback`.

    def places(self, tables: Mapping[str, TableConfig]) -> dict[str, TablePlace]:
        """The places of `tables`. Raises StartError where the segment has no room for one."""
        self._wanted = {}
        self._reclaim()
        shapes = {name: shape_of(table) for name, table in tables.items()}
        for name, shape in shapes.items():
            held = self._held.get(name)
            if held is not None and held.shape == shape:
                self._wanted[name] = held
        for name, table in tables.items():
            if name not in self._wanted:
                place = self._free(name, table)
                meaning = meaning_of(table) if table.shared else ""
                kept = KeptTable(name, definition_of(table), place)
                self._wanted[name] = _Placed(place, shapes[name], meaning, kept)
                made = StickTable(self._segment, table_plan(name, table, place))
                made.wipe()
                self._go_on(name, table, made, place)
        return {name: self._wanted[name].place for name in tables}

    def _go_on(self, name: str, config: TableConfig, table: StickTable, place: TablePlace) -> None:
        """With what was counted before the daemon began, in its first transaction."""
        if self._before is None or self._held:
            return
        if config.shared and name not in self._handed:  # its peers would count it twice
            log.info("tables.%s begins with what its peers have", name)
            return
        succession = self._before.succession(name, config, table)
        if succession is not None:
            log.info("tables.%s goes on with the counts of %d keys", name, succession.bring())
            self._successions[name] = place, succession

    def bring(self, everything: bool = False) -> None:
        """Adds what workers of the program before have counted since the last time: see StickSuccession."""
        for _, succession in self._successions.values():
            succession.bring(everything)

    async def bring_in_parts(self) -> None:
        """The same, while others have their turns in between."""
        for name in list(self._successions):
            part = 0
            while name in self._successions and part < self._successions[name][1].parts:
                self._successions[name][1].bring(part=part)
                part += 1
                await asyncio.sleep(0)

    def let_go(self) -> None:
        """No worker of the program before is left: what they counted last is added."""
        self.bring(everything=True)
        self._successions = {}
        if self._before is not None:
            self._before.close()
            self._before = None

    @property
    def kept(self) -> list[KeptTable]:
        """The tables in force, for the next program."""
        return [placed.kept for placed in self._held.values()]

    def commit(self, plans: Iterable[TablePlan]) -> None:
        """The plan with `plans` is in force everywhere."""
        self._rest(self._held, self._wanted)
        self._held, self._wanted = self._wanted, {}
        placed = {name: each.place for name, each in self._held.items()}
        self._successions = {name: each for name, each in self._successions.items() if placed.get(name) == each[0]}
        self._plans = {plan.name: plan for plan in plans}
        self._tables = {name: StickTable(self._segment, plan) for name, plan in self._plans.items()}
        self._updates = {
            name: self._updates_of(name, placed.place) for name, placed in self._held.items() if placed.meaning
        }
        self._handed = {}

    def _updates_of(self, name: str, place: TablePlace) -> tuple[TablePlace, StickUpdates]:
        known, updates = self._updates.get(name, (None, None))
        if updates is None or known != place:
            updates = StickUpdates(self._tables[name])
            self._continued.pop(name, None)
            if name in self._handed and name in self._successions:
                self._continued[name] = self._handed[name]
                updates.load(self._handed[name].known)
            return place, updates
        updates.follow(self._tables[name])
        return place, updates

    def rollback(self) -> None:
        """The places of before stay; those that are new may be known to a worker for a moment."""
        self._rest(self._wanted, self._held)
        self._wanted = {}

    def _rest(self, gone: Mapping[str, _Placed], kept: Mapping[str, _Placed]) -> None:
        still = {placed.place for placed in kept.values()}
        now = self._clock.now()
        self._resting += [(placed.place, now) for placed in gone.values() if placed.place not in still]

    def _reclaim(self) -> None:
        now = self._clock.now()
        self._resting = [
            (place, since) for place, since in self._resting if now - since < _LINGER or self._at(place).busy()
        ]

    def _at(self, place: TablePlace) -> StickTable:
        plan = TablePlan("", "", 0, 0, 1, (), (0,) * 6, place)
        return StickTable(self._segment, plan)

    def _free(self, name: str, table: TableConfig) -> TablePlace:
        taken = [placed.place for placed in (*self._held.values(), *self._wanted.values())]
        taken = sorted({*taken, *(place for place, _ in self._resting)}, key=lambda place: place.first)
        numbers = {*range(MOST_TABLES)} - {place.number for place in taken}
        wanted, first = sets_of(table.size), 0
        for place in taken:
            if first + wanted <= place.first:
                break
            first = max(first, place.first + place.sets)
        if not numbers or first + wanted > self._segment.stick_sets:
            room = self._segment.stick_sets * WAYS
            raise StartError(
                f"tables.{name}: the shared memory has room for {room} keys of all tables until a restart, those of "
                "tables that were just removed included"
            )
        return TablePlace(min(numbers), first, wanted)

    def shared(self) -> list[SharedTable]:
        """The tables in force that are shared with other daemons."""
        return [
            SharedTable(name, self._held[name].meaning, self._plans[name].expire_ns, updates, self._continued.get(name))
            for name, (_, updates) in self._updates.items()
        ]

    # What operators see and do.

    def status(self) -> list[dict[str, Any]]:
        """Of each table what it is, and how many entries were lost; without a look at its entries."""
        return [
            {
                "name": name,
                "key": spelled(self._plans[name].key),
                "capacity": table.capacity,
                "evicted": table.losses[0],
                "refused": table.losses[1],
                "store": [FIELDS[field] for field in self._plans[name].stored],
                "shared": name in self._updates,
            }
            for name, table in self._tables.items()
        ]

    def entries(self, name: str, key: str | None = None, holds: Holds | None = None) -> list[dict[str, Any]]:
        """The entries of a table, or that of `key`, for which `holds` is true of their values, those first that were
        used last. Raises ConfigError where there is no such table."""
        table, expire = self._table(name), self._plans[name].expire_ns
        found = [
            {
                "key": text.decode("utf-8", "backslashreplace"),
                "idle_s": round(idle / 1e9, 3),
                "expires_in_s": round(max(0, expire - idle) / 1e9, 3),
                **values,
            }
            for text, idle, values in _rows(table, key, holds)
        ]
        return sorted(found, key=lambda row: float(row["idle_s"]))

    def clear(self, name: str, key: str | None = None, holds: Holds | None = None) -> int:
        """Forgets entries, as `entries` finds them; how many there were. Raises ConfigError."""
        table = self._table(name)
        return sum(table.clear(text) for text, _, _ in _rows(table, key, holds))

    def put(self, name: str, key: str, values: dict[str, int]) -> None:
        """Sets what is counted of a key. Raises ConfigError where that cannot be done."""
        try:
            if not self._table(name).put(key.encode(), values):
                raise ConfigError([f"table {name}: all entries that {key} could have are in use"])
            if name in self._updates and values.keys() & {*COUNTERS}:
                self._updates[name][1].settle(key.encode())
        except ValueError as error:
            raise ConfigError([str(error)]) from None

    def _table(self, name: str) -> StickTable:
        table = self._tables.get(name)
        if table is None:
            known = ", ".join(self._tables) or "none"
            raise ConfigError([f"there is no table {name!r}; there are: {known}"])
        return table
