"""Copies of inferences for another pool: see mirror.pxd. Their answers are counted and never kept."""

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_reserve
from lb.core.poller cimport Poller, monotonic_ns
from lb.core.segment cimport TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, tg_add
from lb.core.stream cimport iovec
from lb.inference.status cimport http_status
from lb.proxy.mirror cimport MIRROR_ANSWER_LIMIT, Mirror
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_TOO_LARGE
from lb.upstream.grpc_call cimport GrpcCall
from lb.upstream.http2 cimport Http2Channel
from lb.upstream.pool cimport POOL_OIP

cdef enum:
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_UNAVAILABLE = 14


cdef class MirrorInference(GrpcCall):

    def __dealloc__(self):
        tg_buffer_free(&self.request)

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        """Of the answer only its size is taken."""
        self.received += size
        self.messages = 1
        return FAIL_TOO_LARGE if self.received > <size_t>MIRROR_ANSWER_LIMIT else 0

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        # A server that knows the deadline says itself that it was not in time; one that goes away says so too.
        cdef bint answered = status != GRPC_DEADLINE_EXCEEDED and status != GRPC_UNAVAILABLE
        self.mirror.end(self.endpoint, self.started, self.part.iov_len, self.received, answered,
                        http_status(status) < 500, self.charged)

    cdef void on_failed(self, int kind) noexcept:
        cdef uint64_t *words = self.mirror.pool.series[self.endpoint]
        cdef bint answered = kind == FAIL_TOO_LARGE     # the rest is nobody's
        if not answered:
            tg_add(&words[TG_S_CONNECT_ERRORS if kind == FAIL_CONNECT else TG_S_RESPONSE_ERRORS], 1)
        self.mirror.end(self.endpoint, self.started, self.part.iov_len, self.received, answered, answered,
                        self.charged)


cdef void mirror_inference(Mirror mirror, Poller poller, const iovec *parts, int count, size_t size, const char *path,
                           size_t path_length, uint64_t key) noexcept:
    cdef MirrorInference call
    cdef int i, failed
    if mirror.pool.protocol != POOL_OIP or not mirror.wants():
        return
    call = MirrorInference.__new__(MirrorInference)
    call.mirror = mirror
    call.started = monotonic_ns()
    call.endpoint = mirror.begin(size, key, call.started)
    if call.endpoint < 0:
        return
    call.charged = mirror.pool.endpoints.charged
    failed = tg_buffer_reserve(&call.request, size)
    for i in range(count):
        failed |= tg_buffer_append(&call.request, parts[i].iov_base, parts[i].iov_len)
    if failed:
        mirror.end(call.endpoint, call.started, size, 0, False, True, call.charged)
        return
    call.part.iov_base = tg_buffer_head(&call.request)
    call.part.iov_len = size
    call.parts = &call.part
    call.part_count = 1
    call.message_size = size
    if call.call_path(path, path_length) < 0:
        mirror.end(call.endpoint, call.started, size, 0, False, True, call.charged)
        return
    (<Http2Channel>mirror.pool.channels[call.endpoint]).start(call, poller.now + mirror.patience())
