"""Answers that are decompressed on their way to clients that do not take their coding: see answer_decoder.pxd.

A cache keeps the answer as the endpoint gave it: it stands behind the decoder, so that one object serves clients of
every coding. What comes out is bounded in proportion to what went in by `max_ratio`, and by what the client takes.
"""

import logging
from libc.stdint cimport uint64_t
from libc.string cimport memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from lb.failure cimport FAIL_INTERNAL, FAIL_NO_MEMORY, FAIL_PROTOCOL, FAIL_TOO_LARGE
from lb.http.codings cimport accept_codings, accepted_weight
from lb.http.head cimport (
    H_CACHE_CONTROL, H_CONTENT_ENCODING, H_CONTENT_LENGTH, Field, Scan, has_token, same_name,
)
from lb.http.head_text cimport append_text
from lb.net.arena cimport View
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.poller cimport monotonic_ns
from lb.net.splice cimport PASS_NOT
from lb.net.stream cimport Stream, iovec
from lb.proxy.client.relay cimport Relay
from lb.proxy.exchange.compressor cimport Compressor, is_of_bytes, names_weak, varies, weaken
from lb.proxy.exchange.exchange cimport X_DONE, Exchange

log = logging.getLogger("tidegate.proxy")

cdef enum:
    TURN = 256 * 1024                 # bytes that come out in one turn: about a millisecond
    FREE = 1024 * 1024                # bytes that may come out whatever their ratio
    HIGH_WATER = 64 * 1024            # bytes that wait for the client before no more is decoded
    REFUSED = 1                       # a weight of `accepted_weight`; 0 = nothing is said

cdef uint64_t QUIET_NS = 60_000_000_000
cdef uint64_t quiet_until = 0
cdef tg_buffer lines                  # of the head that is being made


cdef void decode_answer(Exchange exchange, const Scan *scan) noexcept:
    cdef AnswerDecoder made = AnswerDecoder.__new__(AnswerDecoder)
    cdef const Field *field
    cdef int i
    memset(&made.accepted, 0, sizeof(made.accepted))
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if same_name(field.name, field.name_length, b"accept-encoding"):
            accept_codings(&made.accepted, field.value, field.value_length)
    made.rules = exchange.route.decompression
    made.headless = exchange.head_method
    made.weak = names_weak(scan)
    made.stand_before(exchange)


