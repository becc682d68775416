"""Requests whose bodies are decompressed on their way to the endpoint: see request_decoder.pxd.

The attempt sees a request that never had a coding, so that a retry, a hedge and a mirror send what was decoded. What
comes out is bounded by the route's `max_body`, and in proportion to what went in by `max_ratio`.
"""

import logging
from libc.stdint cimport uint64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from lb.failure cimport FAIL_BAD_BODY, FAIL_BODY_TOO_LARGE, FAIL_INTERNAL, FAIL_NO_MEMORY
from lb.http.head cimport H_CONTENT_ENCODING, H_CONTENT_LENGTH, Field, Scan
from lb.net.arena cimport View
from lb.net.buffer cimport tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.stream cimport Stream, iovec
from lb.proxy.client.relay cimport Relay
from lb.proxy.exchange.compressor cimport is_of_bytes
from lb.proxy.exchange.exchange cimport X_DONE, X_UPGRADED, BodySource, Exchange

log = logging.getLogger("tidegate.proxy")

cdef enum:
    TURN = 256 * 1024                 # bytes that come out in one turn: about a millisecond
    FREE = 1024 * 1024                # bytes that may come out whatever their ratio


cdef bint decode_request(Exchange exchange, Scan *scan) noexcept:
    cdef RequestDecoder made
    cdef DecodedBody body
    cdef Field *field
    cdef int i
    if not (scan.chunked or (scan.has_length and scan.content_length) or (scan.version == 20 and not scan.complete)):
        return True                           # there is no body
    try:
        decoder = exchange.route.decompression.decoder_of(scan)
        if decoder is None:
            return True
        made = RequestDecoder.__new__(RequestDecoder)
        body = DecodedBody.__new__(DecodedBody)
    except MemoryError:
        exchange.request_complete = scan.complete
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
        return False
    except Exception:
        log.exception("a request could not be decompressed")
        exchange.request_complete = scan.complete
        exchange.fail(FAIL_INTERNAL, "internal error")
        return False
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.id == H_CONTENT_LENGTH or field.id == H_CONTENT_ENCODING or is_of_bytes(field):
            field.hop = True
    scan.has_length = False
    scan.chunked = True
    made.rules = exchange.route.decompression
    made.decoder = decoder
    made.stand_before(exchange)
    body.decoder = made
    exchange.source = body
    return True


cdef class DecodedBody(BodySource):

    cdef void begin(self, Exchange exchange, Scan *scan) noexcept:
        cdef bint complete = scan.complete, wants
        exchange.key = exchange.find_key(scan)
        scan.complete = False                 # what is decoded comes in pieces, also of a body that is here whole
        wants = exchange.attempt.begin(scan)
        scan.complete = complete
        if wants:
            exchange.pick()

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef int i
        if exchange.state == X_UPGRADED:
            exchange.attempt.take_body(spans, count, size, last)
            return
        for i in range(count):
            if tg_buffer_append(&self.decoder.rest, spans[i].iov_base, spans[i].iov_len) < 0:
                exchange.fail(FAIL_NO_MEMORY, "out of memory")
                return
        self.decoder.ending = last
        if not self.decoder.deferred:         # else its turn comes
            self.decoder.go(exchange)

    cdef void leave(self, Exchange exchange) noexcept:
        tg_buffer_free(&self.decoder.rest)
        self.decoder.decoder = None


cdef class RequestDecoder(Relay):

    def __dealloc__(self):
        tg_buffer_free(&self.rest)

    cdef void go(self, Exchange exchange) noexcept:
        cdef uint64_t turn = self.given + TURN
        if self.decoder is None or exchange.state == X_DONE or exchange.request_complete:
            return
        try:
            while not self.blocked and self.given < turn and self.decode(exchange):
                pass
        except ValueError as error:
            self.fail_body(exchange, FAIL_BAD_BODY, f"the request's body is damaged: {error}")
        except MemoryError:
            self.fail_body(exchange, FAIL_NO_MEMORY, "out of memory")
        except Exception:
            log.exception("a request could not be decompressed")
            self.fail_body(exchange, FAIL_INTERNAL, "internal error")
        if self.decoder is None or exchange.state == X_DONE or exchange.request_complete:
            return
        # A body that is here whole makes its client wait, too: what follows it is another request.
        exchange.wants_body = not (self.blocked or self.ending or tg_buffer_size(&self.rest) or self.decoder.holds)
        if not self.blocked and not exchange.wants_body:
            self.poller.defer(self)

    cdef bint decode(self, Exchange exchange) except -1:
        cdef size_t size = tg_buffer_size(&self.rest)
        cdef bytes piece = b"", data = b""
        cdef iovec part
        cdef bint last = False
        if self.decoder.holds:
            data = self.decoder.decode(b"")
        elif size:
            size = min(size, <size_t>self.decoder.step)
            piece = tg_buffer_head(&self.rest)[:size]
            tg_buffer_consume(&self.rest, size)
            if tg_buffer_size(&self.rest) == 0:
                tg_buffer_free(&self.rest)
            self.taken += size
            data = self.decoder.decode(piece)
        elif self.ending:
            if self.taken and not self.decoder.whole:
                self.fail_body(exchange, FAIL_BAD_BODY, "the request's body is cut off")
                return False
            last = True
        else:
            return False
        part.iov_base = PyBytes_AS_STRING(data)
        part.iov_len = <size_t>PyBytes_GET_SIZE(data)
        if not part.iov_len and not last:
            return True
        self.given += part.iov_len
        if self.given > exchange.route.max_body:
            self.fail_body(exchange, FAIL_BODY_TOO_LARGE,
                           f"the request's decompressed body is over the limit of {exchange.route.max_body} bytes")
            return False
        if self.given > FREE and self.given > self.taken * self.rules.max_ratio:
            self.fail_body(exchange, FAIL_BODY_TOO_LARGE, "the request's body is more than "
                           f"{self.rules.max_ratio} times as large when it is decompressed")
            return False
        exchange.wants_body = True
        exchange.attempt.take_body(&part, 1, part.iov_len, last)
        self.blocked = not exchange.wants_body
        return not last

    cdef void fail_body(self, Exchange exchange, int kind, str why) noexcept:
        self.decoder = None
        tg_buffer_free(&self.rest)
        if exchange.state != X_DONE:
            exchange.request_complete = self.ending          # then the connection can go on
            exchange.fail(kind, why)

    cdef void on_flush(self) noexcept:
        cdef Exchange exchange = self.exchange               # which may let go of this
        cdef Relay own = self
        if exchange is None:
            return
        self.go(exchange)
        if own.exchange is not None and exchange.wants_body and not exchange.request_complete:
            own.real.resume_request()

    # What the attempt says to its client.

    cdef void resume_request(self) noexcept:
        if self.exchange is None or self.decoder is None or self.exchange.state == X_UPGRADED:
            self.real.resume_request()
            return
        self.blocked = False
        if self.ending or tg_buffer_size(&self.rest) or self.decoder.holds:
            self.exchange.wants_body = False
            self.poller.defer(self)
        else:
            self.real.resume_request()

    cdef void answered_early(self) noexcept:
        if not self.ending:
            self.real.answered_early()

    cdef bint respond_view(self, View view) noexcept:
        return self.real.respond_view(view)

    cdef Py_ssize_t respond_through(self, Stream source, size_t size) noexcept:
        return self.real.respond_through(source, size)
