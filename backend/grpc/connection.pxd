"""A connection of a client: a socket, and the session on it."""

from libc.stdint cimport uint64_t
from backend.grpc.call cimport GrpcSession
from backend.grpc.front cimport Front
from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport Stream


# How far a connection is from its end. The table of steps is in connection.pyx.
cdef enum:
    CONNECTION_OPEN = 0
    CONNECTION_WARNED                 # leaving: the client was asked to go, and its new calls are still taken
    CONNECTION_STOPPED                # leaving: no new calls are taken
    CONNECTION_LAST                   # the session is over: the connection closes when all is written
    CONNECTION_CLOSED


cdef class Connection(Stream):
    cdef unsigned char state          # CONNECTION_…, changed by `move`
    cdef Front front
    cdef GrpcSession session
    cdef tg_buffer inbox              # what was received and waits for another turn
    cdef bint unread                  # the kernel may hold bytes that were not read
    cdef bint hangup
    cdef int frames                   # to guess of a large message: fewer where others came between
    cdef uint64_t stop_at             # CONNECTION_WARNED: when no more calls are taken
    cdef uint64_t stalled_at          # when the client is too slow to take what is written; 0 = nothing waits

    cdef void move(self, int state) noexcept
    cdef void read_loop(self) noexcept
    cdef bint take(self, const char *data, size_t n) noexcept
    cdef bint take_parts(self, size_t n) noexcept
    cdef bint keep_parts(self, int first, size_t n) noexcept
    cdef size_t waiting(self) noexcept
    cdef int write_out(self) noexcept
    cdef void set_timer(self) noexcept
    cdef void close_now(self) noexcept


# A connection that turned out to be HTTP/2: `old` gives up its descriptor; `data` is what came on it, preface first. 0,
# or -1: it stays with `old`.
cdef int take_over(Stream old, Front front, const char *data, size_t size) noexcept
