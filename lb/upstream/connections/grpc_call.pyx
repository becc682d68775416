"""One gRPC call with one message to the endpoint: see grpc_call.pxd. Source of the rules: gRPC's PROTOCOL-HTTP2.md."""

from cpython.object cimport PyTypeObject
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memcmp
from lb import __version__
from lb.failure cimport FAIL_PROTOCOL, FAIL_TOO_LARGE
from lb.net.buffer cimport (
    tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
    tg_buffer_tail,
)
from lb.net.ending cimport tg_end_by
from lb.http.http2.session cimport Http2Session
from lb.http.http2.head cimport FieldList
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NONE, NGHTTP2_NV_FLAG_NO_INDEX
from lb.http.grpc.text cimport (
    GRPC_OK, PUSHBACK_NONE, grpc_status, grpc_status_of_http, grpc_timeout, http_status, percent_decode, pushback_ms,
)

cdef enum:
    PREFIX = 5                        # compressed flag, length
    # An answer's fields, trailers included: a unary call wants four of them. A peer that sends more is broken.
    MOST_FIELDS = 16 * 1024

cdef uint64_t MOST_MESSAGE = 0xffffffff      # gRPC's length prefix has 32 bits
cdef bytes AGENT_BYTES = b"tidegate/" + __version__.encode()
cdef const char *AGENT = AGENT_BYTES
cdef size_t AGENT_SIZE = len(AGENT_BYTES)


cdef inline bint same(const char *name, size_t size, const char *other, size_t other_size) noexcept nogil:
    return size == other_size and memcmp(name, other, size) == 0


