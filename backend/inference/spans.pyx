"""Spans of inferences: see spans.pxd."""

import logging

from libc.stdint cimport uint64_t
from backend.inference.batch cimport tg_batch
from backend.inference.model cimport Served
from lb.http.trace cimport TRACE_SAMPLED, tg_trace, trace_parse

log = logging.getLogger("tidegate.backend")


cdef bytes traced(const char *value, size_t size):
    cdef tg_trace trace
    if trace_parse(value, size, &trace) < 0 or not trace.flags & TRACE_SAMPLED:
        return None
    return trace.trace_id[:16] + trace.parent_id[:8]


cdef void report_span(object spans, bytes trace, const tg_inference *inference, uint64_t now) noexcept:
    cdef const tg_batch *batch = <const tg_batch *>inference.batch
    try:
        model = None if inference.served == NULL else (<Served>inference.served).model
        times = None
        if batch != NULL:
            times = (batch.began, batch.inferring, batch.inferred, batch.ended, batch.rows)
        problem = "" if inference.status == 0 else inference.problem[:inference.problem_size].decode(errors="replace")
        spans.report(trace, model, inference.since or now, now, times, inference.status, problem)
    except Exception:
        log.exception("a span could not be recorded")
