"""The rules of HTTP caching, called from Python."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset
from lb.http.caching.answers cimport (
    ASKED_AUTHORIZED, ASKED_BY_GET, ASKED_NO_STORE, ASKED_WITH_COOKIE, WHY_ANSWER, WHY_COOKIE, WHY_LIFETIME,
    WHY_REQUEST, WHY_STATUS, WHY_STORED, WHY_VARY, answer_field_stored, answer_may_be_stored, answer_read, tg_answer,
)
from lb.http.caching.conditions cimport choose_part, tg_part, tg_validators
from lb.http.caching.dates cimport http_date
from lb.http.caching.requests cimport (
    USE_FRESH, USE_STALE, USE_STALE_REFRESH, USE_VALIDATE, USE_VALIDATE_REQUEST, error_use, request_read, request_use,
    tg_freshness, tg_request,
)
from lb.http.caching.variants cimport vary_names, vary_values
from lb.http.head cimport Scan, mark_hop_by_hop, scan_begin, scan_field
from lb.net.buffer cimport tg_buffer, tg_buffer_free, tg_buffer_head, tg_buffer_size

WHY = {
    WHY_STORED: "stored", WHY_REQUEST: "request", WHY_STATUS: "status", WHY_ANSWER: "answer", WHY_VARY: "vary",
    WHY_COOKIE: "cookie", WHY_LIFETIME: "lifetime",
}
USES = {
    USE_FRESH: "fresh", USE_STALE: "stale", USE_STALE_REFRESH: "refresh", USE_VALIDATE: "validate",
    USE_VALIDATE_REQUEST: "request",
}

cdef Scan SCAN
SCAN.max_fields = 1000
cdef list KEPT = []                   # what the scan points into


cdef void fill(list fields) except *:
    cdef bytes name, value
    KEPT.clear()
    scan_begin(&SCAN)
    for name, value in fields:
        KEPT.append((name, value))
        scan_field(&SCAN, <const char *>name, <size_t>len(name), <const char *>value, <size_t>len(value))
    mark_hop_by_hop(&SCAN)


def date(bytes text not None):
    """Seconds since 1970, or None."""
    seconds = http_date(<const char *>text, <size_t>len(text))
    return None if seconds < 0 else seconds


def answer(int status, list fields, *, default_ttl=0, delay=0, now=0, get=True, no_store=False, authorized=False,
           cookie=False, ignore_cookie=False, later=0):
    """`(why, age, lifetime, names of the fields that are kept)` of an answer with these fields."""
    cdef tg_answer found
    cdef uint32_t asked = 0
    cdef int i
    asked |= ASKED_BY_GET if get else 0
    asked |= ASKED_NO_STORE if no_store else 0
    asked |= ASKED_AUTHORIZED if authorized else 0
    asked |= ASKED_WITH_COOKIE if cookie else 0
    fill(fields)
    SCAN.status = status
    answer_read(&found, &SCAN, default_ttl, delay, now)
    why = WHY[answer_may_be_stored(&found, asked, ignore_cookie, later)]
    kept = [SCAN.fields[i].name[:SCAN.fields[i].name_length] for i in range(SCAN.field_count)
            if answer_field_stored(&found, &SCAN.fields[i])]
    return why, found.age, found.lifetime, kept


def use_of(list request, *, int status=200, answer=(), bint honoured=True, int64_t age=0, swr=0, sie=0):
    """What becomes of a stored answer of this age for a request, and whether it may stand for an error."""
    cdef tg_answer found
    cdef tg_freshness freshness
    cdef tg_request asked
    fill(list(answer))
    SCAN.status = status
    answer_read(&found, &SCAN, 0, 0, 0)
    freshness.age = age
    freshness.lifetime = found.lifetime
    freshness.stale_while_revalidate = max(<int64_t>swr, found.control.stale_while_revalidate)
    freshness.stale_if_error = max(<int64_t>sie, found.control.stale_if_error)
    freshness.flags = found.flags
    fill(request)
    request_read(&asked, &SCAN, honoured)
    return USES[request_use(&asked, &freshness)], bool(error_use(&freshness))


def part(list request, *, bytes etag=None, last_modified=-1, made=0, size=10, bint ranges=True):
    """`(status, first, last)` of what a request gets."""
    cdef tg_validators stored
    cdef tg_part found
    stored.etag = NULL
    stored.etag_length = 0
    if etag is not None:
        stored.etag = <const char *>etag
        stored.etag_length = <size_t>len(etag)
    stored.last_modified = last_modified
    stored.date = made
    fill(request)
    choose_part(&found, &SCAN, &stored, size, ranges)
    if found.status == 206:
        return 206, found.first, found.last
    return found.status,


def names(list fields):
    """What Vary names, or None where that is too much."""
    cdef tg_buffer text
    memset(&text, 0, sizeof(text))
    fill(fields)
    try:
        if vary_names(&text, &SCAN) < 0:
            return None
        return tg_buffer_head(&text)[:tg_buffer_size(&text)] if tg_buffer_size(&text) else b""
    finally:
        tg_buffer_free(&text)


def values(bytes vary, list request):
    """What a request says in these fields, in the form that is compared."""
    cdef tg_buffer text
    memset(&text, 0, sizeof(text))
    fill(request)
    try:
        if vary_values(&text, <const char *>vary, <size_t>len(vary), &SCAN) < 0:
            raise MemoryError
        return tg_buffer_head(&text)[:tg_buffer_size(&text)]
    finally:
        tg_buffer_free(&text)
