"""Prequal's pool of probes (NSDI 2024, section 4): what endpoints have answered of late about their load.

A worker has one for each pool. An endpoint has one entry at most, its newest: what an older one says is only less true.
An entry is used up after some choices, grows old, or is taken out so that the pool does not fill with what was never
worth choosing.

What an endpoint says to have in flight includes what is there from here, which is known, exactly and at any time. So
what is kept is the rest: what *others* have there. The paper adds one to an entry when it is chosen; here the count of
what is in flight does that, and takes it away again.
"""

from array import array

from libc.stdint cimport uint64_t
from lb.endpoints.set cimport EndpointSet

from lb.balancing.options import ProbeOptions
from lb.shared import seeds

# More requests than any server has in flight.
cdef double MOST_RIF = 1e9


def reuse_budget(pool_size: int, endpoints: int, rate: float, remove: float) -> float:
    """How many choices an entry is good for (b_reuse of the paper, with delta = 1); 0: any number."""
    left = (1 - min(pool_size, endpoints) / endpoints) * rate - remove if endpoints else 0.0
    return max(1.0, 2 / left) if left > 0 else 0.0


cdef class ProbePool:
    """Entries 0 to `count` - 1, in no order. `seed` makes the rounding of budgets repeatable (0: random)."""

    def __init__(self, endpoints: EndpointSet, options: ProbeOptions, seed: int = 0) -> None:
        self.endpoints = endpoints
        self.most = min(options.pool_size, endpoints.size)
        self.max_age = options.max_age
        self.reuse = reuse_budget(options.pool_size, endpoints.size, options.rate, options.remove)
        # Where there is room for all endpoints no entry displaces another.
        self.remove = options.remove if endpoints.size > options.pool_size else 0.0
        self.due = 0.0
        self.by_age = True
        self.state = seed or seeds.draw()
        self.count = 0
        self.index = array("i", bytes(4 * max(self.most, 1)))
        self.others = array("d", bytes(8 * max(self.most, 1)))
        self.latency = array("d", bytes(8 * max(self.most, 1)))
        self.at = array("Q", bytes(8 * max(self.most, 1)))
        self.left = array("i", bytes(4 * max(self.most, 1)))

    cdef void add(self, int index, double rif, double latency_ns, uint64_t now) noexcept:
        """Endpoint `index` has answered: `rif` requests in flight there, and what one takes; 0 ns: it did not say."""
        cdef int entry = 0
        while entry < self.count and self.index[entry] != index:
            entry += 1
        if entry == self.count:
            if self.count == self.most:
                entry = self.oldest()
            else:
                self.count += 1
        self.index[entry] = index
        self.others[entry] = max(min(rif, MOST_RIF) - self.endpoints.running(index), 0.0)
        self.latency[entry] = latency_ns
        self.at[entry] = now
        self.left[entry] = self.budget()

    cdef void expire(self, uint64_t now) noexcept:
        """Takes out what is too old."""
        cdef int entry = 0
        while entry < self.count:
            # Another event may have been later than this one.
            if now > self.at[entry] and now - self.at[entry] > self.max_age:
                self.take_out(entry)
            else:
                entry += 1

    cdef void use(self, int entry) noexcept:
        """The entry was chosen by."""
        if self.reuse > 0:
            self.left[entry] -= 1
            if self.left[entry] <= 0:
                self.take_out(entry)

    cdef bint removal_due(self) noexcept:
        """After a choice: whether another entry is to go. To be asked until it says no."""
        if self.due < 1 or self.count == 0:
            return False
        self.due -= 1
        return True

    cdef int oldest(self) noexcept:
        cdef int found = 0
        cdef int entry
        for entry in range(1, self.count):
            if self.at[entry] < self.at[found]:
                found = entry
        return found

    cdef void take_out(self, int entry) noexcept:
        cdef int last
        self.count -= 1
        last = self.count
        self.index[entry] = self.index[last]
        self.others[entry] = self.others[last]
        self.latency[entry] = self.latency[last]
        self.at[entry] = self.at[last]
        self.left[entry] = self.left[last]

    cdef int budget(self) noexcept:
        """The reuse budget, rounded up or down at random so that its mean is right."""
        cdef int whole = int(self.reuse)
        cdef uint64_t x = self.state
        x ^= x << 13
        x ^= x >> 7
        x ^= x << 17
        self.state = x
        return whole + (1 if (x >> 11) / 9007199254740992.0 < self.reuse - whole else 0)
