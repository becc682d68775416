"""The ring behind ring_hash: points of all endpoints around the circle of 64-bit numbers (Karger et al. 1997).

A key belongs to the first point at or after it. Points are found by the upper bits of their position: there are about
as many such buckets as points, so a bucket has one point on average, and neither building nor looking up searches.
"""

from array import array

from libc.stdint cimport int64_t, uint32_t, uint64_t
from lb.shared.hashing cimport tg_mix64

from lb.shared.hashing import hash64_bytes


MAX_POINTS: int = 2**20

# Splitmix64's step from one number of its sequence to the next.
cdef uint64_t STEP = 0x9E3779B97F4A7C15


cdef class Ring:
    """`points` for each unit of weight of the `members`, which are pairs of address and weight (0: none).

    The points of an endpoint depend on its address and weight alone, but for a limit: while there are more than
    MAX_POINTS, all endpoints give up half of theirs. An endpoint is named by its index in `members`. A pure function
    of the set of pairs, whatever the order. Raises ValueError for a negative weight.
    """

    def __init__(self, members: Sequence[tuple[str, int]], points: int) -> None:
        if any(weight < 0 for _, weight in members):
            raise ValueError("a weight is negative")
        # By address, which settles whose point is first where two have one position.
        order = sorted((i for i in range(len(members)) if members[i][1]), key=lambda i: members[i])
        counts = [points * members[i][1] for i in order]
        while sum(counts) > max(MAX_POINTS, len(counts)):
            counts = [max(count // 2, 1) for count in counts]
        self.size = sum(counts)
        # At least one bit: a shift by all 64 is none.
        bits = max((self.size - 1).bit_length(), 1)
        self.shift = 64 - bits
        self.positions = array("Q", bytes(8 * self.size))
        self.owners = array("i", bytes(4 * self.size))
        # Entry b is the first point of bucket b; the last entry ends them all.
        self.starts = array("I", bytes(4 * (2**bits + 1)))
        seeds = array("Q", (hash64_bytes(b"ring:" + members[i][0].encode()) for i in order))
        self.fill(array("i", order), array("i", counts), seeds)

    cdef void fill(self, int[::1] order, int[::1] counts, uint64_t[::1] seeds):
        """Put each point into its bucket, then sort: nearly nothing is left to be moved."""
        cdef uint32_t[::1] starts = self.starts
        cdef int rank, owner, i, at
        cdef int64_t bucket
        cdef uint64_t x, position
        cdef uint32_t total
        for rank in range(len(order)):
            x = seeds[rank]
            for _ in range(counts[rank]):
                x += STEP
                starts[tg_mix64(x) >> self.shift] += 1
        total = 0
        for bucket in range(len(starts)):
            total += starts[bucket]
            starts[bucket] = total
        # Now each entry is its bucket's end, which moves down as the bucket fills: so the last come first.
        for rank in range(len(order) - 1, -1, -1):
            x = seeds[rank]
            for _ in range(counts[rank]):
                x += STEP
                position = tg_mix64(x)
                bucket = position >> self.shift
                starts[bucket] -= 1
                self.positions[starts[bucket]] = position
                self.owners[starts[bucket]] = order[rank]
        for i in range(1, self.size):
            position = self.positions[i]
            owner = self.owners[i]
            at = i
            while at > 0 and self.positions[at - 1] > position:
                self.positions[at] = self.positions[at - 1]
                self.owners[at] = self.owners[at - 1]
                at -= 1
            self.positions[at] = position
            self.owners[at] = owner

    cdef int seek(self, uint64_t key) noexcept:
        """The number of the point that the 64-bit `key` belongs to; -1 when there is none."""
        cdef int at
        if self.size == 0:
            return -1
        at = self.starts[key >> self.shift]
        while at < self.size and self.positions[at] < key:
            at += 1
        return at if at < self.size else 0

    cpdef int owner(self, uint64_t key) noexcept:
        """The index of the endpoint that the 64-bit `key` belongs to; -1 when nobody has a weight."""
        cdef int at = self.seek(key)
        return self.owners[at] if at >= 0 else -1
