"""What is decided about an endpoint in the worker, at once: too many failures in a row, or one while on probation.

All else is the master's: how long an ejection lasts, and what the counts of an interval say (lb.health.outlier).
"""

from libc.stdint cimport uint32_t, uint64_t

from lb.failure cimport VERDICT_BUSY, VERDICT_GATEWAY, VERDICT_GOOD, VERDICT_NONE
from lb.shared.atomics cimport tg_fetch_add32, tg_load32_relaxed, tg_load64_relaxed, tg_store32_relaxed
from lb.shared.segment cimport (
    TG_EJECTION_CONSECUTIVE_5XX,
    TG_EJECTION_CONSECUTIVE_GATEWAY,
    TG_EJECTION_PROBATION,
    TG_STATE_EJECTED,
    TG_STATE_PROBATION,
    Segment,
    tg_add,
    tg_endpoint,
)
from lb.shared.segment_words cimport ENDPOINT_JUDGED_FAULT, ENDPOINT_JUDGED_GOOD
from lb.endpoints.ejection_state cimport EjectionStates


cdef class Outlier:
    """Over `endpoints`, the EndpointPlans of a pool, by its OutlierPlan `plan`. Whoever makes one sets `series`."""

    def __init__(self, plan, Segment segment not None, endpoints):
        self.standings = EjectionStates(segment, [endpoint.slot for endpoint in endpoints])
        self.rank = segment.worker
        self.consecutive_5xx = plan.consecutive_5xx
        self.consecutive_gateway = plan.consecutive_gateway_failure
        self.most = plan.most

    cdef void judge(self, int index, int verdict, uint64_t started) noexcept:
        cdef tg_endpoint *record = self.standings.records[index]
        cdef uint32_t ejection_state = self.standings.ejection_state(index)
        cdef uint32_t failures
        if verdict == VERDICT_NONE:
            return
        if verdict == VERDICT_BUSY:
            verdict = VERDICT_GOOD        # as Envoy has it: only 5xx are failures
        tg_add(&self.series[index][ENDPOINT_JUDGED_GOOD if verdict == VERDICT_GOOD else ENDPOINT_JUDGED_FAULT], 1)
        if ejection_state == TG_STATE_EJECTED:
            return                        # the end of what it was ejected for
        if ejection_state == TG_STATE_PROBATION:
            if started < tg_load64_relaxed(&record.probation_ns):
                return                    # begun before it was ejected
            if verdict == VERDICT_GOOD:
                tg_fetch_add32(&record.probation_good, 1)
            else:
                # Should it have to stay, for too many others being ejected, it begins anew.
                tg_store32_relaxed(&record.probation_good, 0)
                self.standings.eject(index, TG_EJECTION_PROBATION, self.most, self.rank)
            return
        # Look before each zero: all workers read this line, and a write would take it from them.
        if verdict != VERDICT_GATEWAY and tg_load32_relaxed(&record.consecutive_gateway):
            tg_store32_relaxed(&record.consecutive_gateway, 0)
        if verdict == VERDICT_GOOD:
            if tg_load32_relaxed(&record.consecutive_5xx):
                tg_store32_relaxed(&record.consecutive_5xx, 0)
            return
        failures = tg_fetch_add32(&record.consecutive_5xx, 1) + 1
        if self.consecutive_5xx and failures >= self.consecutive_5xx:
            self.standings.eject(index, TG_EJECTION_CONSECUTIVE_5XX, self.most, self.rank)
        if verdict == VERDICT_GATEWAY:
            failures = tg_fetch_add32(&record.consecutive_gateway, 1) + 1
            if self.consecutive_gateway and failures >= self.consecutive_gateway:
                self.standings.eject(index, TG_EJECTION_CONSECUTIVE_GATEWAY, self.most, self.rank)
