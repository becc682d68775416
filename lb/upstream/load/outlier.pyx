"""What is decided about an endpoint in the worker, at once: too many failures in a row, or one while on probation.

All else is the master's: how long an ejection lasts, and what the counts of an interval say (lb.health.outlier).
"""

from libc.stdint cimport uint32_t, uint64_t

from lb.shared.atomics cimport tg_fetch_add32, tg_load32_relaxed, tg_load64_relaxed, tg_store32_relaxed
from lb.shared.segment cimport (
    TG_EJECTION_CONSECUTIVE_5XX,
    TG_EJECTION_CONSECUTIVE_GATEWAY,
    TG_EJECTION_PROBATION,
    TG_STANDING_EJECTED,
    TG_STANDING_PROBATION,
    Segment,
    tg_add,
    tg_endpoint,
)
from lb.shared.segment_words cimport ENDPOINT_JUDGED_FAULT, ENDPOINT_JUDGED_GOOD
from lb.endpoints.ejection_state cimport Standings


cdef enum:
    GRPC_CODES = 17                   # OK to UNAUTHENTICATED


cdef int verdict_of(int status, bint ok) noexcept nogil:
    if status == 499:
        return VERDICT_NONE
    if status >= 500:
        return VERDICT_GATEWAY if 502 <= status <= 504 else VERDICT_FAULT
    if status == 429:
        return VERDICT_BUSY
    return VERDICT_GOOD if ok else VERDICT_GATEWAY


# The HTTP statuses that gRPC's stand for where answers are judged: Envoy's table (Grpc::Utility::grpcToHttpStatus), by
# which its outlier detection goes.
cdef int[GRPC_CODES] JUDGED = [
    200,  # OK
    499,  # CANCELLED
    500,  # UNKNOWN
    400,  # INVALID_ARGUMENT
    504,  # DEADLINE_EXCEEDED
    404,  # NOT_FOUND
    409,  # ALREADY_EXISTS
    403,  # PERMISSION_DENIED
    429,  # RESOURCE_EXHAUSTED
    400,  # FAILED_PRECONDITION
    409,  # ABORTED
    400,  # OUT_OF_RANGE
    501,  # UNIMPLEMENTED
    500,  # INTERNAL
    503,  # UNAVAILABLE
    500,  # DATA_LOSS
    401,  # UNAUTHENTICATED
]


cdef int verdict_of_grpc(int code) noexcept nogil:
    return verdict_of(JUDGED[code], True) if 0 <= code < GRPC_CODES else VERDICT_FAULT


cdef bint is_fault(int code) noexcept nogil:
    return 0 <= code < GRPC_CODES and JUDGED[code] >= 500


cdef class Outlier:
    """Over `endpoints`, the EndpointPlans of a pool, by its OutlierPlan `plan`. Whoever makes one sets `series`."""

    def __init__(self, plan, Segment segment not None, endpoints):
        self.standings = Standings(segment, [endpoint.slot for endpoint in endpoints])
        self.rank = segment.worker
        self.consecutive_5xx = plan.consecutive_5xx
        self.consecutive_gateway = plan.consecutive_gateway_failure
        self.most = plan.most

    cdef void judge(self, int index, int verdict, uint64_t started) noexcept:
        cdef tg_endpoint *record = self.standings.records[index]
        cdef uint32_t standing = self.standings.standing(index)
        cdef uint32_t failures
        if verdict == VERDICT_NONE:
            return
        if verdict == VERDICT_BUSY:
            verdict = VERDICT_GOOD        # as Envoy has it: only 5xx are failures
        tg_add(&self.series[index][ENDPOINT_JUDGED_GOOD if verdict == VERDICT_GOOD else ENDPOINT_JUDGED_FAULT], 1)
        if standing == TG_STANDING_EJECTED:
            return                        # the end of what it was ejected for
        if standing == TG_STANDING_PROBATION:
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
