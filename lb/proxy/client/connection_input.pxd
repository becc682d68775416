"""What a client sends over HTTP/1.1, as it is received: while there is someone to take it, and where it has to be."""

from libc.stdint cimport uint64_t
from lb.proxy.client.connection_end cimport EndingConnection
from lb.proxy.client.body_rate cimport tg_pace


cdef enum:
    OUT_LIMIT = 64 * 1024             # answers that wait for the client, before its next request is taken up


cdef class ReceivingConnection(EndingConnection):
    cdef bint bulk                    # the last read was a large one
    cdef bint head_started            # a request's head has begun to come
    cdef uint64_t head_deadline
    cdef tg_pace pace                 # of the request's body
    cdef uint64_t body_deadline       # for it to be fast enough
    cdef bint skipping                # the request is answered, its body still comes
    cdef uint64_t skip_left           # of that at most

    # For the subclass: bytes that came, and their end.
    cdef void process(self, const char *data, size_t n) noexcept
    cdef void ended(self, bint error) noexcept
    cdef bint takes_input(self) noexcept
    cdef bint accepts_input(self) noexcept
    cdef Py_ssize_t pass_on(self) noexcept
    cdef char *place(self, size_t *room) noexcept
    cdef void watch_record(self) noexcept
