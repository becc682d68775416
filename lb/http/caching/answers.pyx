"""What an answer says of its own caching: see answers.pxd."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset
from lb.http.head cimport H_CONTENT_LENGTH, Field, Scan, has_token, same_name
from lb.http.caching.dates cimport NO_DATE, http_date
from lb.http.caching.directives cimport (
    CC_MALFORMED, CC_MUST_REVALIDATE, CC_MUST_UNDERSTAND, CC_NO_CACHE, CC_NO_STORE, CC_PRIVATE, CC_PROXY_REVALIDATE,
    CC_PUBLIC, CC_ANY, MOST_SECONDS, delta_seconds, directives_begin, directives_name, directives_of, tg_directives,
)

cdef enum:
    HEURISTIC_PART = 10               # of the time since Last-Modified (RFC 9111 section 4.2.2)
    HEURISTIC_MOST = 24 * 3600        # s; longer would want a warning by RFC 7234


# Fields in the place of Cache-Control and Expires (RFC 9213 section 2.2), the first that is valid counts.
cdef const char *OURS = b"tidegate-cache-control"
cdef const char *OF_CDNS = b"cdn-cache-control"


cdef bint is_understood(int status) noexcept nogil:
    """Whether its caching is known here: statuses of RFC 9110."""
    return (status in (200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501)
            or 400 <= status <= 417 or status in (421, 422, 426) or 500 <= status <= 505)


cdef bint by_heuristics(int status) noexcept nogil:
    """Whether it may be stored although it says nothing of freshness (RFC 9110 section 15.1)."""
    return status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501)


cdef void answer_read(tg_answer *answer, const Scan *scan, int64_t default_ttl, int64_t delay,
                      int64_t now) noexcept nogil:
    cdef int64_t expires = NO_DATE, date = NO_DATE, age = 0
    cdef bint expires_seen = False, age_seen = False
    cdef const Field *field
    cdef int i
    memset(answer, 0, sizeof(tg_answer))
    answer.status = scan.status
    answer.last_modified = NO_DATE
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 3:
            if same_name(field.name, 3, b"age"):
                # One that is no number, or given twice, may hide any age.
                age = delta_seconds(field.value, field.value_length)
                if age_seen or age < 0 or field.value[0] == 34:
                    age = MOST_SECONDS
                age_seen = True
        elif field.name_length == 4:
            if same_name(field.name, 4, b"date"):
                date = http_date(field.value, field.value_length)
            elif same_name(field.name, 4, b"etag") and not field.hop:
                answer.etag = field           # one that clients do not get is no validator
            elif same_name(field.name, 4, b"vary"):
                answer.flags |= ANSWER_VARIES
                if has_token(field, b"*"):
                    answer.flags |= ANSWER_VARIES_BY_ALL
        elif field.name_length == 7:
            if same_name(field.name, 7, b"expires"):
                # Unreadable: in the past (RFC 9111 section 5.3). Of several the first counts.
                if not expires_seen:
                    expires = http_date(field.value, field.value_length)
                expires_seen = True
        elif field.name_length == 10:
            if same_name(field.name, 10, b"set-cookie"):
                answer.flags |= ANSWER_COOKIE
        elif field.name_length == 13:
            if same_name(field.name, 13, b"last-modified") and not field.hop:
                answer.last_modified = http_date(field.value, field.value_length)
    answer.date = now if date == NO_DATE else date
    answer.age = max(max(now - answer.date, 0), age + max(delay, 0))
    if read_targeted(answer, scan):
        expires_seen = False
    else:
        directives_begin(&answer.control)
        directives_of(&answer.control, scan, b"cache-control")
    set_flags(answer)
    set_lifetime(answer, expires_seen, expires, default_ttl)


cdef bint read_targeted(tg_answer *answer, const Scan *scan) noexcept nogil:
    cdef tg_directives *control = &answer.control
    directives_begin(control)
    if directives_of(control, scan, OURS) and control.flags & CC_ANY and not control.flags & CC_MALFORMED:
        return True
    directives_begin(control)
    return (directives_of(control, scan, OF_CDNS) and control.flags & CC_ANY != 0
            and control.flags & CC_MALFORMED == 0)


cdef void set_flags(tg_answer *answer) noexcept nogil:
    cdef tg_directives *control = &answer.control
    if control.flags & CC_NO_CACHE:
        answer.flags |= ANSWER_NO_CACHE | ANSWER_REVALIDATE
    if control.flags & (CC_MUST_REVALIDATE | CC_PROXY_REVALIDATE) or control.s_maxage >= 0:
        answer.flags |= ANSWER_REVALIDATE
    # RFC 9111 section 3.5
    if control.flags & (CC_PUBLIC | CC_MUST_REVALIDATE) or control.s_maxage >= 0:
        answer.flags |= ANSWER_PUBLIC


cdef void set_lifetime(tg_answer *answer, bint expires_seen, int64_t expires, int64_t default_ttl) noexcept nogil:
    cdef tg_directives *control = &answer.control
    cdef int64_t since
    answer.flags |= ANSWER_EXPLICIT
    if control.s_maxage >= 0:
        answer.lifetime = control.s_maxage
    elif control.max_age >= 0:
        answer.lifetime = control.max_age
    elif expires_seen:
        answer.lifetime = min(max(expires - answer.date, 0), <int64_t>MOST_SECONDS)
    else:
        answer.flags &= ~<uint32_t>ANSWER_EXPLICIT
        if not (by_heuristics(answer.status) or control.flags & CC_PUBLIC):
            return
        since = answer.date - answer.last_modified
        if default_ttl > 0:
            answer.lifetime = default_ttl
        elif answer.last_modified != NO_DATE and since > 0:
            answer.lifetime = min(since // HEURISTIC_PART, <int64_t>HEURISTIC_MOST)


cdef int answer_may_be_stored(const tg_answer *answer, uint32_t asked, bint ignore_cookie,
                              int64_t later) noexcept nogil:
    cdef const tg_directives *control = &answer.control
    cdef bint validated = answer.etag != NULL or answer.last_modified != NO_DATE
    cdef int64_t lifetime = answer.lifetime
    if not asked & ASKED_BY_GET or asked & ASKED_NO_STORE:
        return WHY_REQUEST
    if answer.status < 200 or answer.status == 206 or answer.status == 304:
        return WHY_STATUS
    if control.flags & CC_MUST_UNDERSTAND:
        if not is_understood(answer.status):
            return WHY_STATUS
    elif control.flags & CC_NO_STORE:
        return WHY_ANSWER
    if control.flags & CC_PRIVATE:
        return WHY_ANSWER
    if asked & ASKED_AUTHORIZED and not answer.flags & ANSWER_PUBLIC:
        return WHY_REQUEST
    if answer.flags & ANSWER_VARIES_BY_ALL:
        return WHY_VARY
    if answer.flags & ANSWER_COOKIE and not ignore_cookie:
        return WHY_COOKIE
    if not (answer.flags & ANSWER_EXPLICIT or control.flags & CC_PUBLIC or by_heuristics(answer.status)):
        return WHY_STATUS
    if not answer.flags & ANSWER_EXPLICIT and asked & ASKED_WITH_COOKIE:
        lifetime = 0                          # what looks alike for all may be one user's
    if not answer.flags & ANSWER_REVALIDATE:
        lifetime += max(max(control.stale_while_revalidate, control.stale_if_error), later)
    elif answer.flags & ANSWER_NO_CACHE:
        lifetime = 0
    if lifetime <= answer.age and not validated:
        return WHY_LIFETIME
    return WHY_STORED


cdef bint answer_field_stored(const tg_answer *answer, const Field *field) noexcept nogil:
    cdef const char *name = field.name
    cdef size_t n = field.name_length
    if field.hop or field.id == H_CONTENT_LENGTH:    # a length is said anew
        return False
    if (same_name(name, n, b"age") or same_name(name, n, b"set-cookie") or same_name(name, n, b"trailer")
            or same_name(name, n, b"proxy-authentication-info") or same_name(name, n, OURS)):
        return False
    return answer.control.list_count == 0 or not directives_name(&answer.control, name, n)


cdef bint answer_field_updated(const char *name, size_t n) noexcept nogil:
    return not (same_name(name, n, b"content-encoding") or same_name(name, n, b"content-length")
                or same_name(name, n, b"content-range") or same_name(name, n, b"content-md5")
                or same_name(name, n, b"etag") or same_name(name, n, b"content-digest")
                or same_name(name, n, b"repr-digest") or same_name(name, n, b"transfer-encoding"))
