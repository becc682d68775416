"""One form for each path, before routes look at it."""

from lb.http.head cimport Scan


cdef enum:
    NORMAL_DECODE = 1                 # what needs no escape is not escaped; a bad escape and an escaped NUL are refused
    NORMAL_DOTS = 2                   # no segment is "." or ".."
    NORMAL_SLASHES = 4                # no slash follows another
    NORMAL_SLASH_DECODE = 8           # %2F, %5C and a backslash become slashes
    NORMAL_SLASH_REJECT = 16          # %2F, %5C and a backslash are refused
    NORMAL_PATH = 31                  # all that is done to the path itself
    # Beside the normal form.
    # a path is refused if one of its readings takes another route (lb.proxy.routing.readings)
    NORMAL_READINGS = 32
    NORMAL_HIDE_ALIASES = 64          # lb.proxy.routing.headers.aliases
    NORMAL_REFUSE_ALIASES = 128

cdef enum:
    NORMAL_REFUSED = -1
    NORMAL_NO_MEMORY = -2

# Whether it may be a request's target: none has a fragment (RFC 9110 section 7.1), which one server takes for a part of
# the path and another cuts off, nor a byte beyond ASCII (RFC 3986), of which only HTTP/1.1's parser takes care itself.
cdef bint is_target(const Scan *scan) noexcept nogil
# The `flags` of a NormalizePlan or None, and of what becomes of aliased headers (ListenerPlan).
cdef int normalize_flags(plan, str aliased=*) except -1
# Brings the scan's target to its normal form; its query stays as it is. 0, or one of the above. A target that changes
# lies in a buffer of the worker afterwards, until the next call.
cdef int normalize(Scan *scan, int flags) noexcept nogil
