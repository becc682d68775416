"""How the compiled side counts: the words of a series are those of lb/shared/words.py, and each has one writer."""

from libc.stdint cimport uint64_t
from lb.shared.segment_layout cimport tg_add
from lb.shared.segment_words cimport SERIES_BOUNDS, tg_bucket_bounds_us


cdef inline unsigned int bucket_of(uint64_t duration_ns) noexcept nogil:
    cdef uint64_t us = duration_ns // 1000
    cdef unsigned int low = 0, high = SERIES_BOUNDS, middle
    while low < high:
        middle = (low + high) // 2
        if us <= tg_bucket_bounds_us[middle]:
            high = middle
        else:
            low = middle + 1
    return low


# One more duration in a histogram, which is the row of that type: ANSWER_REQUEST_DURATION, QUEUE_WAIT, …
cdef inline void count_duration(uint64_t *histogram, uint64_t duration_ns) noexcept nogil:
    tg_add(histogram, duration_ns)
    tg_add(histogram + 1 + bucket_of(duration_ns), 1)