cdef class AnswerDecoder(Relay):

    def __dealloc__(self):
        tg_buffer_free(&self.rest)

    # The head.

    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept:
        cdef bint differs
        if scan.status == 304:
            # It is about the 200 that the client has, whose ETag was made weak (RFC 9110 section 15.4.5).
            differs = self.weak
            if differs and weaken(scan) < 0:
                self.fail(FAIL_NO_MEMORY, "out of memory")
                return
        else:
            differs = scan.status >= 200 and may_change(scan) and self.rules.coding_of(scan) != NULL
            if differs and self.is_wanted(scan) and (self.headless or not last) and not self.change_head(scan):
                return
        # The compressor says it of those that it might compress.
        if not differs or varies(scan) or (type(self.real) is Compressor and (
                scan.status == 304 or (<Compressor>self.real).rules.concerns(scan))):
            self.real.respond(scan, extra, last)
            return
        tg_buffer_clear(&lines)
        if append_text(&lines, b"Vary: Accept-Encoding\r\n") < 0 or (
                extra != NULL and tg_buffer_append(&lines, tg_buffer_head(extra), tg_buffer_size(extra)) < 0):
            self.fail(FAIL_NO_MEMORY, "out of memory")
            return
        self.real.respond(scan, &lines, last)

    cdef bint is_wanted(self, const Scan *scan) noexcept:
        cdef const Field *field = self.rules.coding_of(scan)
        cdef bytes coding = field.value[:field.value_length].lower()
        cdef int weight
        # Without `identity`, "*" speaks of it, too, where it refuses (RFC 9110 section 12.5.3).
        if self.accepted.identity == REFUSED or (self.accepted.identity == 0 and self.accepted.any == REFUSED):
            return False
        if coding == b"deflate":
            weight = self.accepted.deflate if self.accepted.deflate else self.accepted.any
        else:
            if coding == b"x-gzip":           # RFC 9110 section 8.4.1.3
                coding = b"gzip"
            weight = accepted_weight(&self.accepted, <const char *>coding)
        return weight <= REFUSED

    cdef bint change_head(self, Scan *scan) noexcept:
        """False: the answer was cut off."""
        cdef Field *field
        cdef int i
        try:
            if not self.headless:
                self.decoder = self.rules.decoder_of(scan)
        except MemoryError:
            self.fail(FAIL_NO_MEMORY, "out of memory")
            return False
        except Exception:
            log.exception("an answer could not be decompressed")
            self.fail(FAIL_INTERNAL, "internal error")
            return False
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.id == H_CONTENT_LENGTH or field.id == H_CONTENT_ENCODING or is_of_bytes(field):
                field.hop = True
        scan.has_length = False
        if weaken(scan) < 0:
            self.fail(FAIL_NO_MEMORY, "out of memory")
            return False
        return True

    # The body.

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        cdef int i
        if self.decoder is None:
            self.real.respond_body(parts, count)
            return
        for i in range(count):
            if tg_buffer_append(&self.rest, parts[i].iov_base, parts[i].iov_len) < 0:
                self.fail(FAIL_NO_MEMORY, "out of memory")
                return
        if not self.deferred:                 # else its turn comes
            self.go()

    cdef void go(self) noexcept:
        cdef uint64_t turn = self.given + TURN
        try:
            while (self.decoder is not None and self.given < turn and self.real.backlog() <= HIGH_WATER
                    and self.decode()):
                pass
        except ValueError as error:
            self.fail(FAIL_PROTOCOL, f"the endpoint's answer is not in the coding that it names: {error}")
        except MemoryError:
            self.fail(FAIL_NO_MEMORY, "out of memory")
        except Exception:
            log.exception("an answer could not be decompressed")
            self.fail(FAIL_INTERNAL, "internal error")
        # A client that is behind says when it is not (`drained`).
        if self.decoder is not None and self.has_more() and self.real.backlog() <= HIGH_WATER:
            self.poller.defer(self)

    cdef bint has_more(self):
        return self.ending or tg_buffer_size(&self.rest) or self.decoder.holds

    cdef bint decode(self) except -1:
        cdef size_t size = tg_buffer_size(&self.rest)
        cdef bytes piece = b"", data = b""
        cdef iovec part
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
                self.fail(FAIL_PROTOCOL, "the endpoint's compressed answer is cut off")
                return False
            self.decoder = None
            Relay.respond_end(self)
            return False
        else:
            return False
        part.iov_base = PyBytes_AS_STRING(data)
        part.iov_len = <size_t>PyBytes_GET_SIZE(data)
        self.given += part.iov_len
        if self.given > FREE and self.given > self.taken * self.rules.max_ratio:
            self.fail(FAIL_TOO_LARGE, "the endpoint's answer is more than "
                      f"{self.rules.max_ratio} times as large when it is decompressed")
            return False
        if part.iov_len:
            self.real.respond_body(&part, 1)
        return True

    cdef void on_flush(self) noexcept:
        cdef Exchange exchange = self.exchange               # which may let go of this
        cdef Relay own = self
        if self.decoder is None:
            return
        self.go()
        if own.exchange is not None and own.backlog() <= HIGH_WATER:
            exchange.client_drained()         # what was held back until `rest` had gone

    cdef void drained(self) noexcept:
        self.real.drained()
        if self.decoder is not None and self.has_more():
            self.poller.defer(self)

    cdef bint respond_view(self, View view) noexcept:
        return self.decoder is None and self.real.respond_view(view)

    cdef Py_ssize_t respond_through(self, Stream source, size_t size) noexcept:
        return PASS_NOT if self.decoder is not None else self.real.respond_through(source, size)

    cdef size_t backlog(self) noexcept:
        return self.real.backlog() + tg_buffer_size(&self.rest)

    # The end.

    cdef void respond_end(self) noexcept:
        if self.decoder is None:
            Relay.respond_end(self)
            return
        self.ending = True
        if not self.deferred:
            self.go()

    cdef void abort(self) noexcept:
        self.decoder = None
        tg_buffer_free(&self.rest)
        Relay.abort(self)

    cdef void fail(self, int kind, str why) noexcept:
        global quiet_until
        cdef Exchange exchange = self.exchange
        cdef uint64_t now = monotonic_ns()
        self.decoder = None
        tg_buffer_free(&self.rest)
        if now >= quiet_until:
            quiet_until = now + QUIET_NS
            log.warning("%s: an answer could not be decompressed: %s",
                        exchange.route.name if exchange is not None else self.listener.name, why)
        if exchange is not None and exchange.state != X_DONE:
            exchange.fail(kind, why)
        else:
            Relay.abort(self)


cdef bint may_change(const Scan *scan) noexcept nogil:
    """Whether an answer has all of a representation, and does not say that it has to stay as it is."""
    cdef const Field *field
    cdef int i
    if scan.status in (204, 205, 206):
        return False
    for i in range(scan.field_count):
        field = &scan.fields[i]
        # RFC 9111 section 5.2.2.6.
        if field.id == H_CACHE_CONTROL and has_token(field, b"no-transform"):
            return False
        if same_name(field.name, field.name_length, b"content-range"):
            return False
    return True
