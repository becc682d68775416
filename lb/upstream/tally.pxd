"""Answers in the counters of a series: of a route, or of an endpoint, where each attempt and each copy counts."""

from libc.stdint cimport uint64_t
from lb.shared.counters cimport count_duration
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    ANSWER_ERRORS, ANSWER_GRPC, ANSWER_GRPC_COUNT, ANSWER_REQUESTS_1XX, ANSWER_REQUESTS_OTHER, ANSWER_REQUEST_DURATION,
)
from lb.upstream.load.outlier cimport VERDICT_FAULT, VERDICT_GATEWAY


cdef inline void count_answer(uint64_t *words, int status, uint64_t duration) noexcept nogil:
    """One answer in a series: status class and latency in nanoseconds."""
    cdef int kind = status // 100
    tg_add(&words[ANSWER_REQUESTS_1XX - 1 + kind if 1 <= kind <= 5 else ANSWER_REQUESTS_OTHER], 1)
    count_duration(&words[ANSWER_REQUEST_DURATION], duration)


cdef inline void count_code(uint64_t *words, int code) noexcept nogil:
    """Its gRPC status, where it has one."""
    if 0 <= code < <int>ANSWER_GRPC_COUNT:
        tg_add(&words[ANSWER_GRPC + code], 1)


cdef inline void count_try(uint64_t *words, int status, int code, int verdict, uint64_t duration) noexcept nogil:
    """One attempt at an endpoint, in its series; `code` is -1 where it was no call, or its gRPC status is not known."""
    count_answer(words, status, duration)
    count_code(words, code)
    if verdict == VERDICT_FAULT or verdict == VERDICT_GATEWAY:
        tg_add(&words[ANSWER_ERRORS], 1)
