"""A gRPC call whose answer is a whole pool's: see pool_call.pxd. Over REST the same is asked by inference_body.pyx.

The master asks the endpoints. Whether a pool on demand is live, ready and serving is answered here: probes come all the
time, and passed on they would keep a model server, and wake one.
"""

from lb.inference import management, server_calls

from cpython.object cimport PyTypeObject
from libc.string cimport memcmp, memset
from lb.failure cimport FAIL_BAD_BODY, FAIL_BODY_TOO_LARGE, FAIL_NO_MEMORY, FAIL_NOT_IMPLEMENTED
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.ending cimport tg_end_by
from lb.net.stream cimport iovec
from lb.proxy.exchange.call_answer cimport GRPC_PREFIX, answer_call, put_prefix
from lb.proxy.exchange.exchange cimport X_REQUEST, BodySource, Exchange
from lb.proxy.exchange.grpc_web_codec cimport WebCodec
from lb.proxy.exchange.question cimport put_question
from lb.proxy.exchange.refusal cimport SPEAKS_WEB, SPEAKS_WEB_TEXT
from lb.upstream.pool cimport POOL_OIP, Pool

cdef enum:
    LARGEST = 64 * 1024               # bytes of a request, which names a model and a version, or says little more
    SERVICE_LENGTH = 32
    INFER_LENGTH = 42                 # of the paths of ModelInfer and ModelStreamInfer, which no other one has
    STREAM_LENGTH = 48
    GRPC_INTERNAL = 13
    GRPC_UNIMPLEMENTED = 12

cdef bytes GRPC_TYPE = b"application/grpc"
cdef const char *SERVICE = b"/inference.GRPCInferenceService/"
cdef size_t LARGEST_LOAD = server_calls.LARGEST_LOAD


# What is said of a pool on demand: method -> (the reply that says yes, the one that says no).
cdef bytes YES = b"\x08\x01"              # field 1 of each of these messages
cdef dict HEALTH = {
    b"/inference.GRPCInferenceService/ServerLive": (YES, YES),
    b"/inference.GRPCInferenceService/ServerReady": (YES, b""),
    b"/grpc.health.v1.Health/Check": (YES, b"\x08\x02"),
    b"/grpc.health.v1.Health/Watch": None,    # clients then take the server for well (grpc: doc/health-checking.md)
}


cdef bint answers_probes(Pool pool) noexcept:
    return pool.on_demand or pool.awaits_start and not pool.takes_requests()


cdef bint asks_pool(const Scan *scan, Pool pool, int allowed) noexcept:
    cdef size_t n = scan.target_length
    cdef bytes path
    if answers_probes(pool):
        path = scan.target[:n]
        if path in HEALTH and (pool.on_demand or HEALTH[path] is not None):   # else a server comes that can be watched
            return True
    if pool.protocol != POOL_OIP:
        return False
    if n <= SERVICE_LENGTH or n == INFER_LENGTH or n == STREAM_LENGTH:
        return False
    if memcmp(scan.target, SERVICE, SERVICE_LENGTH) != 0:
        return False
    return management.asks_pool(scan.target[SERVICE_LENGTH:n], allowed)


cdef PoolCall new_pool_call(object ask, Exchange exchange, const Scan *scan):
    cdef PoolCall call = PoolCall.__new__(PoolCall)
    call.ask = ask
    call.path = scan.target[:scan.target_length]
    call.method = call.path.rpartition(b"/")[2].decode()
    call.changes = call.method in server_calls.METHODS
    if exchange.grpc >= SPEAKS_WEB:
        call.web = WebCodec.__new__(WebCodec)
        call.web.text = exchange.grpc == SPEAKS_WEB_TEXT
    return call


cdef class PoolCall(BodySource):

    cdef void begin(self, Exchange exchange, Scan *scan) noexcept:
        exchange.move(X_REQUEST)

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef int i
        if exchange.state != X_REQUEST or self.question is not None:
            return
        if self.web is not None and self.web.text:
            if not self.web.decode(exchange, spans, count, last):
                return
            self.keep(exchange, tg_buffer_head(&self.web.piece), tg_buffer_size(&self.web.piece))
        else:
            for i in range(count):
                self.keep(exchange, <const char *>spans[i].iov_base, spans[i].iov_len)
        if last and exchange.state == X_REQUEST:
            exchange.request_complete = True
            exchange.wants_body = False
            self.put(exchange)

    cdef void keep(self, Exchange exchange, const char *data, size_t size) noexcept:
        cdef size_t most = LARGEST_LOAD if self.method == "RepositoryModelLoad" else LARGEST
        if exchange.state != X_REQUEST:
            return
        if tg_buffer_size(&self.body) + size > most:
            exchange.fail(FAIL_BODY_TOO_LARGE, f"a request of {self.method} has at most {most} bytes here")
        elif tg_buffer_append(&self.body, data, size) < 0:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")

    cdef void put(self, Exchange exchange) noexcept:
        """The request is here: the master is asked."""
        cdef const unsigned char *data = <const unsigned char *>tg_buffer_head(&self.body)
        cdef size_t size = tg_buffer_size(&self.body)
        if size >= GRPC_PREFIX and data[0]:
            exchange.fail(FAIL_NOT_IMPLEMENTED, "compressed requests of this method are not supported")
            return
        if size < GRPC_PREFIX or size - GRPC_PREFIX != (
                <size_t>data[1] << 24 | <size_t>data[2] << 16 | <size_t>data[3] << 8 | <size_t>data[4]):
            exchange.fail(FAIL_BAD_BODY, "the body is not one message of gRPC")
            return
        if self.path in HEALTH:
            self.tell_health(exchange)
            return
        self.question = put_question(self.ask, exchange, self.method, (<const char *>data)[GRPC_PREFIX:size])
        if self.changes and exchange.state == X_REQUEST:
            exchange.client.poller.arm(exchange, exchange.expires)

    cdef void tell_health(self, Exchange exchange) noexcept:
        cdef tuple replies = HEALTH[self.path]
        if replies is None:
            self.told(exchange, GRPC_UNIMPLEMENTED, "health is not watched here: ask Check", b"")
        else:
            self.told(exchange, 0, "", replies[0] if exchange.pool.welcomes_requests() else replies[1])

    cdef void told(self, Exchange exchange, int status, str message, bytes reply) noexcept:
        cdef char[GRPC_PREFIX] prefix
        cdef iovec[2] parts
        cdef tg_buffer extra
        if status == 0 and self.method == "ServerMetadata":
            try:
                reply = management.announce(reply, exchange.route.server_calls, exchange.pool.sequences is not None)
            except Exception:
                status, message = GRPC_INTERNAL, "an endpoint's answer is not a ServerMetadataResponse"
        memset(&extra, 0, sizeof(extra))
        put_prefix(prefix, <size_t>len(reply))
        parts[0].iov_base = prefix
        parts[0].iov_len = GRPC_PREFIX
        parts[1].iov_base = <char *>reply
        parts[1].iov_len = <size_t>len(reply)
        answer_call(exchange, self.web, GRPC_TYPE, status, message, parts, 0 if status else 2, &extra)
        tg_buffer_free(&extra)

    cdef void leave(self, Exchange exchange) noexcept:
        if self.question is not None:
            self.question.exchange = None


cdef void end_call(void *call) noexcept:
    tg_buffer_free(&(<PoolCall>call).body)


tg_end_by(<PyTypeObject *>PoolCall, end_call)
