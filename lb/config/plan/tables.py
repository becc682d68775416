"""Of the plan, the stick tables: what they count, by which key, and where they are in the shared segment."""

from __future__ import annotations

from msgspec import Struct

COUNTERS = ("requests", "errors", "failures", "bytes_in", "bytes_out", "gpc0")
"""What an entry counts, in the order of lb/shared/segment.h."""

RATES = ("request_rate", "error_rate", "failure_rate", "bytes_in_rate", "bytes_out_rate", "gpc0_rate")
"""How much each counter has grown in the last window, in the same order."""

FIELDS = (*COUNTERS, *RATES, "concurrent", "gpt0")
"""What an entry has. `lb.shared.stick_tables` numbers them in this order."""

WAYS = 4  # entries of a set that a table's size counts on; a set has room for seven
MOST_SETS = 1 << 20  # of all tables
MOST_TABLES = 32


class TablePlace(Struct, frozen=True):
    """Where a table is in the shared segment."""

    number: int  # of its counters of losses
    first: int  # set
    sets: int


class TablePlan(Struct, frozen=True):
    """A table of the file's section `tables`."""

    name: str
    key: str  # a text of what is counted together
    ipv4_prefix: int  # bits that count of a key that is an address; 0 = it is none
    ipv6_prefix: int
    expire_ns: int
    stored: tuple[int, ...]  # indices into FIELDS
    windows: tuple[int, ...]  # of each of RATES, ns; 0 = not counted
    place: TablePlace
    digest: str = ""  # of all of it: another one tells workers that routes with it are new


class ComparisonPlan(Struct, frozen=True):
    """A condition on an entry: of a key without one everything is 0."""

    table: str
    field: int  # index into FIELDS
    how: str  # above | below | exact
    number: int


class TableRulePlan(Struct, frozen=True):
    """What becomes of a request for which all of `when` hold."""

    when: tuple[ComparisonPlan, ...]
    deny: int = 0  # status; 0 = it goes on
    tarpit_ns: int = 0  # how long the refusal takes
    set_gpt0: tuple[tuple[str, int], ...] = ()  # tables
    add_gpc0: tuple[str, ...] = ()


def sets_of(size: int) -> int:
    """Sets of a table for `size` entries."""
    return -(-size // WAYS)
