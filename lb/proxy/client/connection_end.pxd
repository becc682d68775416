"""How an HTTP/1.1 connection with a client ends."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.http1 cimport Parser
from lb.proxy.client.http1_answer cimport AnsweringConnection


cdef class EndingConnection(AnsweringConnection):
    cdef Parser parser
    cdef tg_buffer inbox              # bytes read and not parsed: a head in parts, or pipelined requests
    cdef bint unread                  # the kernel may hold bytes we did not read
    cdef bint hangup                  # the client closed, or shut down, its side
    cdef bint last_request            # the client said that no request follows the one in progress
    cdef bint last_look               # close after one more read finds nothing
    cdef bint lingering               # our side is shut; reading away what still comes
    cdef bint looked                  # nothing came behind the last request
    cdef uint64_t linger_end          # however much still comes

    # For the subclass: read what there is.
    cdef void read_loop(self) noexcept
    # Whether the connection may be closed as soon as the last answer is with the kernel; looks whether more has come.
    cdef bint over(self) noexcept
    # As `push`, where `closing` and `over` hold: the caller calls `finish` when nothing is left.
    cdef int push_last(self) noexcept
    # The last answer is with the kernel: closes, or lingers first.
    cdef void finish(self) noexcept
    # More has come meanwhile, and is forgotten.
    cdef void read_away(self) noexcept
