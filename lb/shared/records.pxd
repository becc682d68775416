"""What an endpoint's record in the shared segment says (segment.h): the meaning of its words, for whoever reads them.

Others write them meanwhile; no two words are read or written as one.
"""

from libc.stdint cimport INT32_MAX, uint32_t, uint64_t
from lb.shared.atomics cimport (
    tg_load32, tg_load32_relaxed, tg_load64_relaxed, tg_store64_relaxed, tg_store_double_relaxed,
)
from lb.shared.segment_layout cimport (
    TG_ADMIN_ENABLED, TG_ADMIN_MAINTENANCE, TG_HEALTH_UP, TG_SHARE_HELD, TG_SHARE_PANIC, TG_STATE_MASK, tg_endpoint,
)


# The weight that the master has set, whether or not the endpoint takes requests.
cdef inline int set_weight_of(const tg_endpoint *record) noexcept nogil:
    return <int> min(tg_load32_relaxed(&record.weight), <uint32_t> INT32_MAX)


# The same of an endpoint that is up and enabled; else 0.
cdef inline int weight_of(const tg_endpoint *record) noexcept nogil:
    # Acquire: when a slot changes hands its weight is zeroed first, so health is read before weight.
    if tg_load32(&record.health) != TG_HEALTH_UP or tg_load32(&record.admin) != TG_ADMIN_ENABLED:
        return 0
    return set_weight_of(record)


# Whether it goes on with what it has begun: up, drained or not.
cdef inline bint carries_on(const tg_endpoint *record) noexcept nogil:
    return tg_load32(&record.health) == TG_HEALTH_UP and tg_load32(&record.admin) != TG_ADMIN_MAINTENANCE


# TG_STATE_…: well, ejected for its answers, or on probation.
cdef inline uint32_t ejection_state_of(const tg_endpoint *record) noexcept nogil:
    return tg_load32_relaxed(&record.ejection_state) & TG_STATE_MASK


# Whether more than health, the operator and the weight has a say in what it gets: it is ejected or on probation, a part
# of its weight is held back, or there is a panic.
cdef inline bint is_steered(const tg_endpoint *record) noexcept nogil:
    return (tg_load32_relaxed(&record.held_back) & (TG_SHARE_HELD | TG_SHARE_PANIC)
            | tg_load32_relaxed(&record.ejection_state)) != 0


# Bits of models: whether one of `wanted` is not ready.
cdef inline bint lacks_model(const tg_endpoint *record, uint64_t wanted) noexcept nogil:
    # Bits are never written together with another word: relaxed will do.
    return (tg_load64_relaxed(&record.models_unready) & wanted) != 0


# The same, or one of `avoided` is ready.
cdef inline bint unfit(const tg_endpoint *record, uint64_t wanted, uint64_t avoided) noexcept nogil:
    cdef uint64_t unready = tg_load64_relaxed(&record.models_unready)
    return (unready & wanted) != 0 or (unready & avoided) != avoided


# What the endpoint says of itself. Of two reports that come at once, the parts of both may be seen. Both are true of
# that moment.
cdef inline void write_report(
    tg_endpoint *record, double utilization, double qps, double eps, uint64_t now
) noexcept nogil:
    tg_store_double_relaxed(&record.report_utilization, utilization)
    tg_store_double_relaxed(&record.report_qps, qps)
    tg_store_double_relaxed(&record.report_eps, eps)
    if tg_load64_relaxed(&record.report_since_ns) == 0:
        tg_store64_relaxed(&record.report_since_ns, now)
    tg_store64_relaxed(&record.report_updated_ns, now)
