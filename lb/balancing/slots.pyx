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

from array import array
from functools import cache
from itertools import accumulate

from libc.stdint cimport uint32_t, uint64_t
from lb.balancing.bound cimport Bound
from lb.endpoints.choice cimport Choice

from lb.shared.hashing import hash64_bytes

SLOTS: int = 65_537
MAX_MEMBERS: int = 65_535

cdef uint64_t M = SLOTS
cdef int NOBODY = 65_535
cdef uint64_t NEVER = 2**64 - 1
# A unit of time in the fixed-point numbers of the table: with the sum of 1/1 to 1/M below 12, 51 bits in all.
cdef object ONE = 2**47


@cache
def _tables() -> tuple[array[int], array[int], array[int]]:
    """Cubes modulo M, their roots, and the times of claims at weight 1: entry p is that just before position p.

    Made with the first table: they take 30 ms.
    """
    cubes = array("I", (x * x * x % SLOTS for x in range(SLOTS)))
    roots = array("I", bytes(4 * SLOTS))
    for x in range(SLOTS):
        roots[cubes[x]] = x
    return cubes, roots, array("Q", accumulate((ONE // (SLOTS - p) for p in range(SLOTS)), initial=0))


cdef class SlotTable:
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
        self.owners = array("H", (NOBODY,)) * SLOTS
        total = sum(weight for _, weight in members)
        if total:
            self.fill(total)

    cdef void fill(self, uint64_t total):
        """Make everyone's claims up to a horizon, then up to a later one, until every slot has an owner."""
        cdef uint64_t[::1] best = array("Q", (NEVER,)) * SLOTS
        cdef uint32_t[::1] reached = array("I", bytes(4 * self.size))
        cdef int unowned = M
        cdef int rank
        cdef uint32_t slot, position
        cdef uint64_t horizon, arrival
        # At a time of t/total a slot is unclaimed with probability exp(-t): at 12 there is hardly one.
        horizon = max(12 * ONE // total, 1)
        while unowned > 0:
            for rank in range(self.size):
                if self.weights[rank] == 0:
                    continue
                position = reached[rank]
                while position < M:
                    arrival = self.arrival(rank, position)
                    if arrival >= horizon:
                        break
                    slot = self.slot_at(rank, position)
                    if arrival < best[slot]:
                        if self.owners[slot] == NOBODY:
                            unowned -= 1
                        best[slot] = arrival
                        self.owners[slot] = self.order[rank]
                    position += 1
                reached[rank] = position
            horizon += horizon // 4 + 1

    cdef uint64_t arrival(self, int rank, uint32_t position) noexcept:
        cdef uint64_t before
        # Endpoints of one weight claim the same position at different points of its interval, by their phase.
        before = self.times[position]
        return (before + (((self.times[position + 1] - before) * self.phases[rank]) >> 16)) // self.weights[rank]

    cdef uint32_t slot_at(self, int rank, uint32_t position) noexcept:
        cdef uint64_t cube = self.cubes[(position + self.shifts[rank]) % M]
        return (self.offsets[rank] + self.skips[rank] * cube) % M

    cdef uint32_t position_of(self, int rank, uint32_t slot) noexcept:
        cdef uint64_t cube = (slot + M - self.offsets[rank]) * self.inverses[rank] % M
        return (self.roots[cube] + M - self.shifts[rank]) % M

    cpdef int owner(self, uint64_t key) noexcept:
        """The index of the endpoint that owns the slot of the 64-bit `key`; -1 when nobody has a weight."""
        cdef int owner = self.owners[key % M]
        return owner if owner != NOBODY else -1

    cdef int first_available(self, Choice choice, Bound bound) noexcept:
        """The owner of the key's slot if only the available endpoints were members, and of these only those with
        room in `bound`, if there is one; -1 when there is none.

        So an endpoint that is down and one that is removed send their keys to the same endpoints.
        """
        cdef uint32_t slot = choice.key % M
        cdef int best = -1
        cdef uint64_t earliest = NEVER
        cdef int rank, index
        cdef uint64_t arrival
        for rank in range(self.size):
            index = self.order[rank]
            if self.weights[rank] == 0 or choice.effective_weight(index) == 0:
                continue
            arrival = self.arrival(rank, self.position_of(rank, slot))
            if arrival < earliest and (bound is None or bound.room(index, choice)):
                best, earliest = index, arrival
        return best
