"""A stored answer becomes the answer of an exchange: see give.pxd."""

from libc.stdint cimport uint64_t
from lb.http.caching.conditions cimport choose_part, tg_part, tg_validators
from lb.http.head cimport Field, Scan, scan_field
from lb.http.head_text cimport append_number, append_text
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.net.stream cimport iovec
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.http_cache.stored cimport stored_body, stored_scan, stored_validators, tg_stored

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

# Of the answer that is being made: a worker makes one at a time, while its Scan still has the request.
cdef Scan ANSWER
ANSWER.max_fields = 1000
cdef tg_buffer EXTRA
cdef tg_buffer LENGTH
cdef tg_buffer RANGE


cdef void part_of(tg_part *part, const Scan *asked, const tg_stored *stored, uint64_t size,
                  bint head_method) noexcept nogil:
    cdef tg_validators validators
    part.first = 0
    part.last = 0
    part.status = 200
    if stored.status != 200:
        return
    stored_validators(&validators, stored)
    choose_part(part, asked, &validators, size, not head_method)


cdef uint64_t part_size(const tg_stored *stored, const tg_part *part, uint64_t size, bint head_method) noexcept nogil:
    if head_method or part.status == 304 or part.status == 416 or stored.status == 204:
        return 0
    return part.last - part.first + 1 if part.status == 206 else size


cdef bint describes_body(const Field *field) noexcept nogil:
    """Whether a 304 goes without it (RFC 9110 section 15.4.5)."""
    return (field.name_length > 8 and strncasecmp(field.name, b"content-", 8) == 0
            and not (field.name_length == 16 and strncasecmp(field.name, b"content-location", 16) == 0)
            and not (field.name_length == 23 and strncasecmp(field.name, b"content-security-policy", 23) == 0))


cdef int add_length(uint64_t size) noexcept:
    tg_buffer_clear(&LENGTH)
    if append_number(&LENGTH, size) < 0:
        return -1
    ANSWER.content_length = size
    return scan_field(&ANSWER, b"Content-Length", 14, tg_buffer_head(&LENGTH), tg_buffer_size(&LENGTH))


cdef int add_range(const tg_part *part, uint64_t size) noexcept:
    cdef int failed
    tg_buffer_clear(&RANGE)
    failed = append_text(&RANGE, b"bytes ")
    if part.status == 416:
        failed |= append_text(&RANGE, b"*")
    else:
        failed |= append_number(&RANGE, part.first)
        failed |= append_text(&RANGE, b"-")
        failed |= append_number(&RANGE, part.last)
    failed |= append_text(&RANGE, b"/")
    failed |= append_number(&RANGE, size)
    if failed:
        return -1
    return scan_field(&ANSWER, b"Content-Range", 13, tg_buffer_head(&RANGE), tg_buffer_size(&RANGE))


cdef int give_begin(Exchange exchange, const tg_stored *stored, const tg_part *part, uint64_t size, const char *said,
                    long long age, bint ttl, long long left) noexcept:
    cdef int i, failed = 0
    stored_scan(&ANSWER, stored)
    if part.status != 200:
        ANSWER.status = part.status
    if part.status == 304:
        for i in range(ANSWER.field_count):
            if describes_body(&ANSWER.fields[i]):
                ANSWER.fields[i].hop = True
        ANSWER.has_length = True
    elif part.status == 206:
        failed = add_range(part, size) | add_length(part.last - part.first + 1)
    elif part.status == 416:
        failed = add_range(part, size) | add_length(0)
    elif stored.status != 204:
        failed = add_length(size)
    tg_buffer_clear(&EXTRA)
    if age >= 0:
        failed |= append_text(&EXTRA, b"Age: ")
        failed |= append_number(&EXTRA, <uint64_t>age)
        failed |= append_text(&EXTRA, b"\r\n")
    failed |= append_text(&EXTRA, b"Cache-Status: tidegate; ")
    failed |= append_text(&EXTRA, said)
    if ttl:
        failed |= append_text(&EXTRA, b"; ttl=-" if left < 0 else b"; ttl=")
        failed |= append_number(&EXTRA, <uint64_t>(-left if left < 0 else left))
    failed |= append_text(&EXTRA, b"\r\n")
    failed |= exchange.append_endpoint(&EXTRA)
    # As when it was made: logs and metrics have the endpoint's error, whatever the client is told.
    exchange.status = <short>stored.error if stored.error and part.status == 200 else <short>ANSWER.status
    return -1 if failed else 0


cdef void give_head(Client client, bint body) noexcept:
    client.respond(&ANSWER, &EXTRA, not body)


cdef uint64_t give_whole(Client client, const tg_stored *stored, const tg_part *part, bint head_method) noexcept:
    cdef iovec piece
    cdef uint64_t size = part_size(stored, part, stored.body_size, head_method)
    client.respond(&ANSWER, &EXTRA, size == 0)
    if size:
        piece.iov_base = <void *>(stored_body(stored) + part.first)
        piece.iov_len = size
        client.respond_body(&piece, 1)
    return size
