"""Header blocks that come again, byte for byte.

Requests of one client, and answers of one endpoint, differ little in their heads; once both sides of a connection know
the fields, a block is a few indices into the table (RFC 7541 section 6.1). Such a block changes no table, and means
what it meant as long as no other block has changed it: so it is decoded and checked once.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.message cimport h2_section


cdef enum:
    REPEAT_BYTES = 48                 # of a block that is remembered, at most
    REPEAT_FIELDS = 2048              # and of its fields, but for the last


ctypedef struct h2_repeat:
    uint8_t wire[REPEAT_BYTES]
    uint32_t size
    bint usable                       # all of it was decoded
    uint64_t age                      # of the table, when it was decoded
    h2_section section                # what its fields came to
    uint32_t count                    # of its fields
    tg_buffer fields                  # as `block_add` writes them (lb.http.http2.block)
    void *reading                     # what a reader made of them: malloc's, freed with the rest; NULL = nothing


ctypedef struct h2_repeats:
    uint64_t age                      # blocks so far that may have changed the table
    uint32_t next                     # of `known`, to be overwritten
    h2_repeat *known                  # NULL until there is one


# To be called with every block, before it is decoded: whether it is made of indices alone, all in one frame.
cdef bint repeats_look(h2_repeats *repeats, const uint8_t *wire, size_t size, bint whole) noexcept
# What is known of such a block, in a head or in a trailer section; or NULL.
cdef h2_repeat *repeats_find(const h2_repeats *repeats, const uint8_t *wire, size_t size, bint trailers) noexcept
# To keep what is decoded of it: fields are added to its `fields`, then comes `repeat_done`. NULL: no memory.
cdef h2_repeat *repeats_begin(h2_repeats *repeats, const uint8_t *wire, size_t size) noexcept
cdef void repeat_done(const h2_repeats *repeats, h2_repeat *repeat, const h2_section *section) noexcept
cdef void repeats_free(h2_repeats *repeats) noexcept
