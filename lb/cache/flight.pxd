"""Single flight: concurrent identical misses of one worker become one request."""


cdef class Flights:
    cdef dict flights  # key -> {id(waiter): waiter} in the order they came

    cpdef bint join(self, bytes key, waiter) except -1
    cpdef list finish(self, bytes key)
    cpdef object promote(self, bytes key)
    cpdef object followers_of(self, bytes key)
    cpdef void leave(self, bytes key, waiter) except *
