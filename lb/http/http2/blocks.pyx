"""Header blocks of HTTP/2: see blocks.pxd."""

from libc.stdint cimport int32_t, uint8_t
from lb.net.buffer cimport tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.http2.block cimport BLOCK_OVERHEAD, block_add
from lb.http.http2.message cimport message_end, section_begin, section_end, section_field
from lb.http.http2.repeats cimport (
    REPEAT_FIELDS, h2_repeat, repeat_done, repeats_begin, repeats_find, repeats_free, repeats_look,
)
from lb.http.http2.streams cimport h2_entry
from lb.http.http2.nghttp2 cimport (
    NGHTTP2_ERR_NOMEM, NGHTTP2_HD_INFLATE_EMIT, NGHTTP2_HD_INFLATE_FINAL, nghttp2_hd_inflate_del,
    nghttp2_hd_inflate_end_headers, nghttp2_hd_inflate_hd2, nghttp2_hd_inflate_new, nghttp2_nv,
)

cdef enum:
    FIELD_OVERHEAD = 32               # RFC 9113 section 6.5.2
    BOMB = 8                          # times `header_list`: no peer that reads our SETTINGS sends a block of that size


cdef int blocks_init(h2_blocks *blocks) noexcept:
    return -1 if nghttp2_hd_inflate_new(&blocks.decoder) else 0


cdef void blocks_free(h2_blocks *blocks) noexcept:
    if blocks.decoder != NULL:
        nghttp2_hd_inflate_del(blocks.decoder)
    repeats_free(&blocks.repeats)
    tg_buffer_free(&blocks.fields)


cdef void blocks_begin(h2_blocks *blocks, int32_t id, bint last) noexcept:
    blocks.id = id
    blocks.last = last
    blocks.frames = 0
    blocks.entry = NULL
    blocks.repeat = NULL
    tg_buffer_clear(&blocks.fields)
    blocks.count = 0
    blocks.size = 0
    blocks.decoded = 0
    blocks.over = False


cdef h2_repeat *blocks_look(h2_blocks *blocks, const uint8_t *data, size_t size, bint whole) noexcept:
    cdef bint indices = repeats_look(&blocks.repeats, data, size, whole)
    cdef h2_repeat *known
    if blocks.entry == NULL:
        return NULL
    section_begin(&blocks.section, &blocks.entry.message)
    if not indices:
        return NULL
    known = repeats_find(&blocks.repeats, data, size, blocks.section.trailers)
    if known == NULL:
        blocks.repeat = repeats_begin(&blocks.repeats, data, size)
        return NULL
    blocks.section = known.section
    blocks.decoded = tg_buffer_size(&known.fields)
    return known


cdef int blocks_next(h2_blocks *blocks, const uint8_t **data, size_t *size, bint last, nghttp2_nv *field) noexcept:
    """It is decoded in any case: the decoder has to know what the peer's encoder knows. A block that goes on far beyond
    the limit is a bomb. An octet may stand for a field of 4 KiB (RFC 7541 section 7.3), so that to decode it costs us
    thousands of times what it costs the peer."""
    cdef ssize_t n
    cdef int flags
    while True:
        flags = 0
        n = nghttp2_hd_inflate_hd2(blocks.decoder, field, &flags, data[0], size[0], last)
        if n < 0:
            return BLOCK_NO_MEMORY if n == NGHTTP2_ERR_NOMEM else BLOCK_UNREADABLE
        data[0] += n
        size[0] -= <size_t>n
        if flags & NGHTTP2_HD_INFLATE_EMIT:
            blocks.decoded += field.namelen + field.valuelen + FIELD_OVERHEAD
            if blocks.decoded > BOMB * <size_t>blocks.header_list:
                return BLOCK_BOMB
            if blocks.entry == NULL or blocks.over:
                continue                          # it is refused as a whole; bombs are made of what follows
            if not section_field(&blocks.section, &blocks.entry.message, blocks.extended, <const char *>field.name,
                                 field.namelen, <const char *>field.value, field.valuelen):
                return BLOCK_MALFORMED
            if blocks.repeat != NULL:
                fill_repeat(blocks, field)
            return BLOCK_FIELD
        if flags & NGHTTP2_HD_INFLATE_FINAL:
            nghttp2_hd_inflate_end_headers(blocks.decoder)
            return BLOCK_END
        if size[0] == 0:
            return BLOCK_MORE


cdef void fill_repeat(h2_blocks *blocks, const nghttp2_nv *field) noexcept:
    if tg_buffer_size(&blocks.repeat.fields) > REPEAT_FIELDS or block_add(
            &blocks.repeat.fields, <const char *>field.name, field.namelen, <const char *>field.value,
            field.valuelen) < 0:
        blocks.repeat = NULL
    else:
        blocks.repeat.count += 1


cdef void blocks_keep(h2_blocks *blocks, const char *name, size_t name_size, const char *value,
                      size_t value_size) noexcept:
    blocks.size += name_size + value_size + FIELD_OVERHEAD
    blocks.count += 1
    if blocks.size > blocks.header_list or blocks.count > blocks.max_fields:
        blocks.over = True
    elif not blocks.over and block_add(&blocks.fields, name, name_size, value, value_size) < 0:
        blocks.over = True


cdef void blocks_keep_all(h2_blocks *blocks, const h2_repeat *repeat) noexcept:
    """They were within the limits when they were kept one by one."""
    cdef size_t size = tg_buffer_size(&repeat.fields)
    blocks.count = repeat.count
    blocks.size = size - repeat.count * BLOCK_OVERHEAD + repeat.count * FIELD_OVERHEAD
    if tg_buffer_append(&blocks.fields, tg_buffer_head(&repeat.fields), size) < 0:
        blocks.over = True


cdef bint blocks_end(h2_blocks *blocks, h2_entry *entry) noexcept:
    if blocks.repeat != NULL and not blocks.over:
        repeat_done(&blocks.repeats, blocks.repeat, &blocks.section)
    if blocks.over:
        entry.message.begun = True                # its owner refuses it, whatever else it is
    elif not section_end(&blocks.section, &entry.message, blocks.last):
        return False
    return not blocks.last or message_end(&entry.message)
