"""Trace context (W3C Trace Context, level 2) and random ids. Bytes in, bytes out: knows nothing of spans' export."""

from libc.stdint cimport uint64_t


cdef enum:
    TRACE_SAMPLED = 1                 # trace-flags: the trace is recorded
    TRACE_RANDOM = 2                  # level 2: the trace id's last 7 bytes are random
    TRACEPARENT_SIZE = 55             # of version 00, the one that is written
    TRACESTATE_LIMIT = 512            # characters that have to be passed on; more may be dropped


cdef struct tg_trace:
    unsigned char trace_id[16]
    unsigned char parent_id[8]        # the caller's span; all zero = the trace begins here
    unsigned char span_id[8]          # ours, which the next hop gets as its parent
    unsigned char flags


# Reads a traceparent field: 0 and the trace is filled in but for span_id, or -1: it is to be ignored, with tracestate.
cdef int trace_parse(const char *text, size_t n, tg_trace *trace) noexcept nogil
# Begins a trace: a random id that is sampled with probability `threshold` / 2**56.
cdef void trace_begin(tg_trace *trace, uint64_t threshold) noexcept
# Whether a trace id is in the sample: the same answer at every hop that uses the same ratio.
cdef bint trace_chosen(const tg_trace *trace, uint64_t threshold) noexcept nogil
# A new span of ours in the trace.
cdef void trace_span(tg_trace *trace) noexcept
# The traceparent for the next hop: TRACEPARENT_SIZE bytes, without NUL.
cdef void trace_write(const tg_trace *trace, char *into) noexcept nogil
# 2**56 times `ratio`, which is clamped to 0 … 1.
cdef uint64_t trace_threshold(double ratio) noexcept nogil

# 64 random bits, from a generator of this process that the kernel seeded. Not for secrets.
cdef uint64_t random64() noexcept
cdef void write_hex(const unsigned char *data, size_t n, char *into) noexcept nogil
