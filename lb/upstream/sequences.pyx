"""The open sequences of a pool: see sequences.pxd.

An endpoint that drains, has weight 0, or that a reload has removed goes on serving what it has begun; one that is down
or in maintenance does not. Its sequences are lost and are never moved: the state is there and nowhere else.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from lb.core.atomics cimport tg_load32
from lb.core.hashing cimport tg_mix64
from lb.core.pins cimport PIN_GONE, PIN_NONE, Pins
from lb.core.segment cimport TG_ADMIN_MAINTENANCE, TG_HEALTH_UP, tg_endpoint
from lb.endpoints.set cimport EndpointSet


cdef class Sequences:
    """Of the pool `plan` (PoolPlan with a SequencePlan), whose endpoints are `endpoints`; `leaving` is None, or the
    Sequences of those that the plan no longer names."""

    def __init__(self, plan, EndpointSet endpoints not None, Sequences leaving):
        cdef int i
        self.pins = Pins(endpoints.segment)
        self.endpoints = endpoints
        self.leaving = leaving
        name = b"sequences:" + plan.name.encode()
        self.salt = self.pins.key_of(<const char *> name, <size_t> len(name))
        self.idle = plan.sequence.idle_ns
        self.slots = <uint32_t *> calloc(len(plan.endpoints) + 1, sizeof(uint32_t))
        if self.slots == NULL:
            raise MemoryError
        for i, endpoint in enumerate(plan.endpoints):
            self.slots[i] = endpoint.slot

    def __dealloc__(self):
        free(self.slots)

    cdef uint64_t key_of(self, const char *model, size_t m, const char *version, size_t v, const char *id,
                         size_t n) noexcept nogil:
        cdef uint64_t key = tg_mix64(self.salt ^ self.pins.key_of(model, m))
        key = tg_mix64(key ^ self.pins.key_of(version, v))
        key = tg_mix64(key ^ self.pins.key_of(id, n))
        return key if key else 1

    cdef where find(self, uint64_t key, bint start, uint64_t now, int *index) noexcept nogil:
        cdef int slot = self.pins.find(key, now, self.idle)
        cdef int found = -1
        if slot >= 0:
            found = self.index_of(<uint32_t> slot)
        if start:
            # Begun anew: where its old state is, if that endpoint takes new ones.
            if found < 0 or not self.endpoints.standing_weight(found):
                return SEQUENCE_ANYWHERE
            index[0] = found
            return SEQUENCE_HERE
        if slot == PIN_NONE:
            return SEQUENCE_UNKNOWN
        if found >= 0 and self.serves(found):
            index[0] = found
            return SEQUENCE_HERE
        if slot != PIN_GONE and found < 0 and self.leaving is not None:
            found = self.leaving.index_of(<uint32_t> slot)
            if found >= 0 and self.leaving.serves(found):
                index[0] = found
                return SEQUENCE_LEAVING
        self.lose(key)
        return SEQUENCE_LOST

    cdef void begin(self, uint64_t key, int index, uint64_t now) noexcept nogil:
        self.pins.put(key, self.slots[index], now, self.idle)

    cdef void touch(self, uint64_t key, uint64_t now) noexcept nogil:
        self.pins.touch(key, now, self.idle)

    cdef void end(self, uint64_t key) noexcept nogil:
        self.pins.drop(key)

    cdef void lose(self, uint64_t key) noexcept nogil:
        self.pins.drop(key)
        self.pins.count_lost()

    def place_of(self, bytes model, bytes version, bytes id, uint64_t now):
        """Where a further request of the sequence `id` (digits, where it is a number) would go: ("here" | "leaving",
        address), or ("unknown" | "lost", ""). For people: changes nothing."""
        cdef uint64_t key = self.key_of(<const char *> model, <size_t> len(model), <const char *> version,
                                        <size_t> len(version), <const char *> id, <size_t> len(id))
        cdef int slot = self.pins.look(key, now)
        cdef int found
        if slot == PIN_NONE:
            return "unknown", ""
        if slot >= 0:
            found = self.index_of(<uint32_t> slot)
            if found >= 0 and self.serves(found):
                return "here", self.endpoints.addresses[found]
            if found < 0 and self.leaving is not None:
                found = self.leaving.index_of(<uint32_t> slot)
                if found >= 0 and self.leaving.serves(found):
                    return "leaving", self.leaving.endpoints.addresses[found]
        return "lost", ""

    cdef int index_of(self, uint32_t slot) noexcept nogil:
        cdef int i
        for i in range(self.endpoints.size):
            if self.slots[i] == slot:
                return i
        return -1

    cdef bint serves(self, int index) noexcept nogil:
        cdef const tg_endpoint *record = self.endpoints.records[index]
        return tg_load32(&record.health) == TG_HEALTH_UP and tg_load32(&record.admin) != TG_ADMIN_MAINTENANCE
