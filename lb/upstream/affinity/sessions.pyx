"""The sessions of a pool that its endpoints make: see sessions.pxd; docs/adr/learned-sessions.md has the reasons."""

from libc.stdint cimport int64_t, uint64_t
from lb.http.head cimport Field, same_name
from lb.shared.affinity_table cimport AFFINITY_NONE, AffinityTable
from lb.http.set_cookie cimport read_set_cookie, trim
from lb.endpoints.set cimport EndpointSet
from lb.upstream.affinity.pool_affinity cimport PoolAffinity, mix_key


cdef class Sessions(PoolAffinity):
    """Of the pool `plan` (PoolPlan with a LearnPlan), whose endpoints are `endpoints`."""

    def __init__(self, plan, EndpointSet endpoints not None):
        learn = plan.learn
        self.header = learn.kind == "header"
        self.name = learn.name.encode()
        self.words = endpoints.segment.series(learn.series)
        self.keep(plan, endpoints, AffinityTable(endpoints.segment, True),
                  f"{plan.name}\0{learn.kind}\0{learn.name}".encode(), learn.idle_ns)

    cdef uint64_t key_of(self, const char *text, size_t n) noexcept nogil:
        return mix_key(self.table, self.salt, text, n)

    cdef bint find(self, uint64_t key, uint64_t now, int *index) noexcept nogil:
        cdef int slot = self.table.find(key, now, self.idle)
        index[0] = self.index_of(slot)
        return slot != AFFINITY_NONE

    cdef said read_answer(self, const Field *fields, int count, uint64_t now, uint64_t *key) noexcept:
        cdef const char *name = <const char *>self.name
        cdef size_t n = <size_t>len(self.name), size = 0
        cdef const char *value = NULL
        cdef said found = SAID_NOTHING
        cdef bint ended = False
        cdef int i
        for i in range(count):                # of several the last counts, as in browsers
            if self.header:
                if fields[i].name_length != n or not same_name(fields[i].name, n, name):
                    continue
                value, size = fields[i].value, fields[i].value_length
                trim(&value, &size)
                ended = size == 0
            elif (fields[i].name_length != 10 or not same_name(fields[i].name, 10, b"set-cookie")
                    or not read_set_cookie(fields[i].value, fields[i].value_length, name, n, <int64_t>now, &value,
                                           &size, &ended)):
                continue
            found = SAID_ENDED if ended else SAID_SESSION
            key[0] = self.key_of(value, size)
        return found

    def look(self, bytes text not None, uint64_t now):
        """For who only asks: whether the session `text` is known, and its endpoint's index in the pool, -1 where that
        has left. It does not count as a use."""
        cdef int slot = self.table.look(self.key_of(<const char *>text, <size_t>len(text)), now)
        return slot != AFFINITY_NONE, self.index_of(slot)
