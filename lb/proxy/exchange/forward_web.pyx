"""An exchange of a gRPC-Web client with a pool that speaks gRPC: see forward_web.pxd.

Messages are framed alike on both sides. What differs is the content type, base64 in the text form, and the trailers,
which browsers do not show to pages: they follow in the body as one more frame.
"""

from libc.stdint cimport uint32_t
from libc.string cimport strlen
from lb.net.buffer cimport tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_CONTENT_LENGTH, H_CONTENT_TYPE, H_TRAILER, Field, Scan
from lb.http.head_text cimport append_trailers
from lb.http.http2.block cimport block_add
from lb.net.stream cimport iovec
from lb.proxy.exchange.forward_http2 cimport Http2Exchange
from lb.http.grpc.web cimport (
    WEB_NO_MEMORY, WEB_NONE, WEB_OK, web_decode, web_decode_end, web_encode, web_kind, web_trailers_begin,
    web_trailers_end,
)
from lb.proxy.exchange.refusal cimport SPEAKS_WEB_TEXT

cdef const char *WEB = b"application/grpc-web"
cdef const char *WEB_TEXT_TYPE = b"application/grpc-web-text"
cdef const char *PLAIN = b"application/grpc"


cdef int web_kind_of(Scan *scan) noexcept:
    cdef const char *format
    cdef size_t n
    cdef Field *field
    if scan.first[H_CONTENT_TYPE] < 0:
        return WEB_NONE
    field = &scan.fields[scan.first[H_CONTENT_TYPE]]
    return web_kind(field.value, field.value_length, &format, &n)


cdef class WebExchange(Http2Exchange):

    def __dealloc__(self):
        tg_buffer_free(&self.piece)
        tg_buffer_free(&self.type)

    cdef bint text(self) noexcept:
        return self.grpc == SPEAKS_WEB_TEXT

    cdef int retype(self, Scan *scan, const char *prefix, size_t known) noexcept:
        cdef Field *field
        if scan.first[H_CONTENT_TYPE] < 0:
            return 0
        field = &scan.fields[scan.first[H_CONTENT_TYPE]]
        if field.value_length < known:
            return 0                          # not gRPC: passed on as it is
        tg_buffer_clear(&self.type)
        if (tg_buffer_append(&self.type, prefix, strlen(prefix)) < 0
                or tg_buffer_append(&self.type, field.value + known, field.value_length - known) < 0):
            return -1
        field.value = tg_buffer_head(&self.type)
        field.value_length = <uint32_t>tg_buffer_size(&self.type)
        return 0

    cdef int build_fields(self, Scan *scan) noexcept:
        if self.retype(scan, PLAIN, strlen(WEB_TEXT_TYPE if self.text() else WEB)) < 0:
            return -1
        if self.text() and scan.first[H_CONTENT_LENGTH] >= 0:
            scan.fields[scan.first[H_CONTENT_LENGTH]].hop = True      # base64's
        if Http2Exchange.build_fields(self, scan) < 0:
            return -1
        return block_add(&self.call.fields, b"te", 2, b"trailers", 8)

    cdef void request_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef iovec part
        cdef int i, rc = WEB_OK
        if not self.text():
            Http2Exchange.request_body(self, spans, count, size, last)
            return
        tg_buffer_clear(&self.piece)
        for i in range(count):
            if rc == WEB_OK:
                rc = web_decode(&self.decoder, <const char *>spans[i].iov_base, spans[i].iov_len, &self.piece)
        if rc == WEB_OK and last:
            rc = web_decode_end(&self.decoder)
        if rc == WEB_NO_MEMORY:
            self.fail(503, b"no-memory", "out of memory")
        elif rc != WEB_OK:
            self.fail(400, b"bad-body", "the body is not base64")
        else:
            part.iov_base = tg_buffer_head(&self.piece)
            part.iov_len = tg_buffer_size(&self.piece)
            Http2Exchange.request_body(self, &part, 1, part.iov_len, last)

    cdef void answer_head(self, Scan *scan, bint last) noexcept:
        cdef int i
        if self.retype(scan, WEB_TEXT_TYPE if self.text() else WEB, strlen(PLAIN)) < 0:
            self.fail(503, b"no-memory", "out of memory")
            return
        if scan.first[H_CONTENT_LENGTH] >= 0 and not last:
            scan.fields[scan.first[H_CONTENT_LENGTH]].hop = True      # the trailers' frame makes it longer
            scan.has_length = False
        for i in range(scan.field_count):
            if scan.fields[i].id == H_TRAILER:
                scan.fields[i].hop = True                             # they come in the body
        Http2Exchange.answer_head(self, scan, last)

    cdef void answer_data(self, const char *data, size_t size, size_t *held) noexcept:
        cdef iovec part
        cdef size_t ignored = 0
        if not self.text():
            Http2Exchange.answer_data(self, data, size, held)
            return
        part.iov_base = <void *>data
        part.iov_len = size
        tg_buffer_clear(&self.piece)
        if web_encode(&part, 1, &self.piece) < 0:
            self.fail(503, b"no-memory", "out of memory")
            return
        Http2Exchange.answer_data(self, tg_buffer_head(&self.piece), tg_buffer_size(&self.piece), &ignored)
        if ignored:
            held[0] = size                    # what the endpoint sent, not what became of it

    cdef void answer_trailers(self, Scan *scan) noexcept:
        cdef tg_buffer frame
        cdef iovec part
        cdef Py_ssize_t begun
        frame.data = NULL
        frame.start = frame.end = frame.capacity = 0
        self.find_grpc_status(scan.trailers, scan.trailer_count)
        begun = web_trailers_begin(&frame)
        if begun < 0 or append_trailers(&frame, scan) < 0:
            tg_buffer_free(&frame)
            self.fail(503, b"no-memory", "out of memory")
            return
        web_trailers_end(&frame, begun)
        part.iov_base = tg_buffer_head(&frame)
        part.iov_len = tg_buffer_size(&frame)
        if self.text():
            tg_buffer_clear(&self.piece)
            if web_encode(&part, 1, &self.piece) < 0:
                tg_buffer_free(&frame)
                self.fail(503, b"no-memory", "out of memory")
                return
            part.iov_base = tg_buffer_head(&self.piece)
            part.iov_len = tg_buffer_size(&self.piece)
        self.bytes_out += part.iov_len
        self.client.respond_body(&part, 1)
        tg_buffer_free(&frame)
