"""The table of streams: see streams.pxd."""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from lb.net.link cimport link_remove

cdef enum:
    FEW = 8


cdef void table_init(h2_table *table) noexcept:
    memset(table, 0, sizeof(table[0]))
    table.buckets = table.few
    table.size = FEW


cdef void table_free(h2_table *table) noexcept:
    cdef h2_entry *entry
    cdef h2_entry *next
    cdef uint32_t i
    if table.buckets == NULL:
        return
    for i in range(table.size):
        entry = table.buckets[i]
        while entry != NULL:
            next = entry.next
            free(entry)
            entry = next
    if table.buckets != table.few:
        free(table.buckets)
    table.buckets = NULL


cdef void grow(h2_table *table) noexcept:
    """Twice as many buckets. Without memory it stays as it is, with longer chains."""
    cdef uint32_t size = 2 * table.size, i
    cdef h2_entry **buckets = <h2_entry **>calloc(size, sizeof(h2_entry *))
    cdef h2_entry *entry
    cdef h2_entry *next
    cdef h2_entry **place
    if buckets == NULL:
        return
    for i in range(table.size):
        entry = table.buckets[i]
        while entry != NULL:
            next = entry.next
            place = &buckets[(<uint32_t>entry.id >> 1) & (size - 1)]
            entry.next = place[0]
            place[0] = entry
            entry = next
    if table.buckets != table.few:
        free(table.buckets)
    table.buckets = buckets
    table.size = size


cdef h2_entry *table_add(h2_table *table, int32_t id) noexcept:
    cdef h2_entry *entry = <h2_entry *>malloc(sizeof(h2_entry))
    cdef h2_entry **place
    if entry == NULL:
        return NULL
    if table.count >= table.size:
        grow(table)
    memset(entry, 0, sizeof(h2_entry))
    place = &table.buckets[(<uint32_t>id >> 1) & (table.size - 1)]
    entry.id = id
    entry.link.owner = entry
    entry.next = place[0]
    place[0] = entry
    table.count += 1
    return entry


cdef void table_remove(h2_table *table, h2_entry *entry) noexcept:
    cdef h2_entry **place = &table.buckets[(<uint32_t>entry.id >> 1) & (table.size - 1)]
    while place[0] != entry:
        place = &place[0].next
    place[0] = entry.next
    table.count -= 1
    link_remove(&entry.link)
    free(entry)


cdef h2_entry *table_above(h2_table *table, int32_t id) noexcept:
    cdef h2_entry *entry
    cdef uint32_t i
    for i in range(table.size):
        entry = table.buckets[i]
        while entry != NULL:
            if entry.id > id:
                return entry
            entry = entry.next
    return NULL
