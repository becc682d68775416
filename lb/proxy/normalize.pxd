"""One form for each path, before routes look at it."""

from lb.core.head cimport Scan


cdef enum:
    NORMAL_DECODE = 1                 # what needs no escape is not escaped; a bad escape and an escaped NUL are refused
    NORMAL_DOTS = 2                   # no segment is "." or ".."
    NORMAL_SLASHES = 4                # no slash follows another
    NORMAL_SLASH_DECODE = 8           # %2F and %5C become slashes
    NORMAL_SLASH_REJECT = 16          # %2F and %5C are refused

cdef enum:
    NORMAL_REFUSED = -1
    NORMAL_NO_MEMORY = -2

# The `flags` of a NormalizePlan, 0 for None.
cdef int normalize_flags(plan) except -1
# Brings the scan's target to its normal form; its query stays as it is. 0, or one of the above. A target that changes
# lies in a buffer of the worker afterwards, until the next call.
cdef int normalize(Scan *scan, int flags) noexcept nogil
