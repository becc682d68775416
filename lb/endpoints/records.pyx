"""The records of a pool's endpoints in the shared segment, word by word: see records.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from lb.shared.atomics cimport (
    tg_load64_relaxed, tg_load_double_relaxed, tg_store32_relaxed, tg_store64_relaxed,
    tg_store_double_relaxed,
)
from lb.shared.records cimport set_weight_of, write_report
from lb.shared.segment cimport Segment, tg_endpoint

cdef enum:
    WORKER_MASK = 127                 # TG_MAX_WORKERS - 1


cdef class EndpointRecords:
    """Methods for Python raise IndexError for an index out of range and ValueError once the segment is closed."""

    def __dealloc__(self):
        free(self.records)

    cdef int hold(self, Segment segment, list slots) except -1:
        cdef int i
        # One more than needed: calloc(0) may give NULL.
        self.records = <tg_endpoint **> calloc(len(slots) + 1, sizeof(tg_endpoint *))
        if self.records is NULL:
            raise MemoryError
        for i, slot in enumerate(slots):
            self.records[i] = segment.endpoint(slot)
        self.segment = segment
        self.worker = segment.worker
        self.size = len(slots)
        return 0

    cdef int check(self, int i) except -1:
        if not 0 <= i < self.size:
            raise IndexError(f"endpoint {i} is not in 0 to {self.size - 1}")
        if self.segment.base is NULL:
            raise ValueError("the shared segment is closed")
        return 0

    cpdef int weight(self, int i):
        """The endpoint's weight as the master last set it, whether or not it takes requests."""
        self.check(i)
        return set_weight_of(self.records[i])

    def record_latency(self, i: int, latency_ns: float, now: int) -> None:
        """`set_latency` for callers in Python; IndexError when `i` is out of range."""
        self.check(i)
        self.set_latency(i, latency_ns, now)

    # A claim ends by itself, so that a worker's death in its possession does no harm. Of several workers that claim the
    # same endpoint the last is told of its next slot, and the others find it taken or free a moment later.

    cdef void claim(self, int i, uint64_t until) noexcept nogil:
        tg_store64_relaxed(&self.records[i].claim, (until & ~<uint64_t> WORKER_MASK) | <uint64_t> self.worker)

    cdef void unclaim(self, int i) noexcept nogil:
        if tg_load64_relaxed(&self.records[i].claim):
            tg_store64_relaxed(&self.records[i].claim, 0)

    cdef int claimant(self, int i, uint64_t now) noexcept nogil:
        cdef uint64_t claim = tg_load64_relaxed(&self.records[i].claim)
        return <int> (claim & WORKER_MASK) if claim > now else -1

    cdef void set_progress(self, int i, uint64_t now) noexcept nogil:
        tg_store64_relaxed(&self.records[i].progress_ns, now)

    cdef void set_latency(self, int i, double latency_ns, uint64_t now) noexcept nogil:
        tg_store_double_relaxed(&self.records[i].latency_ewma_ns, latency_ns)
        tg_store64_relaxed(&self.records[i].latency_updated_ns, now)

    cdef void set_latency_samples(self, int i, int samples) noexcept nogil:
        tg_store32_relaxed(&self.records[i].latency_samples, <uint32_t> samples)

    cdef void set_load_word(self, int i, int at, uint64_t word) noexcept nogil:
        tg_store64_relaxed(&self.records[i].load_words[at], word)

    # A report is three words, see `write_report`.

    cdef double reported_utilization(self, int i) noexcept nogil:
        return tg_load_double_relaxed(&self.records[i].report_utilization)

    cdef double reported_qps(self, int i) noexcept nogil:
        return tg_load_double_relaxed(&self.records[i].report_qps)

    cdef double reported_eps(self, int i) noexcept nogil:
        return tg_load_double_relaxed(&self.records[i].report_eps)

    cdef uint64_t reported_at(self, int i) noexcept nogil:
        return tg_load64_relaxed(&self.records[i].report_updated_ns)

    cdef uint64_t reporting_since(self, int i) noexcept nogil:
        cdef uint64_t up = tg_load64_relaxed(&self.records[i].health_changed_ns)
        cdef uint64_t since = tg_load64_relaxed(&self.records[i].report_since_ns)
        return max(up, since)

    cdef void set_report(self, int i, double utilization, double qps, double eps, uint64_t now) noexcept nogil:
        write_report(self.records[i], utilization, qps, eps, now)

    cdef void forget_report(self, int i) noexcept nogil:
        """It is too old to count: the next one is the first again."""
        tg_store64_relaxed(&self.records[i].report_since_ns, 0)
