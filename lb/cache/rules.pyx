"""How long answers are kept: by route, model and pool, the most particular that says something."""

from libc.stdint cimport int64_t, uint16_t, uint64_t
from lb.cache.layout cimport TG_EARLY, TG_NEGATIVE, tg_fill


cdef class CacheRule:

    def __init__(self, plan):
        self.ttl, self.stale, self.error = plan.ttl_ns, plan.stale_ns, plan.error_ns
        self.negative, self.early = plan.negative_ns, plan.early


cdef class PoolRules:
    """The rules of a plan (`PoolCachePlan`)."""

    def __init__(self, plan):
        self.rule = CacheRule(plan.freshness)
        if plan.models:
            self.models = {
                model.name.encode(): None if model.freshness is None else CacheRule(model.freshness)
                for model in plan.models
            }

    cdef CacheRule of_model(self, bytes model):
        return self.rule if self.models is None else <CacheRule>self.models.get(model, self.rule)


cdef inline uint64_t particular(int64_t wide, int64_t narrow) noexcept nogil:
    return <uint64_t>max(wide if narrow < 0 else narrow, 0)


cdef bint apply_rules(tg_fill *fill, CacheRule wide, CacheRule narrow, bint negative) noexcept:
    if narrow is None:
        narrow = wide
    fill.flags = <uint16_t>(fill.flags & ~(TG_NEGATIVE | TG_EARLY))
    fill.stale_ns = fill.error_ns = 0
    if negative:
        fill.fresh_ns = particular(wide.negative, narrow.negative)
        fill.flags |= TG_NEGATIVE
    else:
        fill.fresh_ns = particular(wide.ttl, narrow.ttl)
        fill.stale_ns = particular(wide.stale, narrow.stale)
        fill.error_ns = particular(wide.error, narrow.error)
        if (wide.early if narrow.early < 0 else narrow.early) > 0:
            fill.flags |= TG_EARLY
    return fill.fresh_ns != 0
