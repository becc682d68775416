"""What the data path asks of the cache tier, and what it puts there (docs/adr/cache-tiers.md).

A question is put on the loop, and answered from the loop: within the tier's timeout, and once. Who no longer wants the
answer lets go of what the question refers to.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef class WorkerTier:
    """The tier of a worker."""
    cdef readonly object plan         # lb.config.plan.tier.TierPlan
    cdef readonly object servers      # lb.cache.tiers.tier.Tier
    cdef dict keys                    # name of a pool -> 32 bytes under which its requests are hashed

    # Whether a question would be asked; counts one that is not.
    cdef bint available(self) noexcept
    # None: out of memory.
    cdef bytes key_of(self, str pool)


cdef class TierQuestion:
    """An answer that is looked for. Subclasses say what becomes of it."""
    cdef WorkerTier tier
    cdef bytes key                    # of the answer in the tier: 32 bytes
    cdef tuple generations            # of its tags, before an endpoint is asked; None: not known, nothing can be put

    # Asks for what carries `tags`. False: the tier cannot be asked, and `found` will not be called.
    cdef bint ask(self, list tags) noexcept
    # The entry (lb.cache.tiers.entry.Entry), or None.
    cdef void found(self, object entry) noexcept
    # Queues an answer that was made after the question: it is fresh for so long, and has cost so much.
    cdef void put(self, const char *value, size_t size, uint64_t fresh_ns, uint32_t cost_us) noexcept


# How old an entry is, and how long it is fresh yet, in ns by the clocks of this machine and of the one that made it.
cdef void read_times(object entry, uint64_t *age, uint64_t *left) noexcept