cdef class GrpcCall(Http2Call):

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        pass

    cdef void on_failed(self, int kind) noexcept:
        pass

    cdef int on_message(self) noexcept:
        return 0

    cdef int call_path(self, const char *path, size_t n) noexcept:
        tg_buffer_clear(&self.path)
        return tg_buffer_append(&self.path, path, n)

    cdef void reset_call(self) noexcept:
        Http2Call.reset_call(self)
        tg_buffer_clear(&self.reply)
        tg_buffer_clear(&self.text)
        tg_buffer_clear(&self.report)
        self.http = 0
        self.status = -1
        self.pushback = PUSHBACK_NONE
        self.is_grpc = False
        self.fields_size = 0
        self.head_size = 0
        self.expected = 0
        self.messages = 0

    cdef int build(self, FieldList fields, uint64_t now) noexcept:
        cdef int n
        cdef bint round
        if self.message_size > MOST_MESSAGE:
            return FAIL_TOO_LARGE
        fields.add_held(b":method", 7, b"POST", 4, NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b":scheme", 7, b"https", 4 if self.dispatcher.address.tls is None else 5, NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b":path", 5, tg_buffer_head(&self.path), tg_buffer_size(&self.path), NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b":authority", 10, <const char *>self.dispatcher.authority, len(self.dispatcher.authority),
                        NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b"te", 2, b"trailers", 8, NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b"content-type", 12, b"application/grpc", 16, NGHTTP2_NV_FLAG_NONE)
        fields.add_held(b"user-agent", 10, AGENT, AGENT_SIZE, NGHTTP2_NV_FLAG_NONE)
        if self.deadline != UINT64_MAX:
            n = grpc_timeout(self.timeout, self.deadline - now, &round)
            # A value that will not come again would only push others out of the compression table.
            fields.add_held(b"grpc-timeout", 12, self.timeout, <size_t>n,
                            NGHTTP2_NV_FLAG_NONE if round else NGHTTP2_NV_FLAG_NO_INDEX)
        self.prepare_body()
        return 0

    cdef void prepare_body(self) noexcept:
        cdef size_t size = self.message_size
        self.stream.reset_by_peer = False
        self.stream.sent = False
        self.stream.messages = True
        self.stream.prefix[0] = 0
        self.stream.prefix[1] = <char>(size >> 24)
        self.stream.prefix[2] = <char>(size >> 16)
        self.stream.prefix[3] = <char>(size >> 8)
        self.stream.prefix[4] = <char>size
        self.stream.prefix_size = PREFIX
        self.stream.parts = self.parts
        self.stream.part_count = self.part_count
        self.stream.left = size + PREFIX
        self.stream.part = -1
        self.stream.offset = 0

    cdef bint gathers(self) noexcept:
        return False

    cdef int take_field(self, Http2Session session, const char *name, size_t name_size, const char *value,
                        size_t value_size) noexcept:
        self.begun = True
        self.fields_size += name_size + value_size + 32      # as RFC 9113 6.5.2 counts
        if self.fields_size > MOST_FIELDS:
            return FAIL_TOO_LARGE
        if name[0] == c'g':
            if same(name, name_size, b"grpc-status", 11):
                self.status = grpc_status(value, value_size)
            elif same(name, name_size, b"grpc-message", 12):
                tg_buffer_clear(&self.text)
                if tg_buffer_reserve(&self.text, value_size) < 0:
                    return FAIL_TOO_LARGE
                self.text.end += percent_decode(tg_buffer_tail(&self.text), value, value_size)
            elif same(name, name_size, b"grpc-retry-pushback-ms", 22):
                self.pushback = pushback_ms(value, value_size)
        elif name[0] == c'e':
            if same(name, name_size, b"endpoint-load-metrics-bin", 25) or same(
                    name, name_size, b"endpoint-load-metrics", 21):
                self.report_binary = name_size == 25
                tg_buffer_clear(&self.report)
                if tg_buffer_append(&self.report, value, value_size) < 0:
                    return FAIL_TOO_LARGE
        elif name[0] == c':':
            if same(name, name_size, b":status", 7):
                self.http = http_status(value, value_size)
        elif same(name, name_size, b"content-type", 12):
            self.is_grpc = value_size >= 16 and memcmp(value, b"application/grpc", 16) == 0 and (
                value_size == 16 or value[16] == c'+' or value[16] == c';')
        return 0

    cdef int take_fields(self, Http2Session session, bint last, bint *over) noexcept:
        if self.http / 100 == 1:
            self.http = 0
            self.is_grpc = False
            self.status = -1
        elif not last and not self.is_grpc and self.status < 0:
            over[0] = True                    # not gRPC: there is nothing to wait for
        return 0

    cdef int take_message(self) noexcept:
        cdef int rc = 0
        self.messages = 1
        if self.streams:
            rc = self.on_message()
            tg_buffer_clear(&self.reply)
            self.head_size = 0
            self.expected = 0
        return rc

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        cdef size_t n
        cdef int rc
        while size:
            if self.messages and not self.streams:
                return FAIL_PROTOCOL          # a second message in a unary answer
            if self.head_size < PREFIX:
                self.head[self.head_size] = data[0]
                self.head_size += 1
                data += 1
                size -= 1
                if self.head_size < PREFIX:
                    continue
                if self.head[0]:
                    return FAIL_PROTOCOL      # compressed, though we accept no encoding
                self.expected = (<size_t><unsigned char>self.head[1] << 24 | <size_t><unsigned char>self.head[2] << 16
                                 | <size_t><unsigned char>self.head[3] << 8 | <size_t><unsigned char>self.head[4])
                if self.expected > self.dispatcher.max_reply or tg_buffer_reserve(&self.reply, self.expected) < 0:
                    return FAIL_TOO_LARGE
            n = min(size, self.expected - tg_buffer_size(&self.reply))
            if tg_buffer_append(&self.reply, data, n) < 0:
                return FAIL_TOO_LARGE
            data += n
            size -= n
            if tg_buffer_size(&self.reply) == self.expected:
                rc = self.take_message()
                if rc or self.streams and self.connection is None:
                    return rc
        # An empty message ends with its prefix.
        if self.head_size == PREFIX and self.expected == 0:
            return self.take_message()
        return 0

    cdef void judge(self) noexcept:
        if self.status == GRPC_OK:
            # No message, or the end within one.
            if self.head_size if self.streams else not self.messages:
                self.fail = FAIL_PROTOCOL
        elif self.status < 0:
            self.status = grpc_status_of_http(self.http)
            tg_buffer_clear(&self.text)
            text = b"HTTP status %d without grpc-status" % self.http
            tg_buffer_append(&self.text, <const char *>text, len(text))

    cdef void over(self) noexcept:
        if self.fail:
            self.on_failed(self.fail)
        else:
            self.on_done(self.status, tg_buffer_head(&self.text), tg_buffer_size(&self.text))


cdef void end_call(void *call) noexcept:
    tg_buffer_free(&(<GrpcCall>call).reply)
    tg_buffer_free(&(<GrpcCall>call).path)
    tg_buffer_free(&(<GrpcCall>call).text)
    tg_buffer_free(&(<GrpcCall>call).report)


tg_end_by(<PyTypeObject *>GrpcCall, end_call)
