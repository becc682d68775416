"""Error pages: what clients get in place of an error of ours, or of an endpoint's."""

from lb.net.buffer cimport tg_buffer
from lb.proxy.exchange.refusal cimport Refusal
from lb.proxy.routing.headers.fields cimport FieldRules
from lb.proxy.routing.values.format cimport Format, tg_values


cdef class ErrorPage:
    cdef readonly int status          # that the client is told; 0 = that of the error
    cdef readonly bint intercept      # in place of endpoints' answers, too
    cdef readonly bint valued         # it is not the same for every error
    cdef tuple names                  # of its fields, in lower case
    cdef bytes head                   # "Name: value\r\n" lines, where `fields` has none with values
    cdef FieldRules fields            # None: no line has a value
    cdef bytes body
    cdef Format format                # of the body; None: it has no value

    # Appends its lines, and gives its body; None: it cannot be made (out of memory, or too long).
    cdef bytes make(self, tg_buffer *head, const tg_values *values)
    # Has an answer of ours say the page. Where it cannot be made, that stays as it is.
    cdef void dress(self, Refusal answer, const tg_values *values) noexcept


cdef class ErrorPages:
    """Those of a route, or of a listener."""
    cdef dict own                     # status -> the ErrorPage of errors of ours
    cdef dict intercepting            # status -> that of endpoints' errors

    # The page of an error of ours, or of an endpoint's; None: it has none.
    cdef ErrorPage find(self, int status, bint intercept)


# The pages of a plan; None: there are none.
cdef ErrorPages error_pages(plans)
# What a page may say of an error: in `values`, for as long as `text` lives, 16 bytes.
cdef void note_error(tg_values *values, int status, const char *message, size_t n, char *text) noexcept nogil
# Whether a field's name is one of `names`, in lower case.
cdef bint is_one_of(const char *name, size_t n, tuple names) noexcept
