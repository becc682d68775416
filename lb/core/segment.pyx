"""The shared segment: one memfd, created by the master and mapped by every worker (segment.h, design.md section 4)."""

import fcntl
import os

from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strerror
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, mprotect, munmap

from lb.core.atomics cimport (
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
    tg_store_double_relaxed,
    tg_store_i32_relaxed,
)

from lb.errors import StartError, TidegateError

cdef extern from "segment.h" nogil:
    enum: TG_PAGE
    const uint64_t TG_MAGIC
    const uint32_t TG_LAYOUT_VERSION

# Far above any real set of endpoints or series; keeps every size below well inside 64 bits.
cdef enum:
    MAX_CAPACITY = 1 << 20
cdef uint64_t MAX_CACHE_SIZE = <uint64_t> 1 << 46

# A mapping of a file that shrinks kills its reader with SIGBUS, so the size is sealed.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


cdef inline uint64_t pages(uint64_t size) noexcept nogil:
    return (size + TG_PAGE - 1) // TG_PAGE * TG_PAGE


cdef void lay_out(
    tg_header *header, uint32_t workers, uint32_t endpoints, uint32_t series, uint64_t cache_size,
    uint32_t bucket_sets, uint32_t pin_sets, uint32_t session_sets, uint32_t cost_sets, uint32_t source_sets
) noexcept nogil:
    """Fill in everything that follows from the seven numbers. Columns and stripes start on pages of their own."""
    header.magic = TG_MAGIC
    header.version = TG_LAYOUT_VERSION
    header.workers = workers
    header.endpoint_capacity = endpoints
    header.series_capacity = series
    header.endpoints_offset = pages(sizeof(tg_header))
    header.inflight_offset = header.endpoints_offset + pages(endpoints * sizeof(tg_endpoint))
    header.inflight_stride = pages(endpoints * sizeof(int32_t))
    header.outstanding_offset = header.inflight_offset + (workers + 1) * header.inflight_stride
    header.series_offset = header.outstanding_offset + (workers + 1) * header.inflight_stride
    header.series_stride = pages(<uint64_t> series * TG_S_WORDS * sizeof(uint64_t))
    header.bucket_sets = bucket_sets
    header.buckets_offset = header.series_offset + workers * header.series_stride
    header.pin_sets = pin_sets
    header.pins_offset = header.buckets_offset + pages(sizeof(tg_bucket_head) + bucket_sets * sizeof(tg_bucket_set))
    header.session_sets = session_sets
    header.sessions_offset = header.pins_offset + pages(sizeof(tg_pin_head) + pin_sets * sizeof(tg_pin_set))
    header.cost_sets = cost_sets
    header.costs_offset = header.sessions_offset + pages(sizeof(tg_pin_head) + session_sets * sizeof(tg_pin_set))
    header.source_sets = source_sets
    header.sources_offset = header.costs_offset + pages(sizeof(tg_cost_head) + cost_sets * sizeof(tg_cost_set))
    header.source_counts_offset = header.sources_offset + pages(
        sizeof(tg_source_head) + source_sets * sizeof(tg_source_set))
    header.source_counts_stride = pages(<uint64_t> source_sets * TG_SOURCE_STRIDE * sizeof(uint32_t))
    header.cache_offset = header.source_counts_offset + workers * header.source_counts_stride
    header.cache_size = pages(cache_size)
    header.size = header.cache_offset + header.cache_size


cdef int32_t take_over(int32_t *dead, int32_t *orphans) noexcept nogil:
    # Look first: a write would allocate the untouched pages of the column.
    cdef int32_t had = tg_load_i32_relaxed(dead)
    if had:
        # There before it is gone here: whoever counts meanwhile may see too many, never too few.
        tg_store_i32_relaxed(orphans, tg_load_i32_relaxed(orphans) + had)
        tg_fence_release()
        tg_store_i32_relaxed(dead, 0)
    return had


