"""gRPC-Web in front of an endpoint that speaks gRPC: see grpc_web_codec.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport strlen
from lb.failure cimport FAIL_BAD_BODY, FAIL_NO_MEMORY
from lb.net.buffer cimport tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_CONTENT_LENGTH, H_CONTENT_TYPE, H_TRAILER, Field, Scan
from lb.http.head_text cimport append_trailers
from lb.net.stream cimport iovec
from lb.proxy.exchange.exchange cimport Exchange
from lb.http.grpc.web cimport (
    WEB_NO_MEMORY, WEB_NONE, WEB_OK, web_decode, web_decode_end, web_encode, web_kind, web_trailers_begin,
    web_trailers_end,
)

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


cdef class WebCodec:

    def __dealloc__(self):
        tg_buffer_free(&self.piece)
        tg_buffer_free(&self.type)

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

    cdef int rewrite_request(self, Scan *scan) noexcept:
        if self.text and scan.first[H_CONTENT_LENGTH] >= 0:
            scan.fields[scan.first[H_CONTENT_LENGTH]].hop = True      # base64's
        return self.retype(scan, PLAIN, strlen(WEB_TEXT_TYPE if self.text else WEB))

    cdef bint decode(self, Exchange exchange, const iovec *spans, int count, bint last) noexcept:
        cdef int i, rc = WEB_OK
        tg_buffer_clear(&self.piece)
        for i in range(count):
            if rc == WEB_OK:
                rc = web_decode(&self.decoder, <const char *>spans[i].iov_base, spans[i].iov_len, &self.piece)
        if rc == WEB_OK and last:
            rc = web_decode_end(&self.decoder)
        if rc == WEB_NO_MEMORY:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
        elif rc != WEB_OK:
            exchange.fail(FAIL_BAD_BODY, "the body is not base64")
        return rc == WEB_OK

    cdef bint rewrite_answer(self, Exchange exchange, Scan *scan, bint last) noexcept:
        cdef int i
        if self.retype(scan, WEB_TEXT_TYPE if self.text else WEB, strlen(PLAIN)) < 0:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
            return False
        if scan.first[H_CONTENT_LENGTH] >= 0 and not last:
            scan.fields[scan.first[H_CONTENT_LENGTH]].hop = True      # the trailers' frame makes it longer
            scan.has_length = False
        for i in range(scan.field_count):
            if scan.fields[i].id == H_TRAILER:
                scan.fields[i].hop = True                             # they come in the body
        return True

    cdef bint encode(self, Exchange exchange, iovec *part) noexcept:
        tg_buffer_clear(&self.piece)
        if web_encode(part, 1, &self.piece) < 0:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
            return False
        part.iov_base = tg_buffer_head(&self.piece)
        part.iov_len = tg_buffer_size(&self.piece)
        return True

    cdef void send_trailers(self, Exchange exchange, Scan *scan) noexcept:
        cdef tg_buffer frame
        cdef iovec part
        cdef Py_ssize_t begun
        frame.data = NULL
        frame.start = frame.end = frame.capacity = 0
        begun = web_trailers_begin(&frame)
        if begun < 0 or append_trailers(&frame, scan) < 0:
            tg_buffer_free(&frame)
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
            return
        web_trailers_end(&frame, begun)
        part.iov_base = tg_buffer_head(&frame)
        part.iov_len = tg_buffer_size(&frame)
        if not self.text or self.encode(exchange, &part):
            exchange.bytes_out += part.iov_len
            exchange.client.respond_body(&part, 1)
        tg_buffer_free(&frame)
