"""Copies of inferences for another pool: see mirror.pxd. Their answers are counted, and kept where they are
compared."""

from libc.stdint cimport uint64_t
from lb.failure cimport (
    FAIL_TOO_LARGE, VERDICT_GATEWAY, VERDICT_GOOD, failure_of, http_of_grpc, verdict_of_failure, verdict_of_grpc,
)
from lb.net.buffer cimport tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_reserve
from lb.net.poller cimport Poller, monotonic_ns
from lb.net.stream cimport iovec
from lb.proxy.exchange.mirror.comparison cimport Comparison
from lb.proxy.exchange.mirror.mirror cimport MIRROR_ANSWER_LIMIT, Mirror, mirror_counts
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.pool cimport POOL_OIP
from lb.upstream.tally cimport count_failure

cdef enum:
    GRPC_CANCELLED = 1
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_UNAVAILABLE = 14


cdef class MirrorInference(GrpcCall):

    def __dealloc__(self):
        tg_buffer_free(&self.request)

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        """Of the answer only its size is taken, unless it is compared."""
        self.received += size
        if self.comparison is not None:
            self.comparison.take_copy(data, size)
        self.messages = 1
        return FAIL_TOO_LARGE if self.received > <size_t>MIRROR_ANSWER_LIMIT else 0

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        cdef bint answered
        if self.comparison is not None:
            self.comparison.copy_ended(status)
        # A server that knows the deadline says itself that it was not in time; one that goes away says so too.
        answered = status != GRPC_DEADLINE_EXCEEDED and status != GRPC_UNAVAILABLE
        # CANCELLED, which nobody asked for, is of a model server that goes away.
        self.ended(http_of_grpc(status), status, answered,
                   VERDICT_GATEWAY if status == GRPC_CANCELLED else verdict_of_grpc(status))

    cdef void on_failed(self, int kind) noexcept:
        if self.comparison is not None:
            self.comparison.give_up()
        if kind == FAIL_TOO_LARGE and self.received:           # the rest is nobody's, its gRPC status included
            self.ended(200, -1, True, VERDICT_GOOD)
        else:
            count_failure(self.mirror.pool.series[self.endpoint], kind)
            self.ended(failure_of(kind).status, failure_of(kind).grpc_status, False,
                       verdict_of_failure(kind))

    cdef void ended(self, int status, int code, bint answered, int verdict) noexcept:
        self.mirror.end(self, self.part.iov_len, self.received, status, code, verdict, answered)


cdef Comparison mirror_inference(Mirror mirror, Poller poller, const iovec *parts, int count, size_t size,
                                 const char *path, size_t path_length, uint64_t key):
    cdef MirrorInference call
    cdef int i, failed
    if mirror.pool.protocol != POOL_OIP or not mirror.wants():
        return None
    call = MirrorInference.__new__(MirrorInference)
    failed = tg_buffer_reserve(&call.request, size) | call.call_path(path, path_length)
    for i in range(count):
        failed |= tg_buffer_append(&call.request, parts[i].iov_base, parts[i].iov_len)
    if failed:
        mirror_counts.skipped += 1
        return None
    call.mirror = mirror
    if not mirror.begin(call, size, key, monotonic_ns()):
        return None
    call.part.iov_base = tg_buffer_head(&call.request)
    call.part.iov_len = size
    call.parts = &call.part
    call.part_count = 1
    call.message_size = size
    call.comparison = mirror.compare(False)
    (<Http2Channel>mirror.pool.channels[call.endpoint]).start(call, poller.now + mirror.patience())
    return call.comparison
