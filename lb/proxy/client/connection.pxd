"""An HTTP/1.1 connection with a client."""

from libc.stdint cimport uint32_t
from lb.http.head cimport Scan
from lb.proxy.client.connection_input cimport ReceivingConnection


cdef class HttpConnection(ReceivingConnection):
    cdef bint fresh                   # nothing has come yet: it may turn out to be HTTP/2
    cdef uint32_t chunk_excess        # bytes of the request's chunks that are neither body nor what a chunk needs

    cdef void keep_bytes(self, const char *data, size_t n) noexcept
    cdef void begin(self, Scan *scan) noexcept
    cdef bint in_excess(self, const Scan *scan, size_t taken) noexcept
    cdef void refuse(self, int status, const char *reason) noexcept
    cdef void refuse_head(self, const char *head) noexcept
    cdef void pass_raw(self, const char *data, size_t n) noexcept
    cdef bint is_http2(self, const char *data, size_t n) noexcept
    # Registers the connection with the poller unless it can do without for now: False then, or if it is closed.
    cdef bint given_up(self) noexcept
    cdef void go_on(self) noexcept
    cdef bint watch(self) noexcept
    cdef void set_timer(self) noexcept
    cdef void begin_pace(self) noexcept
