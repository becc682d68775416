"""Header blocks that the peer sends (RFC 9113 section 4.3): decoded, checked and gathered, one at a time.

nghttp2 decodes them (its decoder of RFC 7541 alone), field by field; a block that comes again is not decoded again
(http2_repeats). What a block means for its stream is the session's matter.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.message cimport h2_section
from lb.http.http2.repeats cimport h2_repeat, h2_repeats
from lb.http.http2.streams cimport h2_entry
from lb.http.http2.nghttp2 cimport nghttp2_hd_inflater, nghttp2_nv


cdef enum:
    # `blocks_next`
    BLOCK_FIELD = 0                   # a field
    BLOCK_MORE                        # the block goes on in another frame
    BLOCK_END                         # it is complete
    BLOCK_MALFORMED                   # the message is
    BLOCK_UNREADABLE                  # nothing can be decoded on this connection any more
    BLOCK_BOMB                        # it decodes to many times our limit
    BLOCK_NO_MEMORY


ctypedef struct h2_blocks:
    nghttp2_hd_inflater *decoder
    uint32_t header_list              # limits: bytes, counted as RFC 9113 section 6.5.2 does
    uint32_t max_fields
    bint extended                     # :protocol is allowed (RFC 8441)
    h2_repeats repeats
    # The block that is being read.
    int32_t id                        # its stream; 0 = there is none
    bint last                         # it ends the stream
    int frames                        # CONTINUATION frames of it
    h2_entry *entry                   # NULL = it is read and thrown away
    h2_section section
    h2_repeat *repeat                 # that is being filled in with this block; NULL = none is
    h2_repeat *known                  # while its end is told: which one this block is; NULL = none
    tg_buffer fields                  # what was kept, as `block_add` writes it (lb.http.http2.block)
    uint32_t count
    size_t size                       # as RFC 9113 section 6.5.2 counts
    size_t decoded                    # so far, with the fields that are not kept; counted in the same way
    bint over                         # a limit was passed; what came since was not kept


# 0, or -1: no memory.
cdef int blocks_init(h2_blocks *blocks) noexcept
cdef void blocks_free(h2_blocks *blocks) noexcept
# A block begins; `entry` is to be filled in.
cdef void blocks_begin(h2_blocks *blocks, int32_t id, bint last) noexcept
# Its stream is known now, and its first bytes. What a block is that has come before; NULL: it has to be decoded.
cdef h2_repeat *blocks_look(h2_blocks *blocks, const uint8_t *data, size_t size, bint whole) noexcept
# The next field of it, in `field`; `data` and `size` move on, `last` says that the block ends with them. BLOCK_….
cdef int blocks_next(h2_blocks *blocks, const uint8_t **data, size_t *size, bint last, nghttp2_nv *field) noexcept
# Keeps a field; beyond the limits it sets `over` instead.
cdef void blocks_keep(h2_blocks *blocks, const char *name, size_t name_size, const char *value,
                      size_t value_size) noexcept
# Keeps all fields of a block that has come before.
cdef void blocks_keep_all(h2_blocks *blocks, const h2_repeat *repeat) noexcept
# The block has ended. False: the message is malformed.
cdef bint blocks_end(h2_blocks *blocks, h2_entry *entry) noexcept
