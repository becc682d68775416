"""How many connections each network has: of the size of one client, /32 for IPv4 and /64 for IPv6, or larger ones.

A /64 is what one subscriber gets (RFC 6177): within it addresses cost nothing, so they count as one.
"""

from libc.stdint cimport uint32_t, uint64_t

from lb.shared.source_counts cimport SharedSources


cdef struct tg_source:
    uint64_t key                      # the address, or the first half of it
    uint32_t family
    uint32_t count                    # 0 = the slot is free
    uint32_t shared                   # of these, what the table of all workers knows


cdef class Sources:
    """Exact within the process; while they are shared, a limit is exact over all workers. Memory follows the most
    networks that ever had a connection at the same time."""
    cdef tg_source *slots             # open addressing, linear probing; at most half full
    cdef size_t capacity              # a power of two
    cdef readonly size_t networks     # slots in use
    cdef uint64_t seed
    cdef uint64_t masks[2]            # of the numbers of IPv4 and IPv6 networks: what of them counts
    cdef readonly SharedSources table   # None = a limit is this process's own
    cdef uint64_t scope               # whose connections they are, in the table

    # One more connection from the network of `ip`, unless it has `limit` of them (0 = no limit): False. Text that is no
    # address (a Unix socket's "") is not counted.
    cdef bint enter(self, const char *ip, size_t n, uint32_t limit) noexcept nogil
    # One less; to be called once for every `enter` that gave True, with the same text.
    cdef void leave(self, const char *ip, size_t n) noexcept nogil

    # The same for a network by its number, the address or the first half of it, as `key_of` makes it of text.
    cdef bint enter_network(self, uint64_t key, uint32_t family, uint32_t limit) noexcept nogil
    cdef void leave_network(self, uint64_t key, uint32_t family) noexcept nogil

    # Whether there is room in the table of all workers: what it does not know yet of this slot is told on the way.
    cdef bint enter_shared(self, size_t at, uint32_t limit) noexcept nogil
    cdef void leave_shared(self, size_t at) noexcept nogil
    cdef size_t find(self, uint64_t key, uint32_t family) noexcept nogil
    cdef size_t home(self, uint64_t key, uint32_t family) noexcept nogil
    cdef bint grow(self) noexcept nogil
    cdef void erase(self, size_t hole) noexcept nogil
