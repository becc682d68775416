"""How a probe is asked: see probe_calls.pxd."""

from libc.stdint cimport UINT64_MAX, uint64_t
from lb import __version__
from lb.failure cimport FAIL_NONE, FAIL_RESET, FAIL_TIMEOUT, FAIL_TOO_LARGE
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.http.head cimport Field, Scan
from lb.http.http2.session cimport Http2Session
from lb.http.http2.head cimport FieldList
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NONE
from lb.net.poller cimport Poller
from lb.net.stream cimport IO_ERROR, iovec
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.connections.http1 cimport Http1Call, Http1Pool, Http1Upstream
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.connections.http2_call cimport Http2Call
from lb.upstream.load.load_report cimport REPORT_BINARY, REPORT_NAMED, report_kind
from lb.upstream.pool cimport POOL_HTTP, POOL_HTTP2, POOL_TCP, POOL_UDP, Pool
from lb.upstream.load.prober cimport Probe, Prober

cdef enum:
    MOST_ANSWER = 64 * 1024           # bytes: what says more has something else to say
    GRPC_DEADLINE_EXCEEDED = 4

cdef bytes CHECK = b"/grpc.health.v1.Health/Check"
cdef bytes AGENT = b"tidegate/" + __version__.encode()


cdef int keep(tg_buffer *report, const char *value, size_t size) noexcept:
    """The last report of an answer counts. 0, or -1: no memory."""
    tg_buffer_clear(report)
    return tg_buffer_append(report, value, size)


# gRPC.

cdef class CheckCall(GrpcCall):

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        # Whatever the status: health checks go by that. But servers keep the time, too.
        cdef GrpcProbe probe = self.probe
        self.probe = None
        if status == GRPC_DEADLINE_EXCEEDED:
            probe.failed(True)
            return
        probe.answered(REPORT_BINARY if self.report_binary else REPORT_NAMED, tg_buffer_head(&self.report),
                       tg_buffer_size(&self.report))

    cdef void on_failed(self, int kind) noexcept:
        cdef GrpcProbe probe = self.probe
        self.probe = None
        probe.failed(kind == FAIL_TIMEOUT)


cdef class GrpcProbe(Probe):

    def __init__(self, Http2Channel channel not None, str service not None):
        name = service.encode()
        self.channel = channel
        self.message = b"\x0a" + bytes([len(name)]) + name if name else b""     # HealthCheckRequest.service
        self.call = CheckCall.__new__(CheckCall)
        if self.call.call_path(CHECK, len(CHECK)) < 0:
            raise MemoryError
        self.part.iov_base = <void *><char *>self.message
        self.part.iov_len = len(self.message)
        self.call.parts = &self.part
        self.call.part_count = 1 if self.part.iov_len else 0
        self.call.message_size = self.part.iov_len

    cdef bint send(self, uint64_t deadline) noexcept:
        self.call.probe = self
        self.channel.start(self.call, deadline)
        return True


# HTTP/2.

cdef class GetCall(Http2Call):

    def __dealloc__(self):
        tg_buffer_free(&self.report)

    cdef void reset_call(self) noexcept:
        Http2Call.reset_call(self)
        tg_buffer_clear(&self.report)
        self.size = 0

    cdef int build(self, FieldList fields, uint64_t now) noexcept:
        fields.add_held(b":method", 7, b"GET", 3, NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b":scheme", 7, b"https", 4 if self.dispatcher.address.tls is None else 5, NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b":path", 5, <const char *>self.path, len(self.path), NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b":authority", 10, <const char *>self.dispatcher.authority, len(self.dispatcher.authority),
                        NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b"user-agent", 10, <const char *>AGENT, len(AGENT), NGHTTP2_NV_FLAG_NONE)
        self.stream.streaming = True
        self.stream.finished = True           # there is no body
        return 0

    cdef bint gathers(self) noexcept:
        return False

    cdef int take_field(self, Http2Session session, const char *name, size_t name_size, const char *value,
                        size_t value_size) noexcept:
        cdef int kind = report_kind(name, name_size)
        self.size += name_size + value_size
        if self.size > MOST_ANSWER:
            return FAIL_TOO_LARGE
        if kind:
            self.kind = kind
            if keep(&self.report, value, value_size) < 0:
                return FAIL_TOO_LARGE
        return 0

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        self.size += size
        return FAIL_TOO_LARGE if self.size > MOST_ANSWER else 0

    cdef void over(self) noexcept:
        cdef Http2Probe probe = self.probe
        self.probe = None
        if self.fail:
            probe.failed(self.fail == FAIL_TIMEOUT)
        else:
            probe.answered(self.kind, tg_buffer_head(&self.report), tg_buffer_size(&self.report))


