"""What the data path asks of the cache tier, and what it puts there: see tiered.pxd."""

import logging
from time import time_ns

from libc.stdint cimport uint32_t, uint64_t
from lb.cache.tiers.entry import LONGEST_TAG, Entry
from lb.cache.tiers.keys import pool_key

log = logging.getLogger("tidegate.proxy")


cdef class WorkerTier:

    def __init__(self, plan, servers):
        self.plan = plan
        self.servers = servers
        self.keys = {}

    cdef bint available(self) noexcept:
        if self.servers.available:
            return True
        self.servers.counts.skipped += 1
        return False

    cdef bytes key_of(self, str pool):
        found = self.keys.get(pool)
        if found is None:
            try:
                found = self.keys[pool] = pool_key(self.plan.secret, pool)
            except MemoryError:
                return None
        return found


cdef class TierQuestion:

    def told(self, found):
        """What the tier has found (lb.cache.tiers.tier.Found). It comes from the loop, outside of a batch."""
        self.generations = found.generations
        self.found(found.entry)

    cdef bint ask(self, list tags) noexcept:
        cdef bytes tag
        try:
            for tag in tags:
                if len(tag) > LONGEST_TAG:
                    return False              # no entry has room for it
            return self.tier.servers.ask(self.key, tags, self.told)
        except Exception:                     # nothing above takes it: the exchange would never end
            log.exception("the cache tier was not asked")
            return False

    cdef void found(self, object entry) noexcept:
        pass

    cdef void put(self, const char *value, size_t size, uint64_t fresh_ns, uint32_t cost_us) noexcept:
        if self.generations is None:
            return
        try:
            now = time_ns()
            until = min(now + fresh_ns, 2**64 - 1)
            self.tier.servers.put(self.key, Entry(value[:size], until, until, cost_us, self.generations, now))
        except MemoryError:
            pass


cdef void read_times(object entry, uint64_t *age, uint64_t *left) noexcept:
    cdef uint64_t now = time_ns()
    cdef uint64_t made_at = entry.made_at
    cdef uint64_t until = entry.fresh_until
    age[0] = now - made_at if now > made_at else 0
    left[0] = until - now if until > now else 0
