"""Errors of endpoints whose place an error page takes: see intercepted.pxd.

A cache in between keeps the page by the endpoint's word, and under the page's own description; one with values of the
request is not kept at all.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memchr, memset, strlen
from lb.http.head cimport (
    H_CACHE_CONTROL, H_CONTENT_LENGTH, H_CONTENT_TYPE, H_OTHER, MAX_FIELDS, Field, Scan, same_name,
)
from lb.http.head_text cimport reason_phrase
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.net.stream cimport iovec
from lb.proxy.exchange.exchange cimport X_DONE, Exchange, gather_error
from lb.proxy.routing.error_pages cimport ErrorPage, is_one_of
from lb.proxy.routing.headers.fields cimport put
from lb.proxy.routing.values.format cimport tg_values

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    MOST_ADDED = 20                   # fields: those of a page, and two more
    MOST_DROPPED = 64 * 1024          # bytes of an endpoint's answer that are read for the sake of its connection
    PATIENCE_NS = 500_000_000         # for them; the client waits as long with its next request

cdef bytes CONTENT_LENGTH = b"Content-Length"
cdef bytes CACHE_CONTROL = b"Cache-Control"
cdef bytes NO_STORE = b"no-store"
# Of the answer that is being made.
cdef tg_buffer lines


cdef void intercept(Exchange exchange, Scan *scan) noexcept:
    cdef ErrorPage page = None
    cdef Intercepted made
    if exchange.route.error_pages is not None:
        page = exchange.route.error_pages.find(scan.status, True)
    if page is None and exchange.listener.error_pages is not None:
        page = exchange.listener.error_pages.find(scan.status, True)
    if page is None or scan.field_count + MOST_ADDED >= MAX_FIELDS:
        return
    made = Intercepted.__new__(Intercepted)
    made.page = page
    made.stand_before(exchange)


cdef class Intercepted(Relay):

    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept:
        cdef Exchange exchange = self.exchange
        cdef tg_values values
        cdef char number[16]
        cdef iovec part
        cdef bytes body
        cdef const char *phrase = reason_phrase(scan.status)
        memset(&values, 0, sizeof(values))
        gather_error(&values, exchange, scan.status, phrase, strlen(phrase), number)
        if scan.status < 200:
            self.real.respond(scan, extra, last)
            return
        tg_buffer_clear(&lines)
        try:
            body = self.page.make(&lines, &values)
            self.length = b"" if body is None else b"%d" % len(body)
        except MemoryError:
            body = None
        if body is None:
            self.page = None                  # out of memory, or too long: the client gets what the endpoint says
            self.real.respond(scan, extra, last)
            return
        self.change_head(scan, <size_t>len(body))
        self.size = 0 if exchange.head_method else <size_t>len(body)
        self.real.respond(scan, extra, last and not self.size)
        if self.size:
            part.iov_base = <char *>body
            part.iov_len = self.size
            self.real.respond_body(&part, 1)
        exchange.bytes_out = self.size
        if not last:
            self.poller.arm(self, self.poller.now + PATIENCE_NS)

    cdef void change_head(self, Scan *scan, size_t size) noexcept:
        """Takes out what describes the endpoint's body, and what the page says itself. `intercept` has seen that there
        is room for what is added."""
        cdef Field *field
        cdef const char *phrase
        cdef int i
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if describes_body(field) or is_one_of(field.name, field.name_length, self.page.names) or (
                    self.page.valued and says_lifetime(field)):
                field.hop = True
        add_lines(scan, tg_buffer_head(&lines), tg_buffer_size(&lines))
        scan.has_length = True
        scan.content_length = size
        put(scan, CONTENT_LENGTH, self.length)
        scan.first[H_CONTENT_LENGTH] = scan.field_count - 1
        scan.fields[scan.field_count - 1].id = H_CONTENT_LENGTH
        if self.page.valued:
            put(scan, CACHE_CONTROL, NO_STORE)
        if self.page.status:
            scan.status = self.page.status
            phrase = reason_phrase(scan.status)
            scan.reason = phrase
            scan.reason_length = <uint32_t>strlen(phrase)

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        cdef Exchange exchange = self.exchange
        cdef int i
        if self.page is None:
            self.real.respond_body(parts, count)
            return
        exchange.bytes_out = self.size
        for i in range(count):
            self.dropped += parts[i].iov_len
        if self.dropped > MOST_DROPPED:
            self.give_up()

    cdef void on_timer(self) noexcept:
        if self.page is not None:
            self.give_up()

    cdef void give_up(self) noexcept:
        """The endpoint's connection goes, with what it has not said yet; the client has all of its answer."""
        cdef Exchange exchange = self.exchange
        if exchange is None or exchange.state == X_DONE:
            return
        exchange.cancel()
        exchange.let_go(exchange.status < 500)
        exchange.record()
        self.respond_end()

    cdef void respond_end(self) noexcept:
        self.poller.disarm(self)
        Relay.respond_end(self)

    cdef void respond_trailers(self, Scan *scan) noexcept:
        if self.page is None:
            self.real.respond_trailers(scan)

    cdef void abort(self) noexcept:
        if self.page is None:
            Relay.abort(self)
        else:
            self.respond_end()                # the client has all of its answer

    cdef size_t backlog(self) noexcept:
        return self.real.backlog() if self.page is None else 0


cdef void add_lines(Scan *scan, const char *at, size_t n) noexcept nogil:
    """Adds fields that lie in "Name: value\r\n" lines. What the page says of itself takes the endpoint's place."""
    cdef const char *end = at + n
    cdef const char *stop
    cdef const char *colon
    cdef Field *field
    while at < end and scan.field_count < MAX_FIELDS - 1:
        stop = <const char *>memchr(at, 13, <size_t>(end - at))
        colon = <const char *>memchr(at, 58, <size_t>(end - at))
        if stop == NULL or colon == NULL or colon + 2 > stop:
            return
        field = &scan.fields[scan.field_count]
        field.name = at
        field.name_length = <uint32_t>(colon - at)
        field.value = colon + 2
        field.value_length = <uint32_t>(stop - field.value)
        field.id = H_OTHER
        field.hop = False
        if is_named(field, b"content-type", 12):
            field.id = H_CONTENT_TYPE
        elif is_named(field, b"cache-control", 13):
            field.id = H_CACHE_CONTROL
        if field.id != H_OTHER:
            scan.first[field.id] = scan.field_count
        scan.field_count += 1
        at = stop + 2


cdef bint describes_body(const Field *field) noexcept nogil:
    """Whether a field is about the bytes of the body (RFC 9110 section 8), or about parts of them (section 14)."""
    if field.name_length > 8 and strncasecmp(field.name, b"content-", 8) == 0:
        return not (field.name_length == 23 and same_name(field.name, 23, b"content-security-policy"))
    return (is_named(field, b"etag", 4) or is_named(field, b"last-modified", 13)
            or is_named(field, b"accept-ranges", 13) or is_named(field, b"digest", 6)
            or is_named(field, b"repr-digest", 11) or is_named(field, b"trailer", 7))


cdef bint says_lifetime(const Field *field) noexcept nogil:
    return (is_named(field, b"cache-control", 13) or is_named(field, b"expires", 7)
            or is_named(field, b"cdn-cache-control", 17) or is_named(field, b"tidegate-cache-control", 22))


cdef inline bint is_named(const Field *field, const char *lower, uint32_t n) noexcept nogil:
    return field.name_length == n and same_name(field.name, n, lower)
