"""A Python view of Http1Upstream for tests: an upload whose pieces and moments the test chooses."""

from lb.failure cimport FAIL_NONE
from lb.net.poller cimport Poller
from lb.net.stream cimport IO_ERROR, Address, iovec
from lb.upstream.connections.http1 cimport Http1Call, Http1Pool, Http1Upstream


cdef class UploadProbe(Http1Call):
    """A call that sends what it is told to `address`; `drained` counts how often it heard that all had gone out."""
    cdef Poller poller
    cdef Http1Pool connections
    cdef Http1Upstream upstream
    cdef readonly bint connected
    cdef readonly int drained

    def __init__(self, loop, str address):
        self.poller = Poller(loop)
        self.connections = Http1Pool(self.poller, Address(address), 10**10, 0, 0)
        if self.connections.take(self, True) != FAIL_NONE:
            raise ConnectionError(f"cannot connect to {address}")

    cdef void on_connecting(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream

    cdef void on_connected(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream
        self.connected = True

    cdef void on_drained(self, Http1Upstream upstream) noexcept:
        self.drained += 1

    @property
    def pending(self):
        """Bytes that the kernel has not taken."""
        return self.upstream.pending()

    def send(self, data: bytes):
        """Send what the kernel takes; the rest waits for room. Raises ConnectionError when the connection is gone."""
        cdef iovec part
        part.iov_base = <char *>data
        part.iov_len = len(data)
        if self.upstream.push_parts(&part, 1) == IO_ERROR:
            raise ConnectionError("the endpoint is gone")

    def flush(self):
        """The end of a batch of events."""
        self.upstream.on_flush()

    def close(self):
        self.connections.drop(self.upstream)
        self.poller.close()
