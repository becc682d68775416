"""Frames that wait to be sent (RFC 9113 section 4): made and queued whole, in the order in which they are written."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from lb.net.buffer cimport tg_buffer
from lb.http.http2.hpack cimport hpack_encoder
from lb.http.http2.nghttp2 cimport nghttp2_nv


ctypedef struct h2_options:
    uint32_t stream_window            # bytes that a peer may send on a stream before they are consumed
    uint32_t connection_window
    uint32_t max_streams              # that the peer may have open; 0 = not said (a client's)
    uint32_t header_list              # bytes of a header block, counted as RFC 9113 section 6.5.2 does
    uint32_t max_fields               # of a header block
    bint connect_protocol             # extended CONNECT (RFC 8441) is served
    bint local                        # local transport is offered to the peer, or was offered by it


ctypedef struct h2_queue:
    tg_buffer frames                  # to be sent before any body
    hpack_encoder encoder
    uint32_t replies                  # frames among them that the peer called forth
    bint choked                       # too many of these wait: the peer does not read
    bint broken                       # the peer's table of header fields is not what our encoder believes


# Fill in a header field; NO_COPY_NAME says that the name is in lower case.
cdef inline void h2_field(nghttp2_nv *nv, const char *name, size_t name_size, const char *value, size_t value_size,
                          uint8_t flags) noexcept nogil:
    nv.name = <uint8_t *>name
    nv.namelen = name_size
    nv.value = <uint8_t *>value
    nv.valuelen = value_size
    nv.flags = flags


cdef void queue_init(h2_queue *queue) noexcept
cdef void queue_free(h2_queue *queue) noexcept
# What is queued was taken.
cdef void queue_taken(h2_queue *queue) noexcept
# All of these: 0, or -1 (no memory; or the queue is `choked` or `broken`, and the session beyond use).
# What a connection begins with: the preface (of a client), our SETTINGS, and the connection's window.
cdef int queue_opening(h2_queue *queue, bint server, const h2_options *options) noexcept
# SETTINGS that changes nothing.
cdef int queue_settings(h2_queue *queue) noexcept
# The fields, those of `block` before the one at `place` (see Http2Session.submit), in one frame or several.
cdef int queue_headers(h2_queue *queue, int32_t id, const nghttp2_nv *fields, size_t count, const tg_buffer *block,
                       size_t place, bint last) noexcept
# The end of a body: field lines.
cdef int queue_trailers(h2_queue *queue, int32_t id, const tg_buffer *lines) noexcept
cdef int queue_reset(h2_queue *queue, int32_t id, uint32_t code) noexcept
cdef int queue_window(h2_queue *queue, int32_t id, uint32_t by) noexcept
cdef int queue_goaway(h2_queue *queue, int32_t last, uint32_t code) noexcept
cdef int queue_ping(h2_queue *queue) noexcept
# Local transport: `ack` says that the peer's arena is mapped, else ours is passed on; a block was read.
cdef int queue_local_arena(h2_queue *queue, bint ack) noexcept
cdef int queue_local_release(h2_queue *queue, uint32_t offset) noexcept
# Answers to frames of the peer: of these only so many may wait.
cdef int queue_reset_reply(h2_queue *queue, int32_t id, uint32_t code) noexcept
cdef int queue_pong(h2_queue *queue, const uint8_t *payload) noexcept
cdef int queue_settings_ack(h2_queue *queue) noexcept
