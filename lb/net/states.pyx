"""State machines as data: see states.pxd."""


cdef dict states_of(const tg_states *table):
    cdef int i, j
    found = {}
    for i in range(table.count):
        found[table.names[i].decode()] = [table.names[j].decode() for j in range(32) if table.followers[i] >> j & 1
                                          and j < table.count]
    return found
