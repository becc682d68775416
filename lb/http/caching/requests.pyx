"""What a request asks of a cache: see requests.pxd."""

from libc.stdint cimport int64_t
from lb.http.head cimport H_CACHE_CONTROL, H_COOKIE, Field, Scan, has_token, same_name
from lb.http.caching.answers cimport ANSWER_NO_CACHE, ANSWER_REVALIDATE
from lb.http.caching.directives cimport (
    CC_NO_CACHE, CC_NO_STORE, directives_begin, directives_read, tg_directives,
)


cdef void request_read(tg_request *request, const Scan *scan, bint honoured) noexcept nogil:
    cdef const Field *field
    cdef bint pragma = False
    cdef int i
    request.flags = 0
    directives_begin(&request.control)
    if scan.first[H_COOKIE] >= 0:
        request.flags |= REQUEST_COOKIE
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.id == H_CACHE_CONTROL:
            if honoured:
                directives_read(&request.control, field.value, field.value_length)
        elif field.id:
            continue
        elif field.name_length == 5:
            if same_name(field.name, 5, b"range"):
                request.flags |= REQUEST_RANGE
        elif field.name_length == 6:
            if same_name(field.name, 6, b"pragma"):
                pragma = honoured and has_token(field, b"no-cache")
        elif field.name_length == 8:
            if same_name(field.name, 8, b"if-match"):
                request.flags |= REQUEST_CONDITIONAL
        elif field.name_length == 13:
            if same_name(field.name, 13, b"if-none-match"):
                request.flags |= REQUEST_CONDITIONAL
            elif same_name(field.name, 13, b"authorization"):
                request.flags |= REQUEST_AUTHORIZED
        elif field.name_length == 17:
            if same_name(field.name, 17, b"if-modified-since"):
                request.flags |= REQUEST_CONDITIONAL
        elif field.name_length == 19:
            if same_name(field.name, 19, b"if-unmodified-since"):
                request.flags |= REQUEST_CONDITIONAL
    if pragma and scan.first[H_CACHE_CONTROL] < 0:        # RFC 9111 section 5.4
        request.control.flags |= CC_NO_CACHE


cdef use request_use(const tg_request *request, const tg_freshness *stored) noexcept nogil:
    cdef const tg_directives *control = &request.control
    cdef int64_t left = stored.lifetime - stored.age
    if control.flags & (CC_NO_CACHE | CC_NO_STORE):
        return USE_VALIDATE_REQUEST
    if stored.flags & ANSWER_NO_CACHE:
        return USE_VALIDATE
    if control.max_age >= 0 and stored.age >= control.max_age and (
            control.max_stale < 0 or stored.age - control.max_age > control.max_stale):
        return USE_VALIDATE_REQUEST
    if left > 0:
        return USE_VALIDATE_REQUEST if control.min_fresh >= 0 and left < control.min_fresh else USE_FRESH
    if stored.flags & ANSWER_REVALIDATE:
        return USE_VALIDATE
    if control.min_fresh >= 0:
        return USE_VALIDATE_REQUEST
    if control.max_stale >= 0 and -left <= control.max_stale:
        return USE_STALE
    if -left < stored.stale_while_revalidate:
        return USE_STALE_REFRESH
    return USE_VALIDATE


cdef bint error_use(const tg_freshness *stored) noexcept nogil:
    cdef int64_t left = stored.lifetime - stored.age
    if stored.flags & ANSWER_NO_CACHE:
        return False
    return left > 0 or not stored.flags & ANSWER_REVALIDATE and -left < stored.stale_if_error
