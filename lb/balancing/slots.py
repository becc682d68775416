"""The table behind the maglev policy: 65,537 slots, each owned by one endpoint.

As in Maglev (Eisenbud et al., NSDI 2016, section 3.4) every endpoint has a permutation of all slots, derived from its
address, and claims the slots in that order. But where Maglev's endpoints take turns and skip what is taken, so that
one endpoint fewer shifts the turns of all, here every claim has a time that depends on the claiming endpoint alone,
and a slot belongs to the earliest claim. So the owner of a slot is the first of all endpoints in an order that no
other endpoint has a part in, and removing an endpoint moves its own slots only, exactly. docs/adr has the comparison.

The claims of an endpoint of weight w are as M exponentially distributed arrivals of rate w in their expected places:
the position p of the permutation is claimed at (1/M + 1/(M-1) + ... + 1/(M-p)) / w. The earliest of such clocks is
each one's in proportion to its weight. The permutation is position -> offset + skip * (position + shift)**3 modulo M,
a bijection since 3 does not divide M - 1; Maglev's linear one would leave the orders of two endpoints alike for
unlucky pairs of skips, which its turns make up for and a comparison of claims does not.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cache
from itertools import accumulate

from lb.balancing.bound import Bound
from lb.endpoints.choice import Choice
from lb.shared.hashing import hash64_bytes

SLOTS = 65_537
MAX_MEMBERS = 65_535

_M = SLOTS
_NOBODY = 65_535
_NEVER = 2**64 - 1
# A unit of time in the fixed-point numbers of the table: with the sum of 1/1 to 1/M below 12, 51 bits in all.
_ONE = 2**47


@cache
def _tables() -> tuple[array[int], array[int], array[int]]:
    """Cubes modulo M, their roots, and the times of claims at weight 1: entry p is that just before position p.

    Made with the first table: they take 30 ms.
    """
    cubes = array("I", (x * x * x % SLOTS for x in range(SLOTS)))
    roots = array("I", bytes(4 * SLOTS))
    for x in range(SLOTS):
        roots[cubes[x]] = x
    return cubes, roots, array("Q", accumulate((_ONE // (SLOTS - p) for p in range(SLOTS)), initial=0))


class SlotTable:
    """The owner of each slot among `members`, which are pairs of address and weight (0: owns nothing).

    An endpoint is named by its index in `members`. A pure function of the set of pairs: the same in every process,
    whatever the order. Raises ValueError for more members than MAX_MEMBERS or a negative weight.
    """

    def __init__(self, members: Sequence[tuple[str, int]]) -> None:
        if len(members) > MAX_MEMBERS:
            raise ValueError(f"{len(members)} endpoints are more than a table of {SLOTS} slots can tell apart")
        self.members = tuple(members)
        self.size = len(self.members)
        self.cubes, self.roots, self.times = _tables()
        order = sorted(range(len(members)), key=lambda i: members[i])
        self.order = array("i", order)
        self.weights = array("i", (members[i][1] for i in order))
        if any(weight < 0 for _, weight in members):
            raise ValueError("a weight is negative")
        ranks = [hash64_bytes(b"slot:" + members[i][0].encode()) for i in order]
        shapes = [hash64_bytes(b"shift:" + members[i][0].encode()) for i in order]
        skips = [rank // SLOTS % (SLOTS - 1) + 1 for rank in ranks]
        self.offsets = array("I", (rank % SLOTS for rank in ranks))
        self.skips = array("I", skips)
        self.inverses = array("I", (pow(skip, -1, SLOTS) for skip in skips))
        self.shifts = array("I", (shape % SLOTS for shape in shapes))
        self.phases = array("I", (shape >> 48 for shape in shapes))
        self.owners = array("H", (_NOBODY,)) * SLOTS
        total = sum(weight for _, weight in members)
        if total:
            self.fill(total)

    def fill(self, total: int) -> None:
        """Make everyone's claims up to a horizon, then up to a later one, until every slot has an owner."""
        best = array("Q", (_NEVER,)) * SLOTS
        reached = array("I", bytes(4 * self.size))
        unowned = _M
        # At a time of t/total a slot is unclaimed with probability exp(-t): at 12 there is hardly one.
        horizon = max(12 * _ONE // total, 1)
        while unowned > 0:
            for rank in range(self.size):
                if self.weights[rank] == 0:
                    continue
                position = reached[rank]
                while position < _M:
                    arrival = self.arrival(rank, position)
                    if arrival >= horizon:
                        break
                    slot = self.slot_at(rank, position)
                    if arrival < best[slot]:
                        if self.owners[slot] == _NOBODY:
                            unowned -= 1
                        best[slot] = arrival
                        self.owners[slot] = self.order[rank]
                    position += 1
                reached[rank] = position
            horizon += horizon // 4 + 1

    def arrival(self, rank: int, position: int) -> int:
        # Endpoints of one weight claim the same position at different points of its interval, by their phase.
        before = self.times[position]
        return (before + (((self.times[position + 1] - before) * self.phases[rank]) >> 16)) // self.weights[rank]

    def slot_at(self, rank: int, position: int) -> int:
        cube = self.cubes[(position + self.shifts[rank]) % _M]
        return (self.offsets[rank] + self.skips[rank] * cube) % _M

    def position_of(self, rank: int, slot: int) -> int:
        cube = (slot + _M - self.offsets[rank]) * self.inverses[rank] % _M
        return (self.roots[cube] + _M - self.shifts[rank]) % _M

    def owner(self, key: int) -> int:
        """The index of the endpoint that owns the slot of the 64-bit `key`; -1 when nobody has a weight."""
        owner = self.owners[key % _M]
        return owner if owner != _NOBODY else -1

    def first_available(self, choice: Choice, bound: Bound | None) -> int:
        """The owner of the key's slot if only the available endpoints were members, and of these only those with
        room in `bound`, if there is one; -1 when there is none.

        So an endpoint that is down and one that is removed send their keys to the same endpoints.
        """
        slot = choice.key % _M
        best = -1
        earliest = _NEVER
        for rank in range(self.size):
            index = self.order[rank]
            if self.weights[rank] == 0 or choice.effective_weight(index) == 0:
                continue
            arrival = self.arrival(rank, self.position_of(rank, slot))
            if arrival < earliest and (bound is None or bound.room(index, choice)):
                best, earliest = index, arrival
        return best
