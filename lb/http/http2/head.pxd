"""Header blocks of HTTP/2 as the protocol-neutral head that a `Scan` is, and back (RFC 9113 section 8.3)."""

from libc.stdint cimport uint8_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.http.http2.nghttp2 cimport nghttp2_nv


cdef enum:
    HEAD_OK = 0
    HEAD_TOO_MANY = -1                # more fields than scan.max_fields
    HEAD_MALFORMED = -2               # pseudo-header fields missing, or at odds with each other
    HEAD_METHOD = -3                  # a method that no request may have, or that is not served
    HEAD_NO_MEMORY = -4

    FIELDS_MAX = 1100                 # a head's most fields, with what is added to it


# The request in a gathered `block` (see http2.block_add). The spans of the scan point into the block, to which a
# joined Cookie field (section 8.2.3) may be added. HEAD_OK or another.
cdef int read_request(Scan *scan, tg_buffer *block, bint last) noexcept
# The same of a block that has come before (`h2_repeat`). What was read is kept in `kept`, which begins as NULL, in
# memory of malloc's.
cdef int read_request_again(Scan *scan, tg_buffer *block, bint last, void **kept) noexcept
cdef int read_response(Scan *scan, tg_buffer *block, bint last) noexcept
# A trailer section: into scan.trailers. HEAD_OK or another.
cdef int read_trailers(Scan *scan, tg_buffer *block) noexcept


cdef class FieldList:
    """Fields for a session to send. They are encoded at once, so names and values have to live only until then."""
    cdef nghttp2_nv fields[1100]
    cdef size_t count
    cdef const tg_buffer *block       # fields that stand before the one at `place`; NULL = none
    cdef size_t place
    cdef char number[24]

    cdef void clear(self) noexcept
    cdef void add(self, const char *name, size_t name_size, const char *value, size_t value_size) noexcept
    # One whose name is in lower case. `flags` may say NO_INDEX.
    cdef void add_held(self, const char *name, size_t name_size, const char *value, size_t value_size,
                       uint8_t flags) noexcept
    cdef void add_status(self, int status) noexcept
    # The fields of a head that are passed on; `skip` as in append_fields.
    cdef void add_fields(self, const Scan *scan, uint64_t skip) noexcept
    # Lines "Name: value\r\n" of our own making.
    cdef void add_lines(self, const tg_buffer *lines) noexcept
    # The fields of a block, names in lower case; one block at most, which a request alone may have.
    cdef void add_block(self, const tg_buffer *block) noexcept


cdef FieldList worker_fields()
