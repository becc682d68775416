"""Copies of requests over HTTP/2: see stream.pxd. Their answers are counted, and kept where they are compared."""

from libc.stdint cimport uint64_t
from lb.failure cimport (
    FAIL_NO_SOCKET, FAIL_PROTOCOL, FAIL_TOO_LARGE, VERDICT_GATEWAY, VERDICT_NONE, failure_of, verdict_of,
    verdict_of_grpc,
)
from lb.net.buffer cimport tg_buffer_append, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_GRPC_STATUS, Field, Scan, worker_scan
from lb.http.http2.session cimport Http2Session, h2_rewind, h2_whole
from lb.http.http2.head cimport HEAD_OK, FieldList, read_response, read_trailers
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NO_INDEX, NGHTTP2_NV_FLAG_NONE
from lb.net.poller cimport Poller, monotonic_ns
from lb.proxy.exchange.mirror.comparison cimport Comparison
from lb.proxy.exchange.mirror.mirror cimport MIRROR_ANSWER_LIMIT, Mirror, mirror_counts
from lb.http.grpc.text cimport GRPC_UNKNOWN, grpc_status, grpc_status_of_http, grpc_timeout
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.pool cimport POOL_HTTP, POOL_OIP, Pool
from lb.upstream.tally cimport count_failure

cdef enum:
    CANCELLED = 1                     # of gRPC
    DEADLINE_EXCEEDED = 4
    UNAVAILABLE = 14


cdef class MirrorStream(Http2Call):

    cdef int build(self, FieldList fields, uint64_t now) noexcept:
        cdef uint64_t left = self.picked_at + self.mirror.patience()
        cdef bint round
        cdef int n
        fields.add_held(b":scheme", 7, b"https", 4 if self.dispatcher.address.tls is None else 5, NGHTTP2_NV_FLAG_NONE)
        fields.add_block(&self.fields)
        if self.grpc:
            n = grpc_timeout(self.timeout, left - now if left > now else 1, &round)
            fields.add_held(b"grpc-timeout", 12, self.timeout, <size_t>n,
                            NGHTTP2_NV_FLAG_NONE if round else NGHTTP2_NV_FLAG_NO_INDEX)
        self.stream.streaming = True
        h2_rewind(&self.stream)
        self.received = 0
        self.status = 0
        self.code = -1
        return 0

    cdef bint replayable(self) noexcept:
        return h2_whole(&self.stream)

    cdef int take_fields(self, Http2Session session, bint last, bint *over) noexcept:
        cdef Scan *scan = worker_scan()
        if session.blocks.over:
            return FAIL_TOO_LARGE
        scan.max_fields = <int>session.options.max_fields
        if self.status >= 200:
            if read_trailers(scan, &session.blocks.fields) != HEAD_OK:
                return FAIL_PROTOCOL
            self.find_code(scan.trailers, scan.trailer_count)
            return 0
        if read_response(scan, &session.blocks.fields, last) != HEAD_OK or scan.status == 101:
            return FAIL_PROTOCOL
        self.status = scan.status
        if scan.status < 200:
            self.begun = False
            return 0
        self.find_code(scan.fields, scan.field_count)
        return 0

    cdef void find_code(self, const Field *fields, int count) noexcept:
        cdef int i
        for i in range(count):
            if fields[i].id == H_GRPC_STATUS:
                self.code = grpc_status(fields[i].value, fields[i].value_length)

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        if self.status < 200:
            return FAIL_PROTOCOL
        self.received += size
        if self.comparison is not None:
            self.comparison.take_copy(data, size)
        return FAIL_TOO_LARGE if self.received > <size_t>MIRROR_ANSWER_LIMIT else 0

    cdef void judge(self) noexcept:
        if self.status < 200:
            self.fail = FAIL_PROTOCOL

    cdef void over(self) noexcept:
        cdef Pool pool = self.mirror.pool
        cdef uint64_t *words = pool.series[self.endpoint]
        cdef bint answered = self.fail == 0 or (self.fail == FAIL_TOO_LARGE and self.status >= 200)
        cdef int verdict
        if not answered:
            count_failure(words, self.fail)
            self.status = failure_of(self.fail).status
            self.code = failure_of(self.fail).grpc_status
        elif self.code < 0 and self.fail == 0:                 # the rest of what is cut off is nobody's
            self.code = GRPC_UNKNOWN if self.status == 200 else grpc_status_of_http(self.status)
        if not self.grpc:
            self.code = -1
        if self.comparison is not None:
            if self.fail == 0 and self.code >= 0:
                self.comparison.copy_ended(self.code)
            else:
                self.comparison.give_up()
        verdict = VERDICT_NONE if self.fail == FAIL_NO_SOCKET else verdict_of(self.status, answered)
        if self.status == 200 and self.code >= 0:
            verdict = verdict_of_grpc(self.code)
            if self.code == CANCELLED and pool.protocol == POOL_OIP:
                verdict = VERDICT_GATEWAY     # which nobody asked for: a model server that goes away
        # A server that knows the deadline says itself that it was not in time; one that goes away says so too.
        if self.status == 200 and (self.code == DEADLINE_EXCEEDED or self.code == UNAVAILABLE):
            answered = False
        self.mirror.end(self, self.size, self.received, self.status, self.code, verdict, answered)


cdef Comparison mirror_stream(Mirror mirror, Poller poller, Http2Call call, uint64_t key, bint grpc):
    cdef MirrorStream copy
    if mirror.pool.protocol == POOL_HTTP or not mirror.wants():
        return None
    if not h2_whole(&call.stream):
        mirror_counts.skipped += 1
        return None
    copy = MirrorStream.__new__(MirrorStream)
    if (tg_buffer_append(&copy.fields, tg_buffer_head(&call.fields), tg_buffer_size(&call.fields)) < 0
            or tg_buffer_append(&copy.stream.queue, tg_buffer_head(&call.stream.queue),
                                tg_buffer_size(&call.stream.queue)) < 0
            or tg_buffer_append(&copy.stream.trailers, tg_buffer_head(&call.stream.trailers),
                                tg_buffer_size(&call.stream.trailers)) < 0):
        mirror_counts.skipped += 1
        return None
    copy.mirror = mirror
    copy.grpc = grpc
    copy.size = (tg_buffer_size(&copy.fields) + tg_buffer_size(&copy.stream.queue)
                 + tg_buffer_size(&copy.stream.trailers))
    copy.stream.finished = True
    copy.stream.keep = tg_buffer_size(&copy.stream.queue)
    if not mirror.begin(copy, copy.size, key, monotonic_ns()):
        return None
    copy.comparison = mirror.compare(True)
    (<Http2Channel>mirror.pool.channels[copy.endpoint]).start(copy, poller.now + mirror.patience())
    return copy.comparison
