"""Answers that are compressed on their way to the client: see compressor.pxd.

A cache keeps the answer as the endpoint gave it: it stands behind the compressor, so that one object serves clients of
every coding.
"""

import logging
from libc.stdint cimport uint32_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ
from lb.http.head cimport H_CONTENT_ENCODING, H_CONTENT_LENGTH, H_OTHER, Field, Scan, has_token, same_name
from lb.http.head_text cimport append_text
from lb.net.arena cimport View
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.splice cimport PASS_NOT
from lb.net.stream cimport Stream, iovec
from lb.proxy.client.relay cimport Relay
from lb.proxy.exchange.exchange cimport Exchange

log = logging.getLogger("tidegate.proxy")

cdef enum:
    PIECE = 64 * 1024                 # bytes that are compressed in one turn: about a millisecond
    PAUSE_NS = 50_000_000             # of an answer of known length, after which the client gets what there is

# Of the head that is being made.
cdef tg_buffer lines
cdef tg_buffer etag


cdef void compress(Exchange exchange, const Scan *scan) noexcept:
    cdef Compressor made = Compressor.__new__(Compressor)
    made.stand_before(exchange)
    made.rules = exchange.route.compression
    made.coding = -1
    made.weak = names_weak(scan)
    if not exchange.http10 and not exchange.head_method:      # HTTP/1.0 has no chunks
        # A client that has shown who it is may get what is for it alone.
        if made.rules.private or exchange.route.guard is None:
            made.coding = made.rules.choose(scan)


cdef class Compressor(Relay):

    def __dealloc__(self):
        tg_buffer_free(&self.rest)

    # The head.

    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept:
        if scan.status < 200 or not (scan.status == 304 or self.rules.concerns(scan)):
            self.real.respond(scan, extra, last)
            return
        tg_buffer_clear(&lines)
        if not varies(scan) and append_text(&lines, b"Vary: Accept-Encoding\r\n") < 0:
            self.fail()
            return
        if scan.status == 304:
            # It is about the 200 that the client has: its Vary (RFC 9110 section 15.4.5), and its ETag. A cache that
            # took a strong one for compressed bytes would join them with ranges of the endpoint's.
            if self.weak and weaken(scan) < 0:
                self.fail()
                return
        elif self.coding >= 0 and not last and self.rules.takes(scan):
            if not self.change_head(scan, extra):
                self.fail()
                return
        if extra != NULL and tg_buffer_append(&lines, tg_buffer_head(extra), tg_buffer_size(extra)) < 0:
            self.fail()
            return
        self.real.respond(scan, &lines, last)

    cdef bint change_head(self, Scan *scan, const tg_buffer *extra) noexcept:
        cdef bytes coding = <bytes>self.rules.codings[self.coding]
        cdef Field *field
        cdef int i, failed
        try:
            self.encoder = self.rules.makers[self.coding]()
        except Exception:
            log.exception("an answer could not be compressed")
            return False
        self.streams = not scan.has_length
        failed = append_text(&lines, b"Content-Encoding: ")
        failed |= tg_buffer_append(&lines, <const char *>coding, <size_t>len(coding))
        failed |= append_text(&lines, b"\r\n")
        for i in range(scan.field_count):
            field = &scan.fields[i]
            # A coding that it has already is identity, which is none (RFC 9110 section 12.5.3).
            if field.id == H_CONTENT_LENGTH or field.id == H_CONTENT_ENCODING or is_of_bytes(field):
                field.hop = True
        failed |= weaken(scan)
        scan.has_length = False
        return not failed

    # The body.

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        cdef const char *data
        cdef size_t size, piece, done = 0
        cdef int i
        if self.encoder is None:
            self.real.respond_body(parts, count)
            return
        for i in range(count):
            data = <const char *>parts[i].iov_base
            size = parts[i].iov_len
            if done < PIECE and not tg_buffer_size(&self.rest):
                piece = min(size, PIECE - done)
                if not self.put(data, piece):
                    return
                done += piece
                data += piece
                size -= piece
            if size and tg_buffer_append(&self.rest, data, size) < 0:
                self.fail()
                return
        if tg_buffer_size(&self.rest):
            self.poller.defer(self)
        elif self.streams:
            self.poller.mark(self)            # what came of it in this batch is all for now
        elif self.deadline > self.poller.now + PAUSE_NS:
            self.poller.arm(self, self.poller.now + PAUSE_NS)

    cdef bint put(self, const char *data, size_t size) noexcept:
        try:
            self.holding = True
            return self.pass_on(self.encoder.compress(PyMemoryView_FromMemory(<char *>data, <Py_ssize_t>size,
                                                                              PyBUF_READ)))
        except Exception:
            log.exception("an answer could not be compressed")
            self.fail()
            return False

    cdef bint flush(self, bint finish) noexcept:
        self.holding = False
        try:
            return self.pass_on(self.encoder.finish() if finish else self.encoder.flush())
        except Exception:
            log.exception("an answer could not be compressed")
            self.fail()
            return False

    cdef bint pass_on(self, bytes data) noexcept:
        cdef iovec part
        part.iov_base = PyBytes_AS_STRING(data)
        part.iov_len = <size_t>PyBytes_GET_SIZE(data)
        if part.iov_len:
            self.real.respond_body(&part, 1)
        return self.encoder is not None

    cdef void on_flush(self) noexcept:
        cdef size_t size = tg_buffer_size(&self.rest)
        if self.encoder is None:
            return
        if size:
            size = min(size, <size_t>PIECE)
            if not self.put(tg_buffer_head(&self.rest), size):
                return
            tg_buffer_consume(&self.rest, size)
            if tg_buffer_size(&self.rest):
                self.poller.defer(self)
                return
            tg_buffer_free(&self.rest)
        if self.ending:
            self.finish()
            return
        if self.streams and self.holding and not self.flush(False):
            return
        if self.exchange is not None and self.backlog() <= PIECE:
            self.exchange.client_drained()    # what was held back until `rest` had gone

    cdef void on_timer(self) noexcept:
        if self.encoder is not None and self.holding and not tg_buffer_size(&self.rest):
            self.flush(False)

    cdef bint respond_view(self, View view) noexcept:
        return self.encoder is None and self.real.respond_view(view)

    cdef Py_ssize_t respond_through(self, Stream source, size_t size) noexcept:
        return PASS_NOT if self.encoder is not None else self.real.respond_through(source, size)

    cdef size_t backlog(self) noexcept:
        return self.real.backlog() + tg_buffer_size(&self.rest)

    # The end.

    cdef void respond_end(self) noexcept:
        if self.encoder is None:
            Relay.respond_end(self)
        elif tg_buffer_size(&self.rest):
            self.ending = True                # `on_flush` comes back here
        else:
            self.finish()

    cdef void finish(self) noexcept:
        if self.flush(True):
            self.encoder = None
            self.poller.disarm(self)
            Relay.respond_end(self)

    cdef void abort(self) noexcept:
        if self.encoder is not None and self.holding and not tg_buffer_size(&self.rest):
            self.flush(False)                 # the client gets what came
        self.fail()

    cdef void fail(self) noexcept:
        self.encoder = None
        tg_buffer_free(&self.rest)
        self.poller.disarm(self)
        Relay.abort(self)


