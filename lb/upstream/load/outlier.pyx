"""What is decided about an endpoint in the worker, at once: too many failures in a row, or one while on probation.

All else is the master's: how long an ejection lasts, and what the counts of an interval say (lb.health.outlier).
"""

from libc.stdint cimport uint32_t, uint64_t

from lb.failure cimport VERDICT_BUSY, VERDICT_GATEWAY, VERDICT_GOOD, VERDICT_NONE
from lb.shared.atomics cimport tg_fetch_add32, tg_load32_relaxed, tg_load64_relaxed, tg_store32_relaxed
from lb.shared.recent_failures cimport failing_of
from lb.shared.records cimport weight_of
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

cdef double FAILS = 0.5               # of its recent attempts: no better than one that is to be ejected


cdef class Outlier:
    """Over `endpoints`, the EndpointPlans of a pool, by its OutlierPlan `plan`. `compares`: the share of recent
    attempts that failed is kept for each (lb.shared.recent_failures). Whoever makes one sets `series`."""

    def __init__(self, plan, Segment segment not None, endpoints, bint compares):
        self.standings = EjectionStates(segment, [endpoint.slot for endpoint in endpoints])
        self.rank = segment.worker
        self.consecutive_5xx = plan.consecutive_5xx
        self.consecutive_gateway = plan.consecutive_gateway_failure
        self.most = plan.most
        self.compares = compares

    cdef bint stands_out(self, int index, uint64_t now) noexcept:
        """What a client got wrong, or what all endpoints lack, fails everywhere: to eject some of them would only take
        from what the rest can carry. Endpoints that are ejected already do not count."""
        cdef int i, others = 0, failing = 0
        if not self.compares:
            return True
        for i in range(self.standings.size):
            if i != index and weight_of(self.standings.records[i]) and not self.standings.ejection_state(i):
                others += 1
                failing += failing_of(self.standings.records[i], now) >= FAILS
        return 2 * failing <= others

    cdef void judge(self, int index, int verdict, uint64_t started, uint64_t now) noexcept:
        cdef tg_endpoint *record = self.standings.records[index]
        cdef uint32_t ejection_state = self.standings.ejection_state(index)
        cdef uint32_t failures
        # A refusal for being busy is no fault: it ejects nobody, as in Envoy. It is no good answer either: it ends
        # neither a row of failures nor a probation.
        if verdict == VERDICT_NONE or verdict == VERDICT_BUSY:
            return
        tg_add(&self.series[index][ENDPOINT_JUDGED_GOOD if verdict == VERDICT_GOOD else ENDPOINT_JUDGED_FAULT], 1)
        if ejection_state == TG_STATE_EJECTED:
            return                        # the end of what it was ejected for
        if ejection_state == TG_STATE_PROBATION:
            if started < tg_load64_relaxed(&record.probation_ns):
                return                    # begun before it was ejected
            if verdict == VERDICT_GOOD:
                tg_fetch_add32(&record.probation_good, 1)
            elif verdict == VERDICT_GATEWAY or self.stands_out(index, now):
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
        if self.consecutive_5xx and failures >= self.consecutive_5xx and self.stands_out(index, now):
            self.standings.eject(index, TG_EJECTION_CONSECUTIVE_5XX, self.most, self.rank)
        if verdict == VERDICT_GATEWAY:
            failures = tg_fetch_add32(&record.consecutive_gateway, 1) + 1
            if self.consecutive_gateway and failures >= self.consecutive_gateway:
                self.standings.eject(index, TG_EJECTION_CONSECUTIVE_GATEWAY, self.most, self.rank)
