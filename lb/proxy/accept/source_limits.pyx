"""How many connections each network has: see source_limits.pxd."""

import os

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from lb.net.ip cimport AF_INET6, ip_parse, tg_ip
from lb.proxy.accept.source_guard cimport network_mask, network_of
from lb.shared.source_counts cimport SHARED_ADDED, SHARED_FULL, SharedSources

cdef enum:
    FIRST_CAPACITY = 64


cdef bint key_of(const char *ip, size_t n, uint64_t *key, uint32_t *family) noexcept nogil:
    cdef tg_ip parsed
    if ip_parse(&parsed, ip, n) < 0:
        return False
    key[0] = network_of(&parsed)
    family[0] = <uint32_t>parsed.family
    return True


cdef class Sources:
    """Of networks whose addresses have their first `ipv4_prefix` or `ipv6_prefix` (at most 64) bits in common."""

    def __cinit__(self, int ipv4_prefix=32, int ipv6_prefix=64):
        self.masks[0] = network_mask(False, ipv4_prefix)
        self.masks[1] = network_mask(True, ipv6_prefix)
        # Nobody outside can choose networks that meet in one place of the table.
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.slots = <tg_source *>calloc(FIRST_CAPACITY, sizeof(tg_source))
        if self.slots == NULL:
            raise MemoryError
        self.capacity = FIRST_CAPACITY

    def __dealloc__(self):
        free(self.slots)

    cdef size_t home(self, uint64_t key, uint32_t family) noexcept nogil:
        """The slot at which the search begins: the finaliser of MurmurHash3 over key and seed."""
        cdef uint64_t h = key ^ self.seed ^ (<uint64_t>family << 56)
        h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDULL
        h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53ULL
        return <size_t>(h ^ (h >> 33)) & (self.capacity - 1)

    cdef size_t find(self, uint64_t key, uint32_t family) noexcept nogil:
        """The network's slot, or the free one where it belongs."""
        cdef size_t at = self.home(key, family)
        while self.slots[at].count and (self.slots[at].key != key or self.slots[at].family != family):
            at = (at + 1) & (self.capacity - 1)
        return at

    cdef bint enter(self, const char *ip, size_t n, uint32_t limit) noexcept nogil:
        cdef uint64_t key
        cdef uint32_t family
        return not key_of(ip, n, &key, &family) or self.enter_network(key, family, limit)

    cdef bint enter_network(self, uint64_t key, uint32_t family, uint32_t limit) noexcept nogil:
        cdef size_t at
        key &= self.masks[family == AF_INET6]
        at = self.find(key, family)
        if self.slots[at].count == 0:
            if 2 * (self.networks + 1) > self.capacity:
                if not self.grow():
                    return False      # what cannot be counted cannot be let in
                at = self.find(key, family)
            self.slots[at].key = key
            self.slots[at].family = family
            self.slots[at].shared = 0
        if limit and not self.enter_shared(at, limit):
            return False
        if self.slots[at].count == 0:
            self.networks += 1
        self.slots[at].count += 1
        return True

    cdef bint enter_shared(self, size_t at, uint32_t limit) noexcept nogil:
        cdef tg_source *slot = &self.slots[at]
        cdef int result = SHARED_FULL
        if self.table is not None:
            result = self.table.enter(self.table.key_of(self.scope, slot.key, slot.family),
                                      slot.count + 1 - slot.shared, limit)
        if result == SHARED_ADDED:
            slot.shared = slot.count + 1
            return True
        return result == SHARED_FULL and slot.count < limit

    cdef void leave_shared(self, size_t at) noexcept nogil:
        """The table learns of those who have left."""
        cdef tg_source *slot = &self.slots[at]
        if slot.shared > slot.count:
            self.table.leave(self.table.key_of(self.scope, slot.key, slot.family), slot.shared - slot.count)
            slot.shared = slot.count

    def share(self, SharedSources table not None, uint64_t scope):
        """From now on limits are over all workers; those who are here already are told of."""
        cdef size_t i
        cdef uint64_t key
        if self.table is not None:
            return
        self.table = table
        self.scope = scope
        for i in range(self.capacity):
            if self.slots[i].count:
                key = table.key_of(scope, self.slots[i].key, self.slots[i].family)
                if table.enter(key, self.slots[i].count, 0) == SHARED_ADDED:
                    self.slots[i].shared = self.slots[i].count

    def withdraw(self):
        """Limits are this process's own again, and the table has nothing of it."""
        cdef size_t i
        if self.table is None:
            return
        for i in range(self.capacity):
            if self.slots[i].count and self.slots[i].shared:
                self.table.leave(self.table.key_of(self.scope, self.slots[i].key, self.slots[i].family),
                                 self.slots[i].shared)
                self.slots[i].shared = 0
        self.table = None

    cdef void leave(self, const char *ip, size_t n) noexcept nogil:
        cdef uint64_t key
        cdef uint32_t family
        if key_of(ip, n, &key, &family):
            self.leave_network(key, family)

    cdef void leave_network(self, uint64_t key, uint32_t family) noexcept nogil:
        cdef size_t at = self.find(key & self.masks[family == AF_INET6], family)
        if self.slots[at].count == 0:
            return
        self.slots[at].count -= 1
        if self.slots[at].shared:
            self.leave_shared(at)
        if self.slots[at].count == 0:
            self.networks -= 1
            self.erase(at)

    cdef void erase(self, size_t hole) noexcept nogil:
        """Close the gap, so that every search still ends at a free slot (Knuth, TAOCP 3, 6.4, algorithm R)."""
        cdef size_t mask = self.capacity - 1, at = hole, home
        while True:
            at = (at + 1) & mask
            if self.slots[at].count == 0:
                return
            home = self.home(self.slots[at].key, self.slots[at].family)
            # It may move back into the gap unless its search begins behind the gap.
            if ((at - home) & mask) >= ((at - hole) & mask):
                self.slots[hole] = self.slots[at]
                self.slots[at].count = 0
                hole = at

    cdef bint grow(self) noexcept nogil:
        cdef tg_source *old = self.slots
        cdef size_t size = self.capacity, i
        cdef tg_source *made = <tg_source *>calloc(size * 2, sizeof(tg_source))
        if made == NULL:
            return False
        self.slots = made
        self.capacity = size * 2
        for i in range(size):
            if old[i].count:
                made[self.find(old[i].key, old[i].family)] = old[i]
        free(old)
        return True

    # For tests and for people who look.

    def add(self, str ip not None, uint32_t limit=0):
        """`enter`: whether there was room."""
        data = ip.encode()
        return self.enter(data, <size_t>len(data), limit)

    def remove(self, str ip not None):
        """`leave`."""
        data = ip.encode()
        self.leave(data, <size_t>len(data))

    def __getitem__(self, str ip not None):
        """Connections from the network of `ip`."""
        cdef uint64_t key
        cdef uint32_t family
        data = ip.encode()
        if not key_of(data, <size_t>len(data), &key, &family):
            raise KeyError(ip)
        return self.slots[self.find(key & self.masks[family == AF_INET6], family)].count

    def __repr__(self):
        return f"<Sources {self.networks} networks>"
