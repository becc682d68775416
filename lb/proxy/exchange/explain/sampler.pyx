"""Which requests of a listener have the choice of their endpoint explained: see sampler.pxd."""

from lb.http.head cimport Field, Scan, same_name
from lb.net.ip cimport Networks
from lb.http.trace cimport random64, trace_threshold

cdef enum:
    NAME_LENGTH = 18
    RANDOM_BITS = 56                  # of a threshold


cdef class Sampler:
    """By `plan` (ExplainPlan)."""

    def __init__(self, plan):
        self.threshold = trace_threshold(plan.sample)
        if plan.trusted:
            self.trusted = Networks(plan.trusted)

    cdef int wants(self, Scan *scan, const char *source, size_t n) noexcept:
        cdef Field *field
        cdef bint asks = False
        cdef int i
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.name_length == NAME_LENGTH and same_name(field.name, NAME_LENGTH, b"x-tidegate-explain"):
                field.hop = True
                asks = asks or (field.value_length == 1 and field.value[0] == c'1')
        if asks and self.trusted is not None and self.trusted.contains_text(source, n):
            return EXPLAIN_ASKED
        if self.threshold and random64() >> (64 - RANDOM_BITS) < self.threshold:
            return EXPLAIN_LOG
        return EXPLAIN_NOT
