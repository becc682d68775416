"""Spans of inferences: see spans.pxd."""

import logging
from typing import Any

from libc.stdint cimport uint64_t
from backend.inference.batch cimport tg_batch
from backend.inference.model cimport Served
from lb.http.trace cimport TRACE_SAMPLED, tg_trace, trace_begin, trace_parse

log = logging.getLogger("tidegate.backend")


cdef bytes traced(const char *value, size_t size):
    cdef tg_trace trace
    if trace_parse(value, size, &trace) < 0:
        return None
    if not trace.flags & TRACE_SAMPLED:
        return b""
    return trace.trace_id[:16] + trace.parent_id[:8]


cdef bytes begun():
    """A trace that begins here: no span is above."""
    cdef tg_trace trace
    trace_begin(&trace, 0)
    return trace.trace_id[:16] + bytes(8)


cdef class Tracer:
    """Tells `spans` of inferences, of those without a trace as `sampling` says."""

    def __init__(self, spans: Any, Sampling sampling not None) -> None:
        self.spans = spans
        self.sampling = sampling

    cdef void ended(self, bytes trace, const tg_inference *inference, uint64_t now) noexcept:
        cdef const tg_batch *batch = <const tg_batch *>inference.batch
        cdef Served served = None if inference.served == NULL else <Served>inference.served
        cdef Sampling sampling = self.sampling
        if served is not None and served.sampling is not None:
            sampling = served.sampling
        if trace is None:
            if served is None or not sampling.takes():
                return
        elif not trace or not sampling.on:
            return
        try:
            if trace is None:
                trace = begun()
            model = None if served is None else served.model
            times = None
            if batch != NULL:
                times = (batch.began, batch.inferring, batch.inferred, batch.ended, batch.rows)
            problem = ""
            if inference.status:
                problem = inference.problem[:inference.problem_size].decode(errors="replace")
            self.spans.report(trace, model, inference.since or now, now, times, inference.status, problem)
        except Exception:
            log.exception("a span could not be recorded")
