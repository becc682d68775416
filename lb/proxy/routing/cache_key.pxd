"""What a request's head says for its key in the result cache: headers that its route varies by, the tenant, and
Cache-Control."""

from lb.http.head cimport Scan


cdef enum:
    CONTROL_NONE = 0
    CONTROL_NO_CACHE                  # the answer has to be made anew, and may be kept
    CONTROL_NO_STORE                  # past the cache


cdef class CacheKeyRule:
    """A plan's word (`CacheKeyPlan`)."""
    cdef tuple vary                   # header names, lower case
    cdef int tenant_kind              # KEY_… of lb.upstream.pool; KEY_NONE: all share
    cdef bytes tenant_name
    cdef bint control
    cdef bytes varies                 # a Vary field that names what of the head decides; b"" = nothing

    # The values that the key goes by, and who the tenant is, so that no two heads that differ in them give the same.
    cdef bytes variant(self, const Scan *scan)
    # Who the tenant is. None: the request does not say, or says it more than once; or all share.
    cdef bytes tenant(self, const Scan *scan)
    # CONTROL_….
    cdef int control_of(self, const Scan *scan) noexcept nogil
