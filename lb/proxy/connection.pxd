"""An HTTP/1.1 connection with a client."""

from libc.stdint cimport uint32_t, uint64_t
from lb.core.buffer cimport tg_buffer
from lb.core.head cimport Scan
from lb.core.http1 cimport Parser
from lb.proxy.http1_answer cimport AnsweringConnection
from lb.proxy.pace cimport tg_pace


cdef class HttpConnection(AnsweringConnection):
    cdef Parser parser
    cdef tg_buffer inbox              # bytes read and not parsed: a head in parts, or pipelined requests
    cdef bint fresh                   # nothing has come yet: it may turn out to be HTTP/2
    cdef bint last_look               # close after one more read finds nothing
    cdef bint lingering               # our side is shut; reading away what still comes
    cdef bint unread                  # the kernel may hold bytes we did not read
    cdef bint hangup                  # the client closed, or shut down, its side
    cdef bint head_started            # a request's head has begun to come
    cdef uint64_t head_deadline
    cdef uint32_t chunk_excess        # bytes of the request's chunks that are neither body nor what a chunk needs
    cdef tg_pace pace                 # of the request's body
    cdef uint64_t body_deadline       # for it to be fast enough
    cdef size_t lingered

    cdef void read_loop(self) noexcept
    cdef void process(self, const char *data, size_t n) noexcept
    cdef void keep_bytes(self, const char *data, size_t n) noexcept
    cdef void begin(self, Scan *scan) noexcept
    cdef bint in_excess(self, const Scan *scan, size_t taken) noexcept
    cdef void refuse(self, int status, const char *reason) noexcept
    cdef void refuse_head(self, const char *head) noexcept
    cdef void pass_raw(self, const char *data, size_t n) noexcept
    cdef bint is_http2(self, const char *data, size_t n) noexcept
    cdef void linger(self) noexcept
    cdef void ended(self, bint error) noexcept
    cdef void watch_record(self) noexcept
    cdef void set_timer(self) noexcept
    cdef bint takes_input(self) noexcept
    cdef bint accepts_input(self) noexcept
    cdef void begin_pace(self) noexcept
