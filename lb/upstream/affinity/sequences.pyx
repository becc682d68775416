"""The open sequences of a pool: see sequences.pxd.

An endpoint that drains, has weight 0, or that a reload has removed goes on serving what it has begun; one that is down
or in maintenance does not. Its sequences are lost and are never moved: the state is there and nowhere else.
"""

from libc.stdint cimport uint64_t
from lb.shared.affinity_table cimport AFFINITY_GONE, AFFINITY_NONE, AffinityTable
from lb.shared.records cimport carries_on
from lb.endpoints.set cimport EndpointSet
from lb.upstream.affinity.pool_affinity cimport PoolAffinity, mix_key

cdef const char *TEXT = b"text"


cdef class Sequences(PoolAffinity):
    """Of the pool `plan` (PoolPlan with a SequencePlan), whose endpoints are `endpoints`; `leaving` is None, or the
    Sequences of those that the plan no longer names."""

    def __init__(self, plan, EndpointSet endpoints not None, Sequences leaving):
        self.leaving = leaving
        self.keep(plan, endpoints, AffinityTable(endpoints.segment), b"sequences:" + plan.name.encode(),
                  plan.sequence.idle_ns)

    cdef uint64_t key_of(self, const char *model, size_t m, const char *version, size_t v, const char *id,
                         size_t n, bint text) noexcept nogil:
        cdef uint64_t key = mix_key(self.table, self.salt, model, m)
        key = mix_key(self.table, key, version, v)
        if text:
            key = mix_key(self.table, key, TEXT, 4)
        return mix_key(self.table, key, id, n)

    cdef where find(self, uint64_t key, bint start, uint64_t now, int *index) noexcept nogil:
        cdef int slot = self.table.find(key, now, self.idle)
        cdef int found = self.index_of(slot)
        if start:
            # Begun anew: where its old state is, if that endpoint takes new ones.
            if found < 0 or not self.endpoints.state_weight(found):
                return SEQUENCE_ANYWHERE
            index[0] = found
            return SEQUENCE_HERE
        if slot == AFFINITY_NONE:
            return SEQUENCE_UNKNOWN
        if found >= 0 and self.serves(found):
            index[0] = found
            return SEQUENCE_HERE
        if slot != AFFINITY_GONE and found < 0 and self.leaving is not None:
            found = self.leaving.index_of(slot)
            if found >= 0 and self.leaving.serves(found):
                index[0] = found
                return SEQUENCE_LEAVING
        self.lose(key)
        return SEQUENCE_LOST

    cdef void lose(self, uint64_t key) noexcept nogil:
        self.table.drop(key)
        self.table.count_lost()

    def place_of(self, bytes model, bytes version, bytes id, uint64_t now):
        """Where a further request of the sequence `id` would go: ("here" | "leaving", address), or ("unknown" | "lost",
        ""). Digits are a number, or a text where no such number is open. For people: changes nothing."""
        cdef bint text = not id.isdigit()
        cdef int slot = look(self, model, version, id, text, now)
        cdef int found
        if slot == AFFINITY_NONE and not text:
            slot = look(self, model, version, id, True, now)
        if slot == AFFINITY_NONE:
            return "unknown", ""
        if slot >= 0:
            found = self.index_of(slot)
            if found >= 0 and self.serves(found):
                return "here", self.endpoints.addresses[found]
            if found < 0 and self.leaving is not None:
                found = self.leaving.index_of(slot)
                if found >= 0 and self.leaving.serves(found):
                    return "leaving", self.leaving.endpoints.addresses[found]
        return "lost", ""

    cdef bint serves(self, int index) noexcept nogil:
        return carries_on(self.endpoints.records[index])


cdef int look(Sequences sequences, bytes model, bytes version, bytes id, bint text, uint64_t now) noexcept:
    return sequences.table.look(sequences.key_of(
        <const char *> model, <size_t> len(model), <const char *> version, <size_t> len(version), <const char *> id,
        <size_t> len(id), text), now)