cdef class Segment:
    """One process's mapping of the shared segment; owns the mapping and the descriptor `fd` until `close`.

    `worker` is this process's column and stripe, or -1 for the master, which has neither. Slots (endpoint records) and
    series are numbers handed out by the master. Raises IndexError for a number out of range, TidegateError once closed.
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

    @staticmethod
    def create(workers, endpoint_capacity=4096, series_capacity=4096, cache_size=0, bucket_sets=16384,
               pin_sets=16384, session_sets=16384, cost_sets=256, source_sets=32768):
        """Create the zeroed segment; capacities in records, `cache_size` in bytes (rounded up to pages), `bucket_sets`
        the number of sets of eight rate limit buckets, `pin_sets` that of sets of eight pins for sequences,
        `session_sets` that for sessions, `cost_sets` that of sets of eight models whose cost is learned, `source_sets`
        that of sets of seven networks whose connections are limited, all powers of two.

        Pages are allocated when they are touched. The descriptor is inheritable and sealed against resizing. Raises
        ValueError for a number out of range, StartError when the system refuses.
        """
        if not 1 <= workers <= TG_MAX_WORKERS:
            raise ValueError(f"workers must be 1 to {TG_MAX_WORKERS}, not {workers}")
        if not 1 <= endpoint_capacity <= MAX_CAPACITY or not 1 <= series_capacity <= MAX_CAPACITY:
            raise ValueError(f"capacities must be 1 to {MAX_CAPACITY}")
        if not 0 <= cache_size <= MAX_CACHE_SIZE:
            raise ValueError(f"cache_size must be 0 to {MAX_CACHE_SIZE}")
        if not 1 <= bucket_sets <= MAX_CAPACITY or bucket_sets & (bucket_sets - 1):
            raise ValueError(f"bucket_sets must be a power of two, at most {MAX_CAPACITY}")
        if not 1 <= pin_sets <= MAX_CAPACITY or pin_sets & (pin_sets - 1):
            raise ValueError(f"pin_sets must be a power of two, at most {MAX_CAPACITY}")
        if not 1 <= session_sets <= MAX_CAPACITY or session_sets & (session_sets - 1):
            raise ValueError(f"session_sets must be a power of two, at most {MAX_CAPACITY}")
        if not 1 <= cost_sets <= MAX_CAPACITY or cost_sets & (cost_sets - 1):
            raise ValueError(f"cost_sets must be a power of two, at most {MAX_CAPACITY}")
        if not 1 <= source_sets <= MAX_CAPACITY or source_sets & (source_sets - 1):
            raise ValueError(f"source_sets must be a power of two, at most {MAX_CAPACITY}")
        cdef tg_header header
        memset(&header, 0, sizeof(header))
        lay_out(&header, workers, endpoint_capacity, series_capacity, cache_size, bucket_sets, pin_sets, session_sets,
                cost_sets, source_sets)
        cdef bytes secret = os.urandom(32)
        memcpy(header.cache_secret, <const char *> secret, 32)
        secret = os.urandom(16)
        memcpy(header.bucket_secret, <const char *> secret, 16)
        secret = os.urandom(16)
        memcpy(header.pin_secret, <const char *> secret, 16)
        secret = os.urandom(16)
        memcpy(header.cost_secret, <const char *> secret, 16)
        secret = os.urandom(16)
        memcpy(header.source_secret, <const char *> secret, 16)

        cdef Segment self = Segment.__new__(Segment)
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
        memcpy(self.header, &header, sizeof(header))
        self.fd = fd
        return self

    @staticmethod
    def attach(fd, worker=-1):
        """Map the segment behind `fd` as worker number `worker` (-1: as the master or an observer) and own `fd`.

        Raises TidegateError when `fd` is not a segment of this layout or `worker` is not one of its workers; `fd` then
        stays the caller's.
        """
        cdef Segment self = Segment.__new__(Segment)
        cdef tg_header expected
        cdef tg_header *header
        try:
            size = os.fstat(fd).st_size
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:
            raise TidegateError(f"descriptor {fd} is not a shared segment: {error.strerror}") from error
        if size < <uint64_t> sizeof(tg_header) or (seals & SEALS) != SEALS:
            raise TidegateError(f"descriptor {fd} is not a shared segment: too small, or its size is not sealed")
        self.map(fd, size)
        try:
            header = self.header
            if header.magic != TG_MAGIC:
                raise TidegateError(f"descriptor {fd} is not a shared segment: wrong magic")
            if header.version != TG_LAYOUT_VERSION:
                raise TidegateError(f"shared segment has layout {header.version}, this program has {TG_LAYOUT_VERSION}")
            if (
                not 1 <= header.workers <= TG_MAX_WORKERS
                or not 1 <= header.endpoint_capacity <= MAX_CAPACITY
                or not 1 <= header.series_capacity <= MAX_CAPACITY
                or header.cache_size > MAX_CACHE_SIZE
                or not 1 <= header.bucket_sets <= MAX_CAPACITY
                or header.bucket_sets & (header.bucket_sets - 1)
                or not 1 <= header.pin_sets <= MAX_CAPACITY
                or header.pin_sets & (header.pin_sets - 1)
                or not 1 <= header.session_sets <= MAX_CAPACITY
                or header.session_sets & (header.session_sets - 1)
                or not 1 <= header.cost_sets <= MAX_CAPACITY
                or header.cost_sets & (header.cost_sets - 1)
                or not 1 <= header.source_sets <= MAX_CAPACITY
                or header.source_sets & (header.source_sets - 1)
            ):
                raise TidegateError("shared segment has an impossible header")
            memcpy(&expected, header, sizeof(expected))
            lay_out(
                &expected, header.workers, header.endpoint_capacity, header.series_capacity, header.cache_size,
                header.bucket_sets, header.pin_sets, header.session_sets, header.cost_sets, header.source_sets,
            )
            # Field by field: the padding of a struct is not ours to compare.
            if (
                expected.endpoints_offset != header.endpoints_offset
                or expected.inflight_offset != header.inflight_offset
                or expected.inflight_stride != header.inflight_stride
                or expected.outstanding_offset != header.outstanding_offset
                or expected.series_offset != header.series_offset
                or expected.series_stride != header.series_stride
                or expected.buckets_offset != header.buckets_offset
                or expected.pins_offset != header.pins_offset
                or expected.sessions_offset != header.sessions_offset
                or expected.costs_offset != header.costs_offset
                or expected.sources_offset != header.sources_offset
                or expected.source_counts_offset != header.source_counts_offset
                or expected.source_counts_stride != header.source_counts_stride
                or expected.cache_offset != header.cache_offset
                or expected.cache_size != header.cache_size
                or expected.size != header.size
                or header.size != size
            ):
                raise TidegateError(f"shared segment of {size} bytes does not match its header")
            if not -1 <= worker < <int> header.workers:
                raise TidegateError(f"worker {worker} is not one of the segment's {header.workers}")
            # Only the creator writes the header; a stray write elsewhere should fault, not reach every process.
            if mprotect(self.base, TG_PAGE, PROT_READ):
                raise TidegateError(f"cannot protect the segment's header: {strerror(errno).decode()}")
        except BaseException:
            self.unmap()
            raise
        self.worker = worker
        self.fd = fd
        return self

    def close(self):
        """Unmap and close the descriptor. Nothing that uses the segment at C level may be called afterwards."""
        self.unmap()
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __repr__(self):
        if self.base is NULL:
            return "<Segment closed>"
        return f"<Segment fd={self.fd} worker={self.worker} of {self.header.workers} size={self.header.size}>"

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
        return <uint64_t *> stripe + <uint64_t> index * TG_S_WORDS

    cdef uint32_t *source_counts_of(self, uint32_t worker) noexcept nogil:
        return <uint32_t *> (self.base + self.header.source_counts_offset + worker * self.header.source_counts_stride)

    # Python level, for the master.

    cdef int check_open(self) except -1:
        if self.base is NULL:
            raise TidegateError("the shared segment is closed")
        return 0

    cdef tg_endpoint *record(self, slot) except NULL:
        self.check_open()
        if not 0 <= slot < self.header.endpoint_capacity:
            raise IndexError(f"endpoint slot {slot} is not in 0 to {self.header.endpoint_capacity - 1}")
        return self.endpoint(slot)

    cdef int check_series(self, index) except -1:
        self.check_open()
        if not 0 <= index < self.header.series_capacity:
            raise IndexError(f"series {index} is not in 0 to {self.header.series_capacity - 1}")
        return 0

    @property
    def workers(self):
        """Number of workers the segment was made for."""
        self.check_open()
        return self.header.workers

    @property
    def endpoint_capacity(self):
        """Number of endpoint slots."""
        self.check_open()
        return self.header.endpoint_capacity

    @property
    def series_capacity(self):
        """Number of series in a stripe."""
        self.check_open()
        return self.header.series_capacity

    @property
    def cache_size(self):
        """Bytes of the result cache's region; 0 = no cache."""
        self.check_open()
        return self.header.cache_size

    @property
    def bucket_sets(self):
        """Number of sets of rate limit buckets."""
        self.check_open()
        return self.header.bucket_sets

    @property
    def session_sets(self):
        """Number of sets of learned sessions."""
        self.check_open()
        return self.header.session_sets

    @property
    def cache_secret(self):
        """The 32 random bytes that key the digest of cached requests."""
        self.check_open()
        return (<char *> self.header.cache_secret)[:32]

    def set_health(self, slot, up, now):
        """Record the verdict of the health checks at `now` (monotonic ns)."""
        cdef tg_endpoint *record = self.record(slot)
        cdef uint32_t state = TG_HEALTH_UP if up else TG_HEALTH_DOWN
        if tg_load32(&record.health) != state:
            tg_store64_relaxed(&record.health_changed_ns, now)
            tg_store32(&record.health, state)

    def health(self, slot):
        """0 unknown, 1 up, 2 down (enum tg_health)."""
        return tg_load32(&self.record(slot).health)

    def health_changed(self, slot):
        """Monotonic ns of the last change of health; 0 = never."""
        return tg_load64_relaxed(&self.record(slot).health_changed_ns)

    def set_admin(self, slot, state):
        """Set what the operator wants of the endpoint: 0 enabled, 1 drain, 2 maintenance (enum tg_admin)."""
        cdef tg_endpoint *record = self.record(slot)
        if state not in (TG_ADMIN_ENABLED, TG_ADMIN_DRAIN, TG_ADMIN_MAINTENANCE):
            raise ValueError(f"{state} is not an administrative state")
        tg_store32(&record.admin, state)

    def admin(self, slot):
        """The administrative state: 0 enabled, 1 drain, 2 maintenance."""
        return tg_load32(&self.record(slot).admin)

    def set_weight(self, slot, weight):
        """Set the endpoint's weight; 0 takes no new requests."""
        cdef tg_endpoint *record = self.record(slot)
        if not 0 <= weight <= 0xffffffff:
            raise ValueError(f"weight {weight} is out of range")
        tg_store32(&record.weight, weight)

    def weight(self, slot):
        """The endpoint's weight."""
        return tg_load32(&self.record(slot).weight)

    def set_models_unready(self, slot, mask):
        """Say which models are not ready at the endpoint: a bit for each of the plan's `models` of its pool."""
        cdef tg_endpoint *record = self.record(slot)
        cdef uint64_t word = mask
        tg_store64_relaxed(&record.models_unready, word)

    def models_unready(self, slot):
        """The bits of the models that are not ready at the endpoint."""
        return tg_load64_relaxed(&self.record(slot).models_unready)

    def set_key(self, slot, key):
        """Give the slot to the endpoint `key` ("pool|address"; cut to 127 bytes): a new generation, no load history."""
        cdef tg_endpoint *record = self.record(slot)
        cdef bytes text = key.encode()[:sizeof(record.key) - 1]
        self.reset(record)
        memcpy(record.key, <const char *> text, len(text))

    def key(self, slot):
        """The endpoint that has the slot, "" when it is free."""
        cdef tg_endpoint *record = self.record(slot)
        return (<bytes> record.key[:sizeof(record.key)]).split(b"\0", 1)[0].decode(errors="replace")

    def generation(self, slot):
        """How often the slot has changed hands."""
        return tg_load32(&self.record(slot).generation)

    def clear_slot(self, slot):
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
        tg_store64_relaxed(&record.progress_ns, 0)
        tg_store64_relaxed(&record.claim, 0)
        tg_store32_relaxed(&record.held_back, 0)
        tg_store32_relaxed(&record.standing, 0)
        tg_store64_relaxed(&record.probation_ns, 0)
        tg_store32_relaxed(&record.probation_good, 0)
        tg_store32_relaxed(&record.consecutive_5xx, 0)
        tg_store32_relaxed(&record.consecutive_gateway, 0)
        tg_store32_relaxed(&record.consecutive_errors, 0)
        tg_store32_relaxed(&record.ejected_until_s, 0)
        for i in range(TG_LOAD_RANGES):
            tg_store64_relaxed(&record.load_words[i], 0)
        tg_store64_relaxed(&record.report_updated_ns, 0)
        tg_store64_relaxed(&record.report_since_ns, 0)
        tg_store64_relaxed(&record.report_utilization, 0)
        tg_store64_relaxed(&record.report_qps, 0)
        tg_store64_relaxed(&record.report_eps, 0)
        memset(record.key, 0, sizeof(record.key))

    def set_load_report(self, slot, double utilization, double qps, double eps, uint64_t now):
        """What the endpoint reports of itself beside its answers, as EndpointSet.set_report has it from these."""
        cdef tg_endpoint *record = self.record(slot)
        tg_store_double_relaxed(&record.report_utilization, utilization)
        tg_store_double_relaxed(&record.report_qps, qps)
        tg_store_double_relaxed(&record.report_eps, eps)
        if tg_load64_relaxed(&record.report_since_ns) == 0:
            tg_store64_relaxed(&record.report_since_ns, now)
        tg_store64_relaxed(&record.report_updated_ns, now)

    def load_report(self, slot):
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

    def inflight(self, slot):
        """Requests in flight at the endpoint, exactly: the sum over all workers."""
        self.record(slot)
        return self.inflight_total(slot)

    def outstanding(self, slot):
        """What the requests at the endpoint cost, over all workers, where an average request of its pool costs 1; 0 in
        a pool that does not weigh them."""
        self.record(slot)
        cdef int64_t total = 0
        cdef uint32_t column
        for column in range(self.header.workers + 1):
            total += tg_load_i32_relaxed(self.outstanding_of(column, slot))
        return total / <double> TG_COST_ONE

    def clear_worker(self, worker):
        """Take over what a dead worker had running: its in-flight and outstanding columns, and finished = started in
        its stripe; its connections count no more in the limits per source.

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
            if words[TG_S_FINISHED] != words[TG_S_STARTED]:
                tg_store64_relaxed(words + TG_S_FINISHED, words[TG_S_STARTED])
        self.clear_sources(worker)
        return lost

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

    def forget(self, lost):
        """What `clear_worker` gave is not in flight any more."""
        cdef int32_t *orphans
        for slot, had, cost in lost:
            self.record(slot)
            orphans = self.inflight_of(self.header.workers, slot)
            tg_store_i32_relaxed(orphans, tg_load_i32_relaxed(orphans) - <int32_t> had)
            orphans = self.outstanding_of(self.header.workers, slot)
            tg_store_i32_relaxed(orphans, tg_load_i32_relaxed(orphans) - <int32_t> cost)

    def series_total(self, index):
        """The TG_S_WORDS counters of a series (enum tg_series_word), summed over all workers."""
        self.check_series(index)
        cdef uint64_t total[TG_S_WORDS]
        cdef uint64_t *words
        cdef uint32_t worker
        cdef int i
        memset(total, 0, sizeof(total))
        for worker in range(self.header.workers):
            words = self.series_of(worker, index)
            for i in range(TG_S_WORDS):
                total[i] += tg_load64_relaxed(words + i)
        return [total[i] for i in range(TG_S_WORDS)]

    def clear_series(self, index):
        """Zero a series in every stripe. Only for a series that no plan in use refers to: the words have one writer."""
        self.check_series(index)
        cdef uint64_t *words
        cdef uint32_t worker
        cdef int i
        for worker in range(self.header.workers):
            words = self.series_of(worker, index)
            for i in range(TG_S_WORDS):
                if words[i]:
                    tg_store64_relaxed(words + i, 0)

    def add_series(self, index, word, amount=1):
        """Add to a counter of this worker's stripe, for callers in Python."""
        self.check_series(index)
        if self.worker < 0:
            raise TidegateError("the master has no stripe of series")
        if not 0 <= word < TG_S_WORDS or amount < 0:
            raise ValueError(f"no such counter or amount: {word}, {amount}")
        tg_add(self.series(index) + <int> word, amount)

    def add_inflight(self, slot, amount):
        """Add to (or take from) this worker's in-flight word of an endpoint, for callers in Python."""
        self.record(slot)
        if self.worker < 0:
            raise TidegateError("the master has no in-flight column")
        cdef int32_t *word = self.inflight_word(slot)
        tg_store_i32_relaxed(word, word[0] + <int32_t> amount)

    def add_outstanding(self, slot, cost):
        """Add to (or take from) this worker's outstanding word of an endpoint, for callers in Python; `cost` is 1 for
        an average request."""
        self.record(slot)
        if self.worker < 0:
            raise TidegateError("the master has no outstanding column")
        cdef int32_t *word = self.outstanding_of(self.worker, slot)
        tg_store_i32_relaxed(word, word[0] + <int32_t> (cost * <double> TG_COST_ONE))
