"""Changes to the fields of a head: remove, set, add. They are made in the scan, so that whatever protocol the head goes
on in, nobody else has to know of them."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Field, Scan
from lb.proxy.routing.values.format cimport tg_values


cdef enum:
    OMIT_CERTIFICATE = 1              # X-Forwarded-Client-Cert, which has no id
    FORMAT_FAILED = 16


cdef class FieldRules:
    cdef tuple removed                # names in lower case, those of `lines` that replace included
    cdef tuple lines                  # (name, value); a value is bytes, or a Format
    cdef readonly uint64_t kinds      # values of the request that lines ask for (Format.kinds)
    cdef readonly bint valued         # lines have some
    # Bits of header ids: fields that are removed or set here, so that the proxy does not tell the endpoint its own
    # (lb.proxy.routing.headers.forwarded); and OMIT_CERTIFICATE.
    cdef uint64_t omit

    # Changes the fields of a head that is about to be passed on. 0, or -1 when the scan has no room for more.
    cdef int apply(self, Scan *scan) noexcept
    # The same of a request, where lines have values. 0, -1 as above, or FORMAT_… less FORMAT_FAILED. The texts lie in a
    # buffer of the worker's, until the next call.
    cdef int apply_values(self, Scan *scan, const tg_values *values) noexcept
    # Appends the lines of `set` and `add` to an answer of our own. 0 or -1 (no memory).
    cdef int append(self, tg_buffer *head) noexcept
    # The same where lines have values. 0 or FORMAT_….
    cdef int append_values(self, tg_buffer *head, const tg_values *values) noexcept

    # Of answers, which come when the request's head is gone.

    # The texts of lines with values, in their order; None: *failed is FORMAT_….
    cdef tuple keep(self, const tg_values *values, int *failed)
    # As `apply` and `append`, with the texts that `keep` gave, for an answer of the endpoint at this address.
    cdef int apply_kept(self, Scan *scan, tuple kept, const char *endpoint, size_t n) noexcept
    cdef int append_kept(self, tg_buffer *head, tuple kept, const char *endpoint, size_t n) noexcept


# Takes out all lines of a name.
cdef void remove(Scan *scan, const char *name, size_t n) noexcept nogil
# Adds a line, which points to `name` and `value`. 0, or -1 when the scan has no room for more.
cdef int put(Scan *scan, bytes name, bytes value) noexcept
# Before fields are added: marks what Connection names, and leaves of it only what is no field's name.
cdef void settle_connection(Scan *scan) noexcept nogil
# Replaces the value of Host (and, in HTTP/2, of :authority, which stands for it), or adds it. 0 or -1.
cdef int replace_host(Scan *scan, bytes host) noexcept
# The User-Agent of a head; NULL where it has none.
cdef const Field *find_agent(const Scan *scan) noexcept nogil
# What Connection names is not found by its name any more: the endpoint does not see it, so that no key of a cache may
# have it.
cdef void hide_named(Scan *scan) noexcept nogil
