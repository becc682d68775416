"""The shared segment, one memfd that the master creates and every worker maps: where things are in it, and the words
that the master, and whoever else is Python, reads and writes: endpoint records, in-flight counts and series (segment.h,
design.md section 4)."""

import fcntl
import os

from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strerror
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, mprotect, munmap

from lb.shared.atomics cimport (
    tg_fence_release,
    tg_fetch_add32,
    tg_load32,
    tg_load32_relaxed,
    tg_load64_relaxed,
    tg_load_double_relaxed,
    tg_load_i32_relaxed,
    tg_store32,
    tg_store32_relaxed,
    tg_store64,
    tg_store64_relaxed,
    tg_store_i32_relaxed,
)
from lb.shared.recent_failures cimport failing_of, turns_of
from lb.shared.records cimport write_report
from lb.shared.segment_layout cimport check_layout, lay_out
from lb.shared.segment_words cimport SERIES_FINISHED, SERIES_SIZE, SERIES_STARTED

from lb.errors import StartError, TidegateError

# A mapping of a file that shrinks kills its reader with SIGBUS, so the size is sealed.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


cdef int32_t take_over(int32_t *dead, int32_t *orphans) noexcept nogil:
    # Look first: a write would allocate the untouched pages of the column.
    cdef int32_t had = tg_load_i32_relaxed(dead)
    if had:
        # There before it is gone here: whoever counts meanwhile may see too many, never too few.
        tg_store_i32_relaxed(orphans, tg_load_i32_relaxed(orphans) + had)
        tg_fence_release()
        tg_store_i32_relaxed(dead, 0)
    return had


cdef void sum_series(Segment segment, uint32_t index, uint64_t *total) noexcept:
    cdef uint64_t *words
    cdef uint32_t worker
    cdef int i
    memset(total, 0, SERIES_SIZE * sizeof(uint64_t))
    for worker in range(segment.header.workers):
        words = segment.series_of(worker, index)
        for i in range(SERIES_SIZE):
            total[i] += tg_load64_relaxed(words + i)


