"""Inferences that ended, as those who make spans are told of them. Nothing of it is on the way of others."""

from libc.stdint cimport uint64_t
from backend.inference.inference cimport tg_inference
from backend.inference.sampling cimport Sampling


# The trace of a caller, from a traceparent (W3C Trace Context): its id, then that of the caller's span; b"" where the
# caller does not record it; None: the caller has no trace.
cdef bytes traced(const char *value, size_t size)


cdef class Tracer:
    # Who makes spans (backend.tracing.Spans).
    cdef object spans
    # Of models without settings of their own, and of inferences without a model.
    cdef public Sampling sampling

    # An inference of a caller with this trace ended at `now` (monotonic ns).
    cdef void ended(self, bytes trace, const tg_inference *inference, uint64_t now) noexcept
