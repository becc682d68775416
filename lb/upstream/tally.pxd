"""Answers in the counters of a series: of a route, or of an endpoint, where each attempt and each copy counts."""

from libc.stdint cimport uint64_t
from lb.failure cimport (
    COUNT_CONNECT_ERROR, COUNT_LOCAL_CONNECT_ERROR, COUNT_REJECTED, COUNT_TIMEOUT, VERDICT_FAULT, VERDICT_GATEWAY,
    failure_of,
)
from lb.shared.counters cimport bucket_of, count_duration
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    ANSWER_ERRORS, ANSWER_GRPC, ANSWER_GRPC_COUNT, ANSWER_RECEIVED_BYTES, ANSWER_REQUESTS_1XX, ANSWER_REQUESTS_429,
    ANSWER_REQUESTS_5XX, ANSWER_SENT_BYTES,
    ANSWER_REQUESTS_OTHER, ANSWER_REQUEST_DURATION,
    ENDPOINT_CONNECT_ERRORS, ENDPOINT_LOCAL_CONNECT_ERRORS, ENDPOINT_RESPONSE_ERRORS, ENDPOINT_TIMEOUTS, ROUTE_REJECTED,
    ROUTE_TIMEOUTS,
)


cdef inline void count_failure(uint64_t *words, int kind) noexcept nogil:
    """A failed attempt in the series of its endpoint."""
    cdef int counter = failure_of(kind).counter
    if counter == COUNT_TIMEOUT:
        tg_add(&words[ENDPOINT_TIMEOUTS], 1)
    elif counter == COUNT_LOCAL_CONNECT_ERROR:
        tg_add(&words[ENDPOINT_LOCAL_CONNECT_ERRORS], 1)
    else:
        tg_add(&words[ENDPOINT_CONNECT_ERRORS if counter == COUNT_CONNECT_ERROR else ENDPOINT_RESPONSE_ERRORS], 1)


cdef inline void count_refusal(uint64_t *words, int kind) noexcept nogil:
    """A failed exchange in the series of its route: where that is a refusal, or a deadline that has passed."""
    cdef int counter = failure_of(kind).counter
    if counter == COUNT_TIMEOUT:
        tg_add(&words[ROUTE_TIMEOUTS], 1)
    elif counter == COUNT_REJECTED:
        tg_add(&words[ROUTE_REJECTED], 1)


cdef inline int status_word(int status) noexcept nogil:
    """The word that counts answers of this status."""
    cdef int kind = status // 100
    if status == 429:
        return ANSWER_REQUESTS_429
    if 1 <= kind <= 4:
        return ANSWER_REQUESTS_1XX - 1 + kind
    return ANSWER_REQUESTS_5XX if kind == 5 else ANSWER_REQUESTS_OTHER


cdef inline void count_answer(uint64_t *words, int status, uint64_t duration) noexcept nogil:
    """One answer in a series: status class and latency in nanoseconds."""
    tg_add(&words[status_word(status)], 1)
    count_duration(&words[ANSWER_REQUEST_DURATION], duration)


cdef inline void count_code(uint64_t *words, int code) noexcept nogil:
    """Its gRPC status, where it has one."""
    if 0 <= code < <int>ANSWER_GRPC_COUNT:
        tg_add(&words[ANSWER_GRPC + code], 1)


cdef struct tg_answered:
    # An answer as series count it that have the same of it, a route's and a model's.
    int word                          # of its status
    int code                          # its gRPC status; -1 = none
    bint error                        # it is the server's fault
    unsigned int bucket               # of its duration
    uint64_t duration                 # ns
    uint64_t received                 # bytes of bodies
    uint64_t sent


cdef inline void count_answered(uint64_t *words, const tg_answered *answer) noexcept nogil:
    tg_add(&words[answer.word], 1)
    tg_add(&words[ANSWER_REQUEST_DURATION], answer.duration)
    tg_add(&words[ANSWER_REQUEST_DURATION + 1 + answer.bucket], 1)
    count_code(words, answer.code)
    if answer.error:
        tg_add(&words[ANSWER_ERRORS], 1)
    tg_add(&words[ANSWER_RECEIVED_BYTES], answer.received)
    tg_add(&words[ANSWER_SENT_BYTES], answer.sent)


cdef inline void count_attempt(uint64_t *words, int status, int code, int verdict, uint64_t duration) noexcept nogil:
    """One attempt at an endpoint, in its series; `code` is -1 where it was no call, or its gRPC status is not known."""
    count_answer(words, status, duration)
    count_code(words, code)
    if verdict == VERDICT_FAULT or verdict == VERDICT_GATEWAY:
        tg_add(&words[ANSWER_ERRORS], 1)
