"""A key that is a text with values of the request, such as `${request.host}${request.path}`."""

from lb.proxy.routing.values.format cimport Format, RequestValues, tg_values


cdef class TextKey:
    cdef Format format
    cdef readonly RequestValues wanted  # what its text asks of a request

    # The text for a request's values, good until the next call for any key. False: it is empty, or longer than
    # FORMAT_LIMIT, so that the request counts as one without a key.
    cdef bint find(self, const tg_values *values, const char **text, size_t *n) noexcept
