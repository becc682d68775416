"""Header fields in the compressed form of HTTP/2 (RFC 7541): the encoder.

nghttp2 reads what peers send; what we send is written here, since that can be a good deal cheaper: names and values go
out as they are, without Huffman's code, and a field enters the dynamic table when it is seen for the second time in a
while. So a value that differs with every request (an id, a length) neither costs an entry nor drives others out, and a
path enters once it repeats. Credentials and cookies never enter (section 7.1.3): streams of many clients share a
connection to an endpoint, and what one of them sends must not show in the size of another's.
"""

from libc.stdint cimport uint32_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.hpack_runs cimport hpack_runs
from lb.http.http2.nghttp2 cimport nghttp2_nv


cdef enum:
    HPACK_TABLE = 4096                # bytes of a dynamic table, unless the peer wants less (RFC 9113 section 6.5.2)


ctypedef struct hpack_encoder:
    void *table                       # of hpack.pyx; NULL until the first block
    uint32_t limit                    # bytes that the table may have
    uint32_t least                    # the least limit since the last block
    bint told                         # the peer knows `limit`
    hpack_runs runs


cdef void hpack_init(hpack_encoder *encoder) noexcept
cdef void hpack_free(hpack_encoder *encoder) noexcept
# The peer's SETTINGS_HEADER_TABLE_SIZE.
cdef void hpack_resize(hpack_encoder *encoder, uint32_t size) noexcept
# Appends the block of the fields. Names are written in lower case; those with NO_COPY_NAME have it already. Values with
# NO_INDEX are written so that nobody keeps them. 0, or -1 (no memory): then the peer's table is not ours any more.
cdef int hpack_encode(hpack_encoder *encoder, tg_buffer *out, const nghttp2_nv *fields, size_t count) noexcept
# The same of fields as `block_add` writes them (lb.http.http2.block), names in lower case, behind those of
# `hpack_encode`, which begins a block. Fields that were indices alone are copied from when they came last.
cdef int hpack_encode_more(hpack_encoder *encoder, tg_buffer *out, const char *fields, size_t size) noexcept
