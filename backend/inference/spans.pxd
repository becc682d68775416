"""What a traced inference tells of itself when it is answered. Nothing of it is on the way of others."""

from libc.stdint cimport uint64_t
from backend.inference.inference cimport tg_inference


# A traceparent (W3C Trace Context) whose trace is recorded, as bytes; None: it is not, or is none.
cdef bytes traced(const char *value, size_t size)
# Tells `spans` (backend.tracing.Spans) of an inference that ended at `now` (monotonic ns).
cdef void report_span(object spans, bytes trace, const tg_inference *inference, uint64_t now) noexcept
