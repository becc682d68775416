"""How long answers are kept: by route, model and pool, the most particular that says something."""

from libc.stdint cimport int64_t
from lb.cache.layout cimport tg_fill


cdef class CacheRule:
    """A plan's word (`FreshnessPlan`): times in ns; -1 = as the next wider rule says."""
    cdef int64_t ttl, stale, error, negative
    cdef signed char early


cdef class PoolRules:
    cdef CacheRule rule               # of all its models
    cdef dict models                  # name as UTF-8 -> CacheRule, or None: not kept; None = they do not differ

    # The rule of a model; None: its answers are not kept.
    cdef CacheRule of_model(self, bytes model)


# Sets times and flags of an answer by `wide`, which leaves nothing open, and `narrow`, which may be None. False: it is
# not kept. `negative`: the answer is an error that is the request's own fault.
cdef bint apply_rules(tg_fill *fill, CacheRule wide, CacheRule narrow, bint negative) noexcept
