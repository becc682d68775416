"""Answers in the counters of a series: of a route, or of an endpoint, where each attempt and each copy counts."""

from libc.stdint cimport uint64_t
from lb.shared.segment cimport (
    TG_GRPC_CODES, TG_S_CODE_1XX, TG_S_CODE_OTHER, TG_S_DURATION_SUM_NS, TG_S_FAULTS, TG_S_GRPC, TG_S_HISTOGRAM, tg_add,
    tg_bucket,
)
from lb.upstream.load.outlier cimport VERDICT_FAULT, VERDICT_GATEWAY


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
    if 0 <= code < <int>TG_GRPC_CODES:
        tg_add(&words[TG_S_GRPC + code], 1)


cdef inline void count_try(uint64_t *words, int status, int code, int verdict, uint64_t duration) noexcept nogil:
    """One attempt at an endpoint, in its series; `code` is -1 where it was no call, or its gRPC status is not known."""
    count_answer(words, status, duration)
    count_code(words, code)
    if verdict == VERDICT_FAULT or verdict == VERDICT_GATEWAY:
        tg_add(&words[TG_S_FAULTS], 1)
