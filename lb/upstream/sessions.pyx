"""The sessions of a pool that its endpoints make: see sessions.pxd; docs/adr/learned-sessions.md has the reasons."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from lb.core.hashing cimport tg_mix64
from lb.core.head cimport Field, same_name
from lb.core.pins cimport PIN_NONE, Pins
from lb.core.set_cookie cimport read_set_cookie, trim
from lb.endpoints.set cimport EndpointSet


cdef class Sessions:
    """Of the pool `plan` (PoolPlan with a LearnPlan), whose endpoints are `endpoints`."""

    def __init__(self, plan, EndpointSet endpoints not None):
        cdef int i
        learn = plan.learn
        self.pins = Pins(endpoints.segment, True)
        self.endpoints = endpoints
        self.header = learn.kind == "header"
        self.name = learn.name.encode()
        scope = f"{plan.name}\0{learn.kind}\0{learn.name}".encode()
        self.salt = self.pins.key_of(<const char *>scope, <size_t>len(scope))
        self.idle = learn.idle_ns
        self.words = endpoints.segment.series(learn.series)
        self.slots = <uint32_t *>calloc(len(plan.endpoints) + 1, sizeof(uint32_t))
        if self.slots == NULL:
            raise MemoryError
        for i, endpoint in enumerate(plan.endpoints):
            self.slots[i] = endpoint.slot

    def __dealloc__(self):
        free(self.slots)

    cdef uint64_t key_of(self, const char *text, size_t n) noexcept nogil:
        cdef uint64_t key = tg_mix64(self.salt ^ self.pins.key_of(text, n))
        return key if key else 1

    cdef bint find(self, uint64_t key, uint64_t now, int *index) noexcept nogil:
        cdef int slot = self.pins.find(key, now, self.idle)
        index[0] = self.index_of(slot)
        return slot != PIN_NONE

    cdef void put(self, uint64_t key, int index, uint64_t now) noexcept nogil:
        self.pins.put(key, self.slots[index], now, self.idle)

    cdef void touch(self, uint64_t key, uint64_t now) noexcept nogil:
        self.pins.touch(key, now, self.idle)

    cdef void drop(self, uint64_t key) noexcept nogil:
        self.pins.drop(key)

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

    cdef int index_of(self, int slot) noexcept nogil:
        cdef int i
        if slot >= 0:
            for i in range(self.endpoints.size):
                if self.slots[i] == <uint32_t>slot:
                    return i
        return -1

    def look(self, bytes text not None, uint64_t now):
        """For who only asks: whether the session `text` is known, and its endpoint's index in the pool, -1 where that
        has left. It does not count as a use."""
        cdef int slot = self.pins.look(self.key_of(<const char *>text, <size_t>len(text)), now)
        return slot != PIN_NONE, self.index_of(slot)
