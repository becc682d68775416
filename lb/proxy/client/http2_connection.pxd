"""An HTTP/2 connection with a client: socket and session; its requests are Http2Requests."""

cimport cython
from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.proxy.exchange.admission cimport Admission
from lb.proxy.client.client cimport Client
from lb.proxy.client.http2_request cimport Http2Host


# How far a connection is from its end. The table of steps is in http2_connection.pyx.
cdef enum:
    FRONT_OPEN = 0
    FRONT_WARNED                      # leaving: the client has been warned, and its new streams are still taken
    FRONT_STOPPED                     # leaving: no new streams are taken
    FRONT_LAST                        # the session is over: the connection closes when all is written
    FRONT_CLOSED


@cython.final
cdef class Http2Connection(Client):
    cdef unsigned char state          # FRONT_…, changed by `move`
    cdef Admission admission
    cdef Http2Host host
    cdef tg_buffer inbox              # what was received and waits for another turn
    cdef bint unread                  # the kernel may hold bytes we did not read
    cdef bint hangup                  # the client closed, or shut down, its side
    cdef uint64_t age_limit           # when it has to leave; NEVER = no such limit
    cdef uint64_t stop_at             # FRONT_WARNED: when the last word is said
    cdef uint64_t stalled_at          # when the client is too slow to take what is written; 0 = nothing waits
    cdef uint64_t block_at            # when a header block that has begun must have ended; 0 = there is none
    cdef uint64_t idle_at             # when it has been without a request for too long; 0 = it has some

    cdef void move(self, int state) noexcept
    cdef void read_loop(self) noexcept
    cdef bint take(self, const char *data, size_t n) noexcept
    cdef bint keep(self, const char *data, size_t n, size_t left) noexcept
    # Bytes that wait for the client.
    cdef size_t waiting(self) noexcept
    cdef int write_out(self) noexcept
    cdef void leave(self) noexcept
    cdef void stop(self) noexcept
    cdef void close_now(self) noexcept
    cdef void set_timer(self) noexcept


# A connection that turned out to be HTTP/2: `old` gives up its descriptor; `data` is what came on it, preface first.
cdef void take_over(Client old, Admission admission, const char *data, size_t n) noexcept