cdef class Http2Probe(Probe):

    def __init__(self, Http2Channel channel not None, str path not None):
        self.channel = channel
        self.call = GetCall.__new__(GetCall)
        self.call.path = path.encode()

    cdef bint send(self, uint64_t deadline) noexcept:
        self.call.probe = self
        self.channel.start(self.call, deadline)
        return True


# HTTP/1.1.

cdef class Get1Call(Http1Call):

    def __dealloc__(self):
        tg_buffer_free(&self.report)

    cdef void on_connecting(self, Http1Upstream upstream) noexcept:
        self.upstream = upstream

    cdef void on_connected(self, Http1Upstream upstream) noexcept:
        cdef iovec part
        self.upstream = upstream
        upstream.parser.headless = False
        part.iov_base = <void *><char *>self.request
        part.iov_len = len(self.request)
        if upstream.push_parts(&part, 1) == IO_ERROR:
            upstream.broken(FAIL_RESET)

    cdef void on_answer(self, Http1Upstream upstream, Scan *scan) noexcept:
        cdef Http1Probe probe = self.probe
        if scan.head:
            if scan.status == 101:
                self.let_go(False)            # nothing was asked for that it would answer
                probe.failed(False)
                return
            find_report(self, scan.fields, scan.field_count)
            if scan.status < 200:
                return
        self.size += scan.body_bytes
        if self.size > MOST_ANSWER:
            self.let_go(False)
            probe.failed(False)
        elif scan.complete:
            find_report(self, scan.trailers, scan.trailer_count)
            self.let_go(upstream.parser.keep_alive())
            probe.answered(self.kind, tg_buffer_head(&self.report), tg_buffer_size(&self.report))

    cdef void on_broken(self, Http1Upstream upstream, int kind) noexcept:
        cdef Http1Probe probe = self.probe
        self.upstream = None                  # it is closed already
        self.let_go(False)
        probe.failed(False)

    cdef void on_timer(self) noexcept:
        cdef Http1Probe probe = self.probe
        if probe is not None:
            self.let_go(False)
            probe.failed(True)

    cdef void let_go(self, bint reusable) noexcept:
        cdef Http1Upstream upstream = self.upstream
        self.upstream = None
        self.probe = None
        self.deadline = UINT64_MAX
        if upstream is None:
            return
        if reusable:
            upstream.pool.give(upstream)
        else:
            upstream.pool.drop(upstream)


cdef void find_report(Get1Call call, const Field *fields, int count) noexcept:
    cdef int i, kind
    for i in range(count):
        kind = report_kind(fields[i].name, fields[i].name_length)
        if kind and keep(&call.report, fields[i].value, fields[i].value_length) == 0:
            call.kind = kind


cdef class Http1Probe(Probe):

    def __init__(self, Http1Pool pool not None, str path not None):
        host = "localhost" if pool.address.text.startswith("unix:") else pool.address.text
        self.pool = pool
        self.call = Get1Call.__new__(Get1Call)
        self.call.request = b"GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n\r\n" % (
            path.encode(), host.encode(), AGENT)

    cdef bint send(self, uint64_t deadline) noexcept:
        cdef Get1Call call = self.call
        call.probe = self
        call.size = 0
        tg_buffer_clear(&call.report)
        self.pool.poller.arm(call, deadline)
        if self.pool.take(call, False) == FAIL_NONE:
            return True
        call.let_go(False)
        return False


def add_prober(Poller poller not None, Pool pool not None):
    """Gives a new pool its Prober, where its policy wants to know and its endpoints can be asked."""
    cdef Probe probe
    cdef int i
    options = pool.policy.probes
    if options is None or pool.protocol == POOL_TCP or pool.protocol == POOL_UDP:
        return
    made = []
    for i, channel in enumerate(pool.channels):
        if pool.protocol == POOL_HTTP:
            probe = Http1Probe(channel, options.path)
        elif pool.protocol == POOL_HTTP2:
            probe = Http2Probe(channel, options.path)
        else:
            probe = GrpcProbe(channel, options.service)
        probe.index = i
        probe.words = pool.series[i]
        made.append(probe)
    pool.prober = Prober(poller, pool.name, pool.policy, made)
