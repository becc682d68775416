"""The answers of an HTTP/1.1 connection: see http1_answer.pxd.

They are queued and sent once at the end of the poller's batch, bulk bodies straight from where they were received.
"""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.chunks cimport GATHERED, append_chunk
from lb.http.head cimport H_CONTENT_LENGTH, H_UPGRADE, Field, Scan, is_dated, worker_scan
from lb.http.head_text cimport (
    append_chunk_size, append_date, append_fields, append_number, append_text, append_trailers, reason_phrase,
)
from lb.net.stream cimport IO_ERROR, iovec
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.rejected cimport count_declined, log_declined
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.refusal cimport SPEAKS_HTTP, Refusal, refusal

cdef enum:
    INTERIM_LIMIT = 64 * 1024         # bytes that wait for the client, above which no interim answer is added


cdef class AnsweringConnection(Client):

    def __dealloc__(self):
        tg_buffer_free(&self.trailers)

    cdef void close_now(self) noexcept:
        pass

    cdef void skip_body(self, uint64_t most) noexcept:
        pass

    cdef void decline(self, int status, str message, const tg_buffer *fields=NULL) noexcept:
        cdef Refusal answer = refusal(status, message, SPEAKS_HTTP, fields)
        cdef Scan *scan = worker_scan()
        if not scan.complete:
            self.keep = False                     # the rest of its body would be read as a request
        if scan.head:
            log_declined(self, scan, scan.version, status, -1)
        else:
            log_declined(self, NULL, 0, status, -1)
        count_declined(self.listener.series, status)
        self.respond_whole(status, &answer.head, &answer.part, 1)

    cdef void send_continue(self) noexcept:
        append_text(&self.out, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.poller.mark(self)

    cdef void answered_early(self) noexcept:
        self.keep = False

    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept:
        cdef int status = scan.status
        cdef bint bodiless = status == 204 or status == 304 or self.head_request
        if status < 200 and self.pending() > INTERIM_LIMIT:
            return                                # they are said without end, or the client does not read
        append_text(&self.out, b"HTTP/1.1 ")
        append_number(&self.out, <uint64_t>status)
        append_text(&self.out, b" ")
        if scan.reason_length:
            tg_buffer_append(&self.out, scan.reason, scan.reason_length)
        elif scan.version == 20:
            append_text(&self.out, reason_phrase(status))
        append_text(&self.out, b"\r\n")
        # Neither an interim answer nor 204 has a length (RFC 9110 section 8.6).
        append_fields(&self.out, scan, <uint64_t>1 << H_CONTENT_LENGTH if status < 200 or status == 204 else 0)
        if status < 200:
            append_text(&self.out, b"\r\n")
            self.poller.mark(self)
            return
        if not is_dated(scan):
            append_date(&self.out, self.poller.now)   # RFC 9110 section 6.6.1: whoever passes it on has to
        if extra != NULL:
            tg_buffer_append(&self.out, tg_buffer_head(extra), tg_buffer_size(extra))
        self.chunking = False
        self.until_close = False
        if not bodiless and not scan.has_length:
            if last:
                append_text(&self.out, b"Content-Length: 0\r\n")
            elif self.http10:
                self.keep = False
                self.until_close = True
            else:
                self.chunking = True
                self.chunk = 0
                append_text(&self.out, b"Transfer-Encoding: chunked\r\n")
        if status == 426 and scan.first[H_UPGRADE] >= 0 and not self.http10:
            self.upgrade_field(scan)                  # RFC 9110 section 15.5.22: it says to what
            append_text(&self.out, b"Connection: Upgrade\r\n")
        self.connection_field()
        append_text(&self.out, b"\r\n")
        self.poller.mark(self)

    cdef void upgrade_field(self, const Scan *scan) noexcept:
        cdef const Field *field = &scan.fields[scan.first[H_UPGRADE]]
        append_text(&self.out, b"Upgrade: ")
        tg_buffer_append(&self.out, field.value, field.value_length)
        append_text(&self.out, b"\r\n")

    cdef void connection_field(self) noexcept:
        if self.intake.draining or self.listener.draining:
            self.keep = False                     # since the request came, perhaps
        if not self.keep:
            append_text(&self.out, b"Connection: close\r\n")
        elif self.http10:
            append_text(&self.out, b"Connection: keep-alive\r\n")

    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
        cdef Exchange exchange = self.exchange
        cdef uint64_t size = 0
        cdef int i
        if self.fd < 0:
            return
        if exchange is not None and not exchange.request_complete:
            self.keep = False                     # the rest of its body would be read as a request
        for i in range(count):
            size += parts[i].iov_len
        append_text(&self.out, b"HTTP/1.1 ")
        append_number(&self.out, <uint64_t>status)
        append_text(&self.out, b" ")
        append_text(&self.out, reason_phrase(status))
        append_text(&self.out, b"\r\n")
        append_date(&self.out, self.poller.now)
        tg_buffer_append(&self.out, tg_buffer_head(head), tg_buffer_size(head))
        if status != 204 and status != 304:       # RFC 9110 section 8.6
            append_text(&self.out, b"Content-Length: ")
            append_number(&self.out, size)
            append_text(&self.out, b"\r\n")
        self.connection_field()
        append_text(&self.out, b"\r\n")
        self.chunking = False
        if not self.head_request:
            self.respond_body(parts, count)
        if self.fd >= 0:
            self.respond_end()

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        cdef size_t size = 0, waiting
        cdef int i, failed = 0
        if self.fd < 0:
            return
        for i in range(count):
            size += parts[i].iov_len
        if size == 0:
            return
        if size >= GATHERED:
            if self.chunking:
                self.chunk = 0
                append_chunk_size(&self.out, size)
            waiting = self.pending() + size
            failed = self.push_parts(parts, count) == IO_ERROR
            if self.pending() < waiting:
                self.send_deadline = 0
            if self.chunking:
                failed |= append_text(&self.out, b"\r\n")
        elif self.chunking:
            failed = append_chunk(&self.out, &self.chunk, tg_buffer_size(&self.out), parts, count, size)
        else:
            for i in range(count):
                failed |= tg_buffer_append(&self.out, parts[i].iov_base, parts[i].iov_len)
        if failed:
            self.close_now()
            return
        self.poller.mark(self)

    cdef void respond_upgrade(self, Scan *scan) noexcept:
        append_text(&self.out, b"HTTP/1.1 101 Switching Protocols\r\n")
        append_fields(&self.out, scan, 0)
        if scan.first[H_UPGRADE] >= 0:
            self.upgrade_field(scan)
        append_text(&self.out, b"Connection: Upgrade\r\n\r\n")
        self.keep = False
        self.raw = True
        self.chunking = False
        self.until_close = False
        self.poller.mark(self)                    # which also takes up what came early

    cdef void respond_trailers(self, Scan *scan) noexcept:
        if self.chunking and append_trailers(&self.trailers, scan) < 0:
            self.close_now()

    cdef void respond_end(self) noexcept:
        cdef Exchange exchange = self.exchange
        self.intake.busy -= exchange is not None
        self.exchange = None
        self.head_request = False
        if self.fd < 0:
            return
        if self.chunking:
            self.chunking = False
            append_text(&self.out, b"0\r\n")
            tg_buffer_append(&self.out, tg_buffer_head(&self.trailers), tg_buffer_size(&self.trailers))
            append_text(&self.out, b"\r\n")
        tg_buffer_free(&self.trailers)
        if not self.keep or self.intake.draining or self.listener.draining:
            self.closing = True
        elif exchange is not None and not exchange.request_complete:
            self.skip_body(exchange.route.max_body - min(exchange.bytes_in, exchange.route.max_body))
        self.poller.mark(self)                    # which also takes up the next request

    cdef void abort(self) noexcept:
        self.intake.busy -= self.exchange is not None
        self.exchange = None
        if self.fd < 0:
            return
        # What has come of the answer goes out before the end that shows it to be cut (`finish`).
        self.keep = False
        self.cut = True
        self.closing = True
        self.cut_short()
        self.poller.mark(self)
