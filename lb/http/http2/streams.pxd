"""The streams of one HTTP/2 connection: what their owners and the session keep of each, and the table by number."""

from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from lb.net.arena cimport tg_block
from lb.net.buffer cimport tg_buffer, tg_buffer_size
from lb.http.http2.message cimport h2_message
from lb.net.iovec cimport iovec
from lb.net.link cimport tg_link


# How far an open stream has come (RFC 9113 section 5.1): a bit for each side that has ended. The table of steps is in
# http2.pyx; a stream that is idle has no entry yet.
cdef enum:
    STREAM_OPEN = 0
    STREAM_LOCAL                      # we have ended our side
    STREAM_REMOTE                     # the peer has ended its side
    STREAM_BOTH                       # both have, and the owner is to be told
    STREAM_CLOSED                     # the entry goes


ctypedef struct h2_stream:
    # One request with its answer: embedded in its owner, known to the session from `submit` (of a server: from
    # `on_request`) until `on_close`, `reset` or `forget`.
    void *owner
    h2_entry *entry                   # the session's, while the stream is known to it
    int32_t id
    bint sent                         # our body is handed over to the last byte
    bint reset_by_peer
    bint remote_ended                 # the peer has ended its side
    # The body as parts: `prefix_size` bytes here, then the parts, which are sent from their own memory.
    char prefix[8]
    int prefix_size
    int part_count
    const iovec *parts
    # Cursor. `left` counts the bytes of prefix and parts that were not handed over yet.
    size_t left
    int part
    size_t offset
    # The body as a queue, which grows while it is sent: `streaming` says that this is used and not the parts.
    bint streaming
    bint finished                     # nothing will be added to the queue
    bint wants_room                   # tell `on_room` when little is left in it
    uint64_t handed                   # bytes of it that were handed over
    size_t keep                       # up to so many bytes of it stay after that, so that it can be sent again
    size_t kept                       # bytes at the head of `queue` that were handed over and stay
    tg_buffer queue
    # Bytes behind the queue, which are sent from where they lie.
    const char *lent
    size_t lent_size
    PyObject *lender                  # whose they are, held; the owner of the stream gives it back at the end
    bint messages                     # the body begins with a message of gRPC, which may lie in an arena
    tg_buffer trailers                # field lines, sent behind the queue when it is `finished`


ctypedef struct h2_entry:
    # What the session knows of an open stream.
    int32_t id
    uint32_t owed                     # bytes that were consumed, of which the peer was not told yet
    h2_entry *next                    # of its bucket
    void *stream                      # the h2_stream of its owner, NULL = forgotten
    tg_link link                      # in a list of the session
    int64_t window                    # bytes the peer takes; a SETTINGS frame can make it negative
    int64_t room                      # bytes the peer may send
    unsigned char state               # STREAM_…
    bint sending                      # its head is out and a body follows
    bint plain                        # its body goes by DATA frames, or goes on by them
    tg_block *block                   # of the body's first message, while it is filled
    h2_message message                # what the peer sends


ctypedef struct h2_table:
    h2_entry **buckets
    uint32_t size                     # of `buckets`: a power of two
    uint32_t count
    h2_entry *few[8]                  # what `buckets` is at first


cdef void table_init(h2_table *table) noexcept
# Frees what is left in it.
cdef void table_free(h2_table *table) noexcept
# A new entry; NULL: no memory.
cdef h2_entry *table_add(h2_table *table, int32_t id) noexcept
# Takes it out, of its list too, and frees it.
cdef void table_remove(h2_table *table, h2_entry *entry) noexcept
# Any entry with a number above `id`; NULL = there is none.
cdef h2_entry *table_above(h2_table *table, int32_t id) noexcept


cdef inline h2_entry *table_find(const h2_table *table, int32_t id) noexcept nogil:
    # A connection's streams are all odd.
    cdef h2_entry *entry = table.buckets[(<uint32_t>id >> 1) & (table.size - 1)]
    while entry != NULL and entry.id != id:
        entry = entry.next
    return entry


cdef inline bint local_ended(const h2_entry *entry) noexcept nogil:
    return entry.state & STREAM_LOCAL


cdef inline bint remote_ended(const h2_entry *entry) noexcept nogil:
    return entry.state & STREAM_REMOTE


# Bytes of a streamed body that wait to be handed over.
cdef inline size_t h2_waiting(const h2_stream *stream) noexcept nogil:
    return tg_buffer_size(&stream.queue) - stream.kept + stream.lent_size


# Whether a streamed body is here from its beginning.
cdef inline bint h2_whole(const h2_stream *stream) noexcept nogil:
    return stream.handed == stream.kept


# A streamed body that is whole is to be sent from its beginning.
cdef inline void h2_rewind(h2_stream *stream) noexcept nogil:
    stream.handed = 0
    stream.kept = 0