cdef int weaken(Scan *scan) noexcept:
    cdef Field *field
    cdef int i
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if same_name(field.name, field.name_length, b"etag") and field.value_length >= 2 and field.value[0] == 34:
            tg_buffer_clear(&etag)
            if append_text(&etag, b"W/") < 0 or tg_buffer_append(&etag, field.value, field.value_length) < 0:
                return -1
            field.value = tg_buffer_head(&etag)
            field.value_length += 2
            return 0                          # there is one at most (RFC 9110 section 8.8.3)
    return 0


cdef bint names_weak(const Scan *request) noexcept nogil:
    cdef const Field *field
    cdef uint32_t k
    cdef int i
    for i in range(request.field_count):
        field = &request.fields[i]
        if same_name(field.name, field.name_length, b"if-none-match"):
            for k in range(2, field.value_length):
                if field.value[k - 2] == 87 and field.value[k - 1] == 47 and field.value[k] == 34:     # W/"
                    return True
    return False


cdef bint varies(const Scan *scan) noexcept nogil:
    cdef const Field *field
    cdef int i
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 4 and same_name(field.name, 4, b"vary") and (
                has_token(field, b"accept-encoding") or has_token(field, b"*")):
            return True
    return False


cdef bint is_of_bytes(const Field *field) noexcept nogil:
    return field.id == H_OTHER and (
        same_name(field.name, field.name_length, b"accept-ranges")
        or same_name(field.name, field.name_length, b"content-md5")
        or same_name(field.name, field.name_length, b"content-digest")
        or same_name(field.name, field.name_length, b"repr-digest")
        or same_name(field.name, field.name_length, b"digest"))
