"""An HTTP/1.1 connection with a client."""

from libc.stdint cimport uint32_t, uint64_t
from lb.core.head cimport Scan
from lb.proxy.connection_end cimport EndingConnection
from lb.proxy.pace cimport tg_pace


cdef class HttpConnection(EndingConnection):
    cdef bint fresh                   # nothing has come yet: it may turn out to be HTTP/2
    cdef bint bulk                    # the last read was a large one
    cdef bint head_started            # a request's head has begun to come
    cdef uint64_t head_deadline
    cdef uint32_t chunk_excess        # bytes of the request's chunks that are neither body nor what a chunk needs
    cdef tg_pace pace                 # of the request's body
    cdef uint64_t body_deadline       # for it to be fast enough

    cdef Py_ssize_t pass_on(self) noexcept
    cdef char *place(self, size_t *room) noexcept
    cdef void process(self, const char *data, size_t n) noexcept
    cdef void keep_bytes(self, const char *data, size_t n) noexcept
    cdef void begin(self, Scan *scan) noexcept
    cdef bint in_excess(self, const Scan *scan, size_t taken) noexcept
    cdef void refuse(self, int status, const char *reason) noexcept
    cdef void refuse_head(self, const char *head) noexcept
    cdef void pass_raw(self, const char *data, size_t n) noexcept
    cdef bint is_http2(self, const char *data, size_t n) noexcept
    cdef void ended(self, bint error) noexcept
    cdef void watch_record(self) noexcept
    # Registers the connection with the poller unless it can do without for now: False then, or if it is closed.
    cdef bint watch(self) noexcept
    cdef void set_timer(self) noexcept
    cdef bint takes_input(self) noexcept
    cdef bint accepts_input(self) noexcept
    cdef void begin_pace(self) noexcept
