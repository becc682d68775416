"""The record of an exchange that is over: the series of its route and endpoint, and a line of the access log."""

from libc.stdint cimport uint64_t
from lb.core.segment cimport (
    TG_GRPC_CODES, TG_S_CODE_1XX, TG_S_CODE_OTHER, TG_S_DURATION_SUM_NS, TG_S_GRPC, TG_S_HISTOGRAM, tg_add, tg_bucket,
)
from lb.proxy.exchange cimport Exchange


cdef inline void count_answer(uint64_t *words, int status, uint64_t duration) noexcept nogil:
    """One answer in a series: status class and latency in nanoseconds."""
    cdef int kind = status // 100 - 1
    if kind < 0 or kind > 4:
        kind = TG_S_CODE_OTHER
    tg_add(&words[TG_S_CODE_1XX + kind], 1)
    tg_add(&words[TG_S_DURATION_SUM_NS], duration)
    tg_add(&words[TG_S_HISTOGRAM + tg_bucket(duration)], 1)


cdef inline void count_code(uint64_t *words, int code) noexcept nogil:
    """Its gRPC status, where it has one."""
    if 0 <= code < TG_GRPC_CODES:
        tg_add(&words[TG_S_GRPC + code], 1)


# In its route's series, as one that took `duration` nanoseconds.
cdef void count_exchange(Exchange exchange, uint64_t duration) noexcept
# What the access log, and the span of a sampled trace, say of it. Dropped when the ring has no room.
cdef void log_exchange(Exchange exchange, uint64_t duration) noexcept