cdef class Segment:
    """One process's mapping of the shared segment, made by `create` or `attach`.

    Owns the mapping and the descriptor `fd` until `close`. `worker` is this process's column and stripe, or -1 for the
    master, which has neither. Slots (endpoint records) and series are numbers handed out by the master. Raises
    IndexError for a number out of range, TidegateError once closed.
    """

    def __cinit__(self):
        self.fd = -1
        self.worker = -1

    def __init__(self):
        raise TypeError("use Segment.create or Segment.attach")

    def __dealloc__(self):
        self.unmap()

    cdef void unmap(self) noexcept:
        if self.base is not NULL:
            munmap(self.base, self.mapped)
            self.base = NULL
            self.header = NULL
            self.mapped = 0

    cdef int map(self, int fd, uint64_t size) except -1:
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise StartError(f"cannot map the shared segment of {size} bytes: {strerror(errno).decode()}")
        self.base = <char *> base
        self.header = <tg_header *> base
        self.mapped = size
        return 0

    @classmethod
    def create(
        cls, workers: int, endpoint_capacity: int = 4096, series_capacity: int = 4096, cache_size: int = 0,
        bucket_sets: int = 16384, sequence_sets: int = 16384, session_sets: int = 16384, cost_sets: int = 256,
        source_sets: int = 32768, models: int = 1024, quota_sets: int = 8192, stick_sets: int = 1,
        cache_secret: bytes | None = None, stick_secret: bytes | None = None
    ) -> Self:
        """Create the zeroed segment; capacities in records, `cache_size` in bytes (rounded up to pages), `bucket_sets`
        the number of sets of eight rate limit buckets, `sequence_sets` that of sets of eight entries for sequences,
        `session_sets` that for sessions, `cost_sets` that of sets of eight models whose cost is learned, `source_sets`
        that of sets of seven networks whose connections are limited, `models` that of models that are counted apart,
        `quota_sets` that of sets of seven clients with a quota, `stick_sets` that of sets of seven entries of stick
        tables, all powers of two.

        `cache_secret` are 32 bytes under which the keys of cached answers were made, `stick_secret` 16 by which stick
        tables tell keys apart; by default random ones.

        Pages are allocated when they are touched. The descriptor is inheritable and sealed against resizing. Raises
        ValueError for a number out of range, StartError when the system refuses.
        """
        cdef tg_header header
        cdef Segment self = cls.__new__(cls)
        if cache_secret is not None and len(cache_secret) != 32:
            raise ValueError(f"cache_secret has 32 bytes, not {len(cache_secret)}")
        if stick_secret is not None and len(stick_secret) != 16:
            raise ValueError(f"stick_secret has 16 bytes, not {len(stick_secret)}")
        memset(&header, 0, sizeof(header))
        lay_out(&header, workers, endpoint_capacity, series_capacity, cache_size, {
            "bucket_sets": bucket_sets,
            "sequence_sets": sequence_sets,
            "session_sets": session_sets,
            "cost_sets": cost_sets,
            "source_sets": source_sets,
            "models": models,
            "quota_sets": quota_sets,
            "stick_sets": stick_sets,
        })
        try:
            fd = os.memfd_create("tidegate", os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise StartError(f"cannot create the shared segment: {error.strerror}") from error
        try:
            try:
                os.ftruncate(fd, header.size)
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
            except OSError as error:
                raise StartError(f"cannot size the shared segment to {header.size} bytes: {error.strerror}") from error
            self.map(fd, header.size)
        except BaseException:
            os.close(fd)
            raise
        if cache_secret is not None:
            memcpy(header.cache_secret, <const char *> cache_secret, sizeof(header.cache_secret))
        if stick_secret is not None:
            memcpy(header.stick_secret, <const char *> stick_secret, sizeof(header.stick_secret))
        memcpy(self.header, &header, sizeof(header))
        self.fd = fd
        return self

    @classmethod
    def attach(cls, fd: int, worker: int = -1) -> Self:
        """Map the segment behind `fd` as worker number `worker` (-1: as the master or an observer) and own `fd`.

        Raises TidegateError when `fd` is not a segment of this layout or `worker` is not one of its workers; `fd` then
        stays the caller's.
        """
        cdef Segment self = cls.__new__(cls)
        try:
            size = os.fstat(fd).st_size
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:
            raise TidegateError(f"descriptor {fd} is not a shared segment: {error.strerror}") from error
        if size < <uint64_t> sizeof(tg_header) or (seals & SEALS) != SEALS:
            raise TidegateError(f"descriptor {fd} is not a shared segment: too small, or its size is not sealed")
        self.map(fd, size)
        try:
            check_layout(self.header, size, fd)
            if not -1 <= worker < <int> self.header.workers:
                raise TidegateError(f"worker {worker} is not one of the segment's {self.header.workers}")
            # Only the creator writes the header; a stray write elsewhere should fault, not reach every process.
            if mprotect(self.base, TG_PAGE, PROT_READ):
                raise TidegateError(f"cannot protect the segment's header: {strerror(errno).decode()}")
        except BaseException:
            self.unmap()
            raise
        self.worker = worker
        self.fd = fd
        return self

    def close(self) -> None:
        """Unmap and close the descriptor. Nothing that uses the segment at C level may be called afterwards."""
        self.unmap()
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __repr__(self):
        if self.base is NULL:
            return "<Segment closed>"
        return f"<Segment fd={self.fd} worker={self.worker} of {self.header.workers} size={self.header.size}>"

    cdef int check_open(self) except -1:
        if self.base is NULL:
            raise TidegateError("the shared segment is closed")
        return 0

    @property
    def workers(self) -> int:
        """Number of workers the segment was made for."""
        self.check_open()
        return self.header.workers

    @property
    def endpoint_capacity(self) -> int:
        """Number of endpoint slots."""
        self.check_open()
        return self.header.endpoint_capacity

    @property
    def series_capacity(self) -> int:
        """Number of series in a stripe, those of models apart, which follow them."""
        self.check_open()
        return self.header.series_capacity

    @property
    def models(self) -> int:
        """Number of models that have a series of their own, with that of all others."""
        self.check_open()
        return self.header.models

    @property
    def cache_size(self) -> int:
        """Bytes of the result cache's region; 0 = no cache."""
        self.check_open()
        return self.header.cache_size

    @property
    def bucket_sets(self) -> int:
        """Number of sets of rate limit buckets."""
        self.check_open()
        return self.header.bucket_sets

    @property
    def session_sets(self) -> int:
        """Number of sets of learned sessions."""
        self.check_open()
        return self.header.session_sets

    @property
    def stick_sets(self) -> int:
        """Number of sets of entries of stick tables."""
        self.check_open()
        return self.header.stick_sets

    @property
    def cache_secret(self) -> bytes:
        """The 32 random bytes that key the digest of cached requests."""
        self.check_open()
        return (<char *> self.header.cache_secret)[:32]

    @property
    def stick_secret(self) -> bytes:
        """By which keys of stick tables are told apart, 16 bytes."""
        self.check_open()
        return (<char *> self.header.stick_secret)[:16]

    # C level: the caller answers for `slot` and `index`, which come from the plan.

    cdef tg_endpoint *endpoint(self, uint32_t slot) noexcept nogil:
        return <tg_endpoint *> (self.base + self.header.endpoints_offset) + slot

    cdef int32_t *inflight_word(self, uint32_t slot) noexcept nogil:
        return self.inflight_of(self.worker, slot)

    cdef int32_t inflight_total(self, uint32_t slot) noexcept nogil:
        cdef int32_t total = 0
        cdef uint32_t column
        for column in range(self.header.workers + 1):
            total += tg_load_i32_relaxed(self.inflight_of(column, slot))
        return total

    cdef uint64_t *series(self, uint32_t index) noexcept nogil:
        return self.series_of(self.worker, index)

    cdef int32_t *inflight_of(self, int worker, uint32_t slot) noexcept nogil:
        if worker < 0:
            return NULL
        return <int32_t *> (self.base + self.header.inflight_offset + worker * self.header.inflight_stride) + slot

    cdef int32_t *outstanding_of(self, int worker, uint32_t slot) noexcept nogil:
        if worker < 0:
            return NULL
        return <int32_t *> (self.base + self.header.outstanding_offset + worker * self.header.inflight_stride) + slot

    cdef uint64_t *series_of(self, int worker, uint32_t index) noexcept nogil:
        if worker < 0:
            return NULL
        cdef char *stripe = self.base + self.header.series_offset + worker * self.header.series_stride
        return <uint64_t *> stripe + <uint64_t> index * SERIES_SIZE

    cdef uint32_t *source_counts_of(self, uint32_t worker) noexcept nogil:
        return <uint32_t *> (self.base + self.header.source_counts_offset + worker * self.header.source_counts_stride)

    cdef uint32_t *stick_counts_of(self, uint32_t worker) noexcept nogil:
        return <uint32_t *> (self.base + self.header.stick_counts_offset + worker * self.header.stick_counts_stride)

    # The words.

    cdef tg_endpoint *record(self, slot) except NULL:
        self.check_open()
        if not 0 <= slot < self.header.endpoint_capacity:
            raise IndexError(f"endpoint slot {slot} is not in 0 to {self.header.endpoint_capacity - 1}")
        return self.endpoint(slot)

    cdef int check_series(self, index) except -1:
        self.check_open()
        cdef uint32_t end = self.header.series_capacity + self.header.models
        if not 0 <= index < end:
            raise IndexError(f"series {index} is not in 0 to {end - 1}")
        return 0

    def set_health(self, slot: int, up: bool, now: int) -> None:
        """Record the verdict of the health checks at `now` (monotonic ns)."""
        cdef tg_endpoint *record = self.record(slot)
        cdef uint32_t state = TG_HEALTH_UP if up else TG_HEALTH_DOWN
        if tg_load32(&record.health) != state:
            tg_store64_relaxed(&record.health_changed_ns, now)
            tg_store64_relaxed(&record.recent_failures, 0)         # of what it was before
            tg_store32(&record.health, state)

    def health(self, slot: int) -> int:
        """0 unknown, 1 up, 2 down (enum tg_health)."""
        return tg_load32(&self.record(slot).health)

    def set_admin(self, slot: int, state: int) -> None:
        """Set what the operator wants of the endpoint: 0 enabled, 1 drain, 2 maintenance (enum tg_admin)."""
        cdef tg_endpoint *record = self.record(slot)
        if state not in (TG_ADMIN_ENABLED, TG_ADMIN_DRAIN, TG_ADMIN_MAINTENANCE):
            raise ValueError(f"{state} is not an administrative state")
        tg_store32(&record.admin, state)

    def admin(self, slot: int) -> int:
        """The administrative state: 0 enabled, 1 drain, 2 maintenance."""
        return tg_load32(&self.record(slot).admin)

    def set_weight(self, slot: int, weight: int) -> None:
        """Set the endpoint's weight; 0 takes no new requests."""
        cdef tg_endpoint *record = self.record(slot)
        if not 0 <= weight <= 0xffffffff:
            raise ValueError(f"weight {weight} is out of range")
        tg_store32(&record.weight, weight)

    def weight(self, slot: int) -> int:
        """The endpoint's weight."""
        return tg_load32(&self.record(slot).weight)

    def set_models_unready(self, slot: int, mask: int) -> None:
        """Say which models are not ready at the endpoint: a bit for each of the plan's `models` of its pool."""
        cdef tg_endpoint *record = self.record(slot)
        cdef uint64_t word = mask
        tg_store64_relaxed(&record.models_unready, word)

    def models_unready(self, slot: int) -> int:
        """The bits of the models that are not ready at the endpoint."""
        return tg_load64_relaxed(&self.record(slot).models_unready)

    def set_key(self, slot: int, key: str) -> None:
        """Give the slot to the endpoint `key` ("pool|address"; cut to 127 bytes): a new generation, no load history."""
        cdef tg_endpoint *record = self.record(slot)
        cdef bytes text = key.encode()[:sizeof(record.key) - 1]
        self.reset(record)
        memcpy(record.key, <const char *> text, len(text))

    def key(self, slot: int) -> str:
        """The endpoint that has the slot, "" when it is free."""
        cdef tg_endpoint *record = self.record(slot)
        return (<bytes> record.key[:sizeof(record.key)]).split(b"\0", 1)[0].decode(errors="replace")

    def generation(self, slot: int) -> int:
        """How often the slot has changed hands."""
        return tg_load32(&self.record(slot).generation)

    def clear_slot(self, slot: int) -> None:
        """Free the slot: health unknown, weight 0, no load history.

        In-flight words are the workers' and stay: requests that still run bring them back to zero.
        """
        self.reset(self.record(slot))

    cdef void reset(self, tg_endpoint *record) noexcept:
        cdef int i
        # Weight first: whoever looks meanwhile sees an endpoint that takes no requests.
        tg_store32(&record.weight, 0)
        tg_store32(&record.health, TG_HEALTH_UNKNOWN)
        tg_store32(&record.admin, TG_ADMIN_ENABLED)
        tg_fetch_add32(&record.generation, 1)
        tg_store64_relaxed(&record.health_changed_ns, 0)
        tg_store64_relaxed(&record.models_unready, 0)
        tg_store64_relaxed(&record.latency_ewma_ns, 0)
        tg_store64_relaxed(&record.latency_updated_ns, 0)
        tg_store32_relaxed(&record.latency_samples, 0)
        tg_store64_relaxed(&record.progress_ns, 0)
        tg_store64_relaxed(&record.claim, 0)
        tg_store64_relaxed(&record.recent_failures, 0)
        tg_store32_relaxed(&record.held_back, 0)
        tg_store32_relaxed(&record.ejection_state, 0)
        tg_store64_relaxed(&record.probation_ns, 0)
        tg_store32_relaxed(&record.probation_good, 0)
        tg_store32_relaxed(&record.consecutive_5xx, 0)
        tg_store32_relaxed(&record.consecutive_gateway, 0)
        tg_store32_relaxed(&record.consecutive_errors, 0)
        tg_store32_relaxed(&record.ejected_until_s, 0)
        for i in range(TG_LOAD_RANGES):
            tg_store64_relaxed(&record.load_words[i], 0)
        for i in range(TG_CURVE_RANGES):
            tg_store64_relaxed(&record.curve_words[i], 0)
        tg_store64_relaxed(&record.curve_gaps, 0)
        tg_store64_relaxed(&record.curve_spread, 0)
        tg_store64_relaxed(&record.curve_limit, 0)
        tg_store64_relaxed(&record.curve_warm_ns, 0)
        tg_store64_relaxed(&record.report_updated_ns, 0)
        tg_store64_relaxed(&record.report_since_ns, 0)
        tg_store64_relaxed(&record.report_utilization, 0)
        tg_store64_relaxed(&record.report_qps, 0)
        tg_store64_relaxed(&record.report_eps, 0)
        memset(record.key, 0, sizeof(record.key))

    def failing(self, slot: int, uint64_t now) -> float:
        """The share of the endpoint's recent attempts that failed, 0 to 1, at `now` (monotonic ns)."""
        return failing_of(self.record(slot), now)

    def turns(self, slot: int, uint64_t now) -> float:
        """The part of its turns that the endpoint takes at `now`, 0 to 1."""
        return turns_of(failing_of(self.record(slot), now))

    def learned_limit(self, slot: int) -> int:
        """The most requests in flight at the endpoint that the policy `auto` has found to be of use; 0: not known."""
        return tg_load64_relaxed(&self.record(slot).curve_limit) & TG_CURVE_LIMIT

    def set_load_report(self, slot: int, double utilization, double qps, double eps, uint64_t now) -> None:
        """What the endpoint reports of itself beside its answers, as EndpointSet.set_report has it from these."""
        write_report(self.record(slot), utilization, qps, eps, now)

    def load_report(self, slot: int) -> tuple[float, float, float, int]:
        """What the endpoint last reported of itself: (utilization, requests/s, errors/s, monotonic ns of the report).

        The time is 0 when it never did.
        """
        cdef tg_endpoint *record = self.record(slot)
        return (
            tg_load_double_relaxed(&record.report_utilization),
            tg_load_double_relaxed(&record.report_qps),
            tg_load_double_relaxed(&record.report_eps),
            tg_load64_relaxed(&record.report_updated_ns),
        )

    def inflight(self, slot: int) -> int:
        """Requests in flight at the endpoint, exactly: the sum over all workers."""
        self.record(slot)
        return self.inflight_total(slot)

    def outstanding(self, slot: int) -> float:
        """What the requests at the endpoint cost, over all workers, where an average request of its pool costs 1; 0 in
        a pool that does not weigh them."""
        self.record(slot)
        cdef int64_t total = 0
        cdef uint32_t column
        for column in range(self.header.workers + 1):
            total += tg_load_i32_relaxed(self.outstanding_of(column, slot))
        return total / <double> TG_COST_ONE

    def clear_worker(self, worker: int) -> list[tuple[int, int, int]]:
        """Take over what a dead worker had running: its in-flight and outstanding columns, and finished = started in
        its stripe; its connections count no more in the limits per source, nor its requests in stick tables; its locks
        are free.

        The endpoints may go on with that work for a moment, so that it still counts as in flight. Gives (slot, number,
        cost) of each endpoint, for `forget` once they must have noticed. Only for a worker whose process is gone: the
        words have one writer.
        """
        self.check_open()
        if not 0 <= worker < self.header.workers:
            raise IndexError(f"worker {worker} is not in 0 to {self.header.workers - 1}")
        cdef uint32_t i
        cdef int32_t had, cost
        cdef uint64_t *words
        lost = []
        for i in range(self.header.endpoint_capacity):
            had = take_over(self.inflight_of(worker, i), self.inflight_of(self.header.workers, i))
            cost = take_over(self.outstanding_of(worker, i), self.outstanding_of(self.header.workers, i))
            if had or cost:
                lost.append((i, had, cost))
        for i in range(self.header.series_capacity):
            words = self.series_of(worker, i)
            if words[SERIES_FINISHED] != words[SERIES_STARTED]:
                tg_store64_relaxed(words + SERIES_FINISHED, words[SERIES_STARTED])
        self.clear_sources(worker)
        self.unlock_quotas(worker)
        self.clear_sticks(worker)
        return lost

    def source_table_full(self) -> int:
        """Connections and sessions that the limits per source counted by their worker alone."""
        self.check_open()
        return tg_load64_relaxed(&(<tg_source_head *> (self.base + self.header.sources_offset)).table_full)

    cdef void clear_sources(self, uint32_t worker) noexcept:
        cdef tg_source_head *head = <tg_source_head *> (self.base + self.header.sources_offset)
        cdef tg_source_set *sets = <tg_source_set *> (head + 1)
        cdef uint32_t *counts = self.source_counts_of(worker)
        cdef uint64_t i
        if not tg_load64_relaxed(&head.used):
            return
        for i in range(<uint64_t> self.header.source_sets * TG_SOURCE_STRIDE):
            if tg_load32_relaxed(&counts[i]):
                tg_store32_relaxed(&counts[i], 0)
        # Its lock last: whatever it left half done under it has no count now, and so is free.
        for i in range(self.header.source_sets):
            if tg_load64_relaxed(&sets[i].owner) == worker + 1:
                tg_store64(&sets[i].owner, 0)

    cdef void unlock_quotas(self, uint32_t worker) noexcept:
        """A place that it left half made under a lock has no key, and so is free."""
        cdef tg_quota_head *head = <tg_quota_head *> (self.base + self.header.quotas_offset)
        cdef tg_quota_set *sets = <tg_quota_set *> (head + 1)
        cdef uint64_t i
        if not tg_load64_relaxed(&head.used):
            return
        for i in range(self.header.quota_sets):
            if tg_load64_relaxed(&sets[i].owner) == worker + 2:
                tg_store64(&sets[i].owner, 0)

    cdef void clear_sticks(self, uint32_t worker) noexcept:
        """An entry that it left half made under a lock has no key, and so is free."""
        cdef tg_stick_head *head = <tg_stick_head *> (self.base + self.header.sticks_offset)
        cdef tg_stick_set *sets = <tg_stick_set *> (head + 1)
        cdef uint32_t *counts = self.stick_counts_of(worker)
        cdef uint64_t i
        if not tg_load64_relaxed(&head.used):
            return
        for i in range(<uint64_t> self.header.stick_sets * TG_STICK_WAYS):
            if tg_load32_relaxed(&counts[i]):
                tg_store32_relaxed(&counts[i], 0)
        for i in range(self.header.stick_sets):
            if tg_load64_relaxed(&sets[i].owner) == worker + 2:
                tg_store64(&sets[i].owner, 0)

    def forget(self, lost: list[tuple[int, int, int]]) -> None:
        """What `clear_worker` gave is not in flight any more."""
        cdef int32_t *orphans
        for slot, had, cost in lost:
            self.record(slot)
            orphans = self.inflight_of(self.header.workers, slot)
            tg_store_i32_relaxed(orphans, tg_load_i32_relaxed(orphans) - <int32_t> had)
            orphans = self.outstanding_of(self.header.workers, slot)
            tg_store_i32_relaxed(orphans, tg_load_i32_relaxed(orphans) - <int32_t> cost)

    def series_total(self, index: int) -> list[int]:
        """The SERIES_SIZE words of a series (lb.shared.words), summed over all workers."""
        cdef uint64_t total[SERIES_SIZE]
        cdef int i
        self.check_series(index)
        sum_series(self, index, total)
        return [total[i] for i in range(SERIES_SIZE)]

    def series_bytes(self, index: int) -> bytes:
        """The same as the machine has 64-bit words, without an object for each."""
        cdef uint64_t total[SERIES_SIZE]
        self.check_series(index)
        sum_series(self, index, total)
        return (<char *> total)[:sizeof(total)]

    def series_sum(self, index: int, first: int, count: int) -> int:
        """The sum of `count` words of a series from `first` on (lb.shared.words), over all workers. Raises IndexError
        for words that no series has."""
        self.check_series(index)
        cdef int at, end = first + count
        cdef uint32_t worker
        cdef uint64_t total = 0
        cdef uint64_t *words
        if not 0 <= first <= end <= SERIES_SIZE:
            raise IndexError(f"words {first} to {end - 1} are not in 0 to {SERIES_SIZE - 1}")
        for worker in range(self.header.workers):
            words = self.series_of(worker, index)
            for at in range(first, end):
                total += tg_load64_relaxed(words + at)
        return total

    def clear_series(self, index: int) -> None:
        """Zero a series in every stripe. Only for a series that no plan in use refers to: the words have one writer."""
        self.check_series(index)
        cdef uint64_t *words
        cdef uint32_t worker
        cdef int i
        for worker in range(self.header.workers):
            words = self.series_of(worker, index)
            for i in range(SERIES_SIZE):
                if words[i]:
                    tg_store64_relaxed(words + i, 0)

    def add_series(self, index: int, word: int, amount: int = 1) -> None:
        """Add to a counter of this worker's stripe, for callers in Python."""
        self.check_series(index)
        if self.worker < 0:
            raise TidegateError("the master has no stripe of series")
        if not 0 <= word < SERIES_SIZE or amount < 0:
            raise ValueError(f"no such counter or amount: {word}, {amount}")
        tg_add(self.series(index) + <int> word, amount)
