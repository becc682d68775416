"""One unary gRPC call: see grpc_call.pxd. Source of the rules: gRPC's PROTOCOL-HTTP2.md."""

from cpython.ref cimport Py_DECREF
from libc.stdint cimport UINT64_MAX
from libc.string cimport memcmp
from lb.core.buffer cimport (
    tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
    tg_buffer_tail,
)
from lb.upstream.grpc_text cimport GRPC_OK, grpc_status, grpc_status_of_http, http_status, percent_decode

cdef enum:
    PREFIX = 5                        # compressed flag, length
    # An answer's fields, trailers included; what we announce as MAX_HEADER_LIST_SIZE. A peer that sends more is broken.
    MOST_FIELDS = 16 * 1024


cdef inline bint same(const char *name, size_t size, const char *other, size_t other_size) noexcept nogil:
    return size == other_size and memcmp(name, other, size) == 0


cdef class GrpcCall(Timed):

    def __cinit__(self):
        self.link.owner = <void *>self
        self.stream.owner = <void *>self

    def __dealloc__(self):
        tg_buffer_free(&self.reply)
        tg_buffer_free(&self.path)
        tg_buffer_free(&self.text)

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        pass

    cdef void on_failed(self, int kind) noexcept:
        pass

    cdef void on_timer(self) noexcept:
        cdef Dispatcher dispatcher = self.dispatcher     # which `expired` lets go
        if dispatcher is not None:
            dispatcher.expired(self)

    cdef int prepare(self, const char *path, size_t n) noexcept:
        """Forget an earlier run. -1: no memory for the path."""
        tg_buffer_clear(&self.reply)
        tg_buffer_clear(&self.text)
        tg_buffer_clear(&self.path)
        self.fail = 0
        self.refused = 0
        self.http = 0
        self.status = -1
        self.is_grpc = False
        self.fields_size = 0
        self.head_size = 0
        self.expected = 0
        self.messages = 0
        return tg_buffer_append(&self.path, path, n)

    cdef void prepare_body(self) noexcept:
        cdef size_t size = self.message_size
        self.stream.reset_by_peer = False
        self.stream.sent = False
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

    cdef int take_field(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept:
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
        elif name[0] == c':':
            if same(name, name_size, b":status", 7):
                self.http = http_status(value, value_size)
        elif same(name, name_size, b"content-type", 12):
            self.is_grpc = value_size >= 16 and memcmp(value, b"application/grpc", 16) == 0 and (
                value_size == 16 or value[16] == c'+' or value[16] == c';')
        return 0

    cdef void informational(self) noexcept:
        self.http = 0
        self.is_grpc = False
        self.status = -1

    cdef bint hopeless(self) noexcept:
        return not self.is_grpc and self.status < 0

    cdef int take_data(self, const char *data, size_t size, size_t limit) noexcept:
        cdef size_t n
        while size:
            if self.messages:
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
                if self.expected > limit or tg_buffer_reserve(&self.reply, self.expected) < 0:
                    return FAIL_TOO_LARGE
            n = min(size, self.expected - tg_buffer_size(&self.reply))
            if tg_buffer_append(&self.reply, data, n) < 0:
                return FAIL_TOO_LARGE
            data += n
            size -= n
            if tg_buffer_size(&self.reply) == self.expected:
                self.messages = 1
        # An empty message ends with its prefix.
        if self.head_size == PREFIX and self.expected == 0:
            self.messages = 1
        return 0

    cdef void judge(self) noexcept:
        if self.status == GRPC_OK:
            if not self.messages:
                self.fail = FAIL_PROTOCOL     # no message, or the end within one
        elif self.status < 0:
            self.status = grpc_status_of_http(self.http)
            tg_buffer_clear(&self.text)
            text = b"HTTP status %d without grpc-status" % self.http
            tg_buffer_append(&self.text, <const char *>text, len(text))

    cdef void conclude(self) noexcept:
        cdef int fail = self.fail
        self.dispatcher = None
        self.connection = None
        self.deadline = UINT64_MAX
        if fail:
            self.on_failed(fail)
        else:
            self.on_done(self.status, tg_buffer_head(&self.text), tg_buffer_size(&self.text))
        Py_DECREF(self)                       # taken by GrpcChannel.start


cdef class Dispatcher(Source):

    cdef GrpcCall take(self):
        return None

    cdef void put_back(self, GrpcCall call) noexcept:
        pass

    cdef void expired(self, GrpcCall call) noexcept:
        pass

    cdef void opened(self, Stream connection) noexcept:
        pass

    cdef void served(self) noexcept:
        pass

    cdef void retired(self, Stream connection) noexcept:
        pass

    cdef void lost(self, Stream connection, bint was_up) noexcept:
        pass
