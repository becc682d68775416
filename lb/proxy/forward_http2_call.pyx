"""The stream of an exchange with a pool that speaks HTTP/2: see forward_http2_call.pxd."""

from cpython.object cimport PyTypeObject
from libc.stdint cimport UINT64_MAX, uint64_t
from lb.core.head cimport H_GRPC_STATUS, Field, Scan, worker_scan
from lb.core.http2 cimport Http2Session, h2_rewind, h2_whole
from lb.core.http2_head cimport HEAD_OK, FieldList, read_response, read_trailers
from lb.core.nghttp2 cimport NGHTTP2_NV_FLAG_NO_INDEX, NGHTTP2_NV_FLAG_NONE
from lb.core.reuse cimport tg_reuse
from lb.proxy.exchange cimport Exchange
from lb.proxy.forward_http2 cimport Http2Exchange
from lb.proxy.retry cimport is_good
from lb.proxy.tries cimport Hedge
from lb.upstream.failure cimport FAIL_PROTOCOL, FAIL_TOO_LARGE
from lb.upstream.grpc_text cimport GRPC_UNKNOWN, grpc_status, grpc_status_of_http, grpc_timeout


cdef bint is_well(Exchange exchange, Scan *scan, bint last) noexcept:
    cdef int i
    if not is_good(scan.status):
        return False
    if exchange.grpc and last:
        for i in range(scan.field_count):
            if scan.fields[i].id == H_GRPC_STATUS:
                return grpc_status(scan.fields[i].value, scan.fields[i].value_length) == 0
    return True


cdef int code_of_head(Exchange exchange, Scan *scan, bint last) noexcept:
    """The gRPC status of an answer that begins: -1 where that comes behind its messages, or there is none."""
    cdef Field *field
    if not exchange.grpc:
        return -1
    if scan.first[H_GRPC_STATUS] >= 0:
        field = &scan.fields[scan.first[H_GRPC_STATUS]]
        return grpc_status(field.value, field.value_length)
    if scan.status != 200:
        return grpc_status_of_http(scan.status)
    return GRPC_UNKNOWN if last else -1


cdef class StreamCall(Http2Call):

    cdef int build(self, FieldList fields, uint64_t now) noexcept:
        cdef Http2Exchange exchange = <Http2Exchange>self.exchange
        cdef int n
        cdef bint round
        fields.add_kept(b":scheme", 7, b"https", 4 if self.dispatcher.address.tls is None else 5, NGHTTP2_NV_FLAG_NONE)
        fields.add_block(&self.fields)
        if exchange.grpc and exchange.expires != UINT64_MAX:
            n = grpc_timeout(self.timeout, exchange.expires - now if exchange.expires > now else 1, &round)
            fields.add_kept(b"grpc-timeout", 12, self.timeout, <size_t>n,
                            NGHTTP2_NV_FLAG_NONE if round else NGHTTP2_NV_FLAG_NO_INDEX)
        self.stream.streaming = True
        h2_rewind(&self.stream)
        self.head_seen = False
        self.held = 0
        return 0

    cdef bint replayable(self) noexcept:
        return h2_whole(&self.stream)

    cdef int take_fields(self, Http2Session session, bint last, bint *over) noexcept:
        cdef Scan *scan = worker_scan()
        cdef Http2Exchange exchange = <Http2Exchange>self.exchange
        if session.block_over:
            return FAIL_TOO_LARGE
        scan.max_fields = <int>session.options.max_fields
        if self.head_seen:
            if read_trailers(scan, &session.block) != HEAD_OK:
                return FAIL_PROTOCOL
            exchange.answer_trailers(scan)
            return 0
        if read_response(scan, &session.block, last) != HEAD_OK or scan.status == 101:
            return FAIL_PROTOCOL
        if scan.status < 200:
            self.begun = False
            if self.hedge is None and scan.status != 100 and not exchange.http10:     # 100 was sent by ourselves
                exchange.client.respond(scan, NULL, False)
            return 0
        if self.hedge is not None and not exchange.hedge_answer(self.hedge, is_well(exchange, scan, last), scan.status,
                                                                code_of_head(exchange, scan, last)):
            return 0
        self.head_seen = True
        exchange.answer_head(scan, last)
        return 0

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        if not self.head_seen:
            return FAIL_PROTOCOL
        (<Http2Exchange>self.exchange).answer_data(data, size, held)
        self.held += held[0]
        return 0

    cdef void judge(self) noexcept:
        if not self.head_seen:
            self.fail = FAIL_PROTOCOL

    cdef void sent_again(self) noexcept:
        if self.exchange is not None:
            self.exchange.count_again(self.hedge)

    cdef void room(self) noexcept:
        if self.exchange is not None and self.hedge is None:
            (<Http2Exchange>self.exchange).request_room()

    cdef void over(self) noexcept:
        cdef Http2Exchange exchange = <Http2Exchange>self.exchange
        cdef Hedge hedge = self.hedge
        if exchange is None:
            return
        self.exchange = None
        if hedge is not None:
            self.hedge = None
            hedge.call = None
            exchange.hedge_failed(hedge, self.fail)
            return
        exchange.call_over(self.fail, self.begun)


tg_reuse(<PyTypeObject *>StreamCall)
