"""Copies of inferences for another pool: see mirror.pxd. Their answers are counted and never kept."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_reserve
from lb.net.poller cimport Poller, monotonic_ns
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport ENDPOINT_CONNECT_ERRORS, ENDPOINT_RESPONSE_ERRORS, ENDPOINT_TIMEOUTS
from lb.net.stream cimport iovec
from lb.http.grpc.http_status cimport http_status
from lb.proxy.exchange.mirror.mirror cimport MIRROR_ANSWER_LIMIT, Mirror, mirror_counts
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_TIMEOUT, FAIL_TOO_LARGE
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.load.outlier cimport VERDICT_GATEWAY, VERDICT_GOOD, verdict_of_grpc
from lb.upstream.pool cimport POOL_OIP

cdef enum:
    GRPC_CANCELLED = 1
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
        # CANCELLED, which nobody asked for, is of a model server that goes away.
        self.ended(http_status(status), status, answered,
                   VERDICT_GATEWAY if status == GRPC_CANCELLED else verdict_of_grpc(status))

    cdef void on_failed(self, int kind) noexcept:
        cdef uint64_t *words = self.mirror.pool.series[self.endpoint]
        if kind == FAIL_TOO_LARGE and self.received:           # the rest is nobody's, its gRPC status included
            self.ended(200, -1, True, VERDICT_GOOD)
        elif kind == FAIL_TIMEOUT:
            tg_add(&words[ENDPOINT_TIMEOUTS], 1)
            self.ended(504, GRPC_DEADLINE_EXCEEDED, False, VERDICT_GATEWAY)
        else:
            tg_add(&words[ENDPOINT_CONNECT_ERRORS if kind == FAIL_CONNECT else ENDPOINT_RESPONSE_ERRORS], 1)
            self.ended(502, GRPC_UNAVAILABLE, False, VERDICT_GATEWAY)

    cdef void ended(self, int status, int code, bint answered, int verdict) noexcept:
        self.mirror.end(self, self.part.iov_len, self.received, status, code, verdict, answered)


cdef void mirror_inference(Mirror mirror, Poller poller, const iovec *parts, int count, size_t size, const char *path,
                           size_t path_length, uint64_t key) noexcept:
    cdef MirrorInference call
    cdef int i, failed
    if mirror.pool.protocol != POOL_OIP or not mirror.wants():
        return
    call = MirrorInference.__new__(MirrorInference)
    failed = tg_buffer_reserve(&call.request, size) | call.call_path(path, path_length)
    for i in range(count):
        failed |= tg_buffer_append(&call.request, parts[i].iov_base, parts[i].iov_len)
    if failed:
        mirror_counts.skipped += 1
        return
    call.mirror = mirror
    if not mirror.begin(call, size, key, monotonic_ns()):
        return
    call.part.iov_base = tg_buffer_head(&call.request)
    call.part.iov_len = size
    call.parts = &call.part
    call.part_count = 1
    call.message_size = size
    (<Http2Channel>mirror.pool.channels[call.endpoint]).start(call, poller.now + mirror.patience())
