"""One process's mapping of the shared segment, one memfd that the master creates and every worker maps: see
segment_map.pxd."""

import fcntl
import os

from libc.errno cimport errno
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strerror
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, mprotect, munmap

from lb.shared.atomics cimport tg_load_i32_relaxed
from lb.shared.segment_layout cimport TG_PAGE, check_layout, lay_out, tg_endpoint, tg_header
from lb.shared.segment_words cimport SERIES_SIZE

from lb.errors import StartError, TidegateError

# A mapping of a file that shrinks kills its reader with SIGBUS, so the size is sealed.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


cdef class SegmentMap:
    """Owns the mapping and the descriptor `fd` until `close`. `worker` is this process's column and stripe, or -1 for
    the master, which has neither. Raises TidegateError once closed."""

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
        source_sets: int = 32768
    ) -> Self:
        """Create the zeroed segment; capacities in records, `cache_size` in bytes (rounded up to pages), `bucket_sets`
        the number of sets of eight rate limit buckets, `sequence_sets` that of sets of eight pins for sequences,
        `session_sets` that for sessions, `cost_sets` that of sets of eight models whose cost is learned, `source_sets`
        that of sets of seven networks whose connections are limited, all powers of two.

        Pages are allocated when they are touched. The descriptor is inheritable and sealed against resizing. Raises
        ValueError for a number out of range, StartError when the system refuses.
        """
        cdef tg_header header
        cdef SegmentMap self = cls.__new__(cls)
        memset(&header, 0, sizeof(header))
        lay_out(&header, workers, endpoint_capacity, series_capacity, cache_size, {
            "bucket_sets": bucket_sets,
            "sequence_sets": sequence_sets,
            "session_sets": session_sets,
            "cost_sets": cost_sets,
            "source_sets": source_sets,
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
        memcpy(self.header, &header, sizeof(header))
        self.fd = fd
        return self

    @classmethod
    def attach(cls, fd: int, worker: int = -1) -> Self:
        """Map the segment behind `fd` as worker number `worker` (-1: as the master or an observer) and own `fd`.

        Raises TidegateError when `fd` is not a segment of this layout or `worker` is not one of its workers; `fd` then
        stays the caller's.
        """
        cdef SegmentMap self = cls.__new__(cls)
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
        """Number of series in a stripe."""
        self.check_open()
        return self.header.series_capacity

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
    def cache_secret(self) -> bytes:
        """The 32 random bytes that key the digest of cached requests."""
        self.check_open()
        return (<char *> self.header.cache_secret)[:32]

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
