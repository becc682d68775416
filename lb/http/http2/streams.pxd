"""The streams of one HTTP/2 connection: found by number, linked in the lists of those that have something to send."""

from libc.stdint cimport int32_t, int64_t, uint32_t
from lb.http.http2.message cimport h2_message
from lb.net.link cimport tg_link


ctypedef struct h2_entry:
    # What the session knows of an open stream (RFC 9113 section 5.1).
    int32_t id
    uint32_t owed                     # bytes that were consumed, of which the peer was not told yet
    h2_entry *next                    # of its bucket
    void *stream                      # the h2_stream of its owner, NULL = forgotten
    tg_link link                      # in a list of the session
    int64_t window                    # bytes the peer takes; a SETTINGS frame can make it negative
    int64_t room                      # bytes the peer may send
    bint sending                      # its head is out and a body follows
    bint local_ended
    bint remote_ended
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
