"""Which answers of a route are compressed, and how: see compression.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport memset
from lb.http.codings cimport accept_codings, accepted_weight, tg_accepted
from lb.http.head cimport (
    H_CACHE_CONTROL, H_CONTENT_ENCODING, H_CONTENT_TYPE, Field, Scan, has_token, same_name,
)

from lb.config.plan.routes import CompressionPlan
from lb.http.encoders import encoders

cdef enum:
    TYPE_ROOM = 128                   # longer ones are no types


cdef class CompressionRules:
    """Those of a plan (`CompressionPlan`). Raises ImportError where a coding's package is missing."""

    def __init__(self, plan: CompressionPlan) -> None:
        self.codings = tuple([name.encode("ascii") for name, _ in plan.codings])
        self.makers = tuple([encoders(name, level) for name, level in plan.codings])
        self.any_type = "*" in plan.types or "*/*" in plan.types
        self.types = frozenset([kind.removesuffix("*").encode("ascii") for kind in plan.types])
        self.min_length = plan.min_length
        self.private = plan.private

    cdef int choose(self, const Scan *request) noexcept:
        cdef tg_accepted accepted
        cdef const Field *field
        cdef bint said = False
        cdef int i, weight, best = 1, found = -1
        memset(&accepted, 0, sizeof(accepted))
        for i in range(request.field_count):
            field = &request.fields[i]
            if is_named(field, b"accept-encoding", 15):
                said = True
                accept_codings(&accepted, field.value, field.value_length)
            elif not self.private and (is_named(field, b"cookie", 6) or is_named(field, b"authorization", 13)):
                return -1
        if not said:
            return -1
        for i in range(len(self.codings)):
            weight = accepted_weight(&accepted, <const char *><bytes>self.codings[i])
            if weight > best and weight >= accepted.identity:
                best = weight
                found = i
        return found

    cdef bint concerns(self, const Scan *answer) noexcept:
        cdef const Field *field
        cdef int i
        if answer.status in (204, 205, 206, 304) or answer.first[H_CONTENT_TYPE] < 0:
            return False
        for i in range(answer.field_count):
            field = &answer.fields[i]
            if field.hop:
                continue                      # of an answer whose place an error page has taken
            if field.id == H_CONTENT_ENCODING and not is_identity(field):
                return False
            # RFC 9111 section 5.2.2.6.
            if field.id == H_CACHE_CONTROL and has_token(field, b"no-transform"):
                return False
            if is_named(field, b"content-range", 13):
                return False
        return self.any_type or self.has_type(&answer.fields[answer.first[H_CONTENT_TYPE]])

    cdef bint has_type(self, const Field *field) noexcept:
        cdef char kind[TYPE_ROOM]
        cdef size_t n = 0, slash = 0
        cdef char c
        while n < field.value_length and field.value[n] not in (32, 9, 59):
            if n == TYPE_ROOM:
                return False
            c = field.value[n]
            kind[n] = c | 32 if 65 <= c <= 90 else c
            n += 1
            if c == 47:
                slash = n
        return kind[:n] in self.types or (slash > 0 and kind[:slash] in self.types)

    cdef bint takes(self, const Scan *answer) noexcept:
        cdef const Field *field
        cdef int i, tags = 0
        if answer.has_length and answer.content_length < self.min_length:
            return False
        for i in range(answer.field_count):
            field = &answer.fields[i]
            if not self.private and is_named(field, b"set-cookie", 10):
                return False
            if is_named(field, b"etag", 4):
                # A tag that is none cannot be made weak, and of two a cache would take either.
                tags += 1
                if tags > 1 or not is_tag(field.value, field.value_length):
                    return False
        return True


cdef bint is_tag(const char *text, size_t n) noexcept nogil:
    """Whether that is an entity tag (RFC 9110 section 8.8.3), a quoted text that may have `W/` before it."""
    if n > 2 and text[0] == 87 and text[1] == 47:
        text += 2
        n -= 2
    return n >= 2 and text[0] == 34 and text[n - 1] == 34


cdef inline bint is_named(const Field *field, const char *lower, uint32_t n) noexcept nogil:
    return field.name_length == n and same_name(field.name, n, lower)


cdef bint is_identity(const Field *field) noexcept nogil:
    return field.value_length == 0 or (field.value_length == 8 and same_name(field.value, 8, b"identity"))
