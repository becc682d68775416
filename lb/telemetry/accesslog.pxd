"""The access log: records go into a ring in memory; a thread writes them as JSON lines, without the GIL."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t


cdef struct tg_access:
    # One exchange or session. Texts are copied and cut at their room; lengths say how much is used.
    int64_t wall_ns                   # CLOCK_REALTIME at the start
    uint64_t total_ns
    uint64_t wait_ns                  # until an endpoint was chosen (body, cache, queue)
    uint64_t upstream_ns              # from there to the answer's first byte
    uint64_t transfer_ns              # from there to its last
    uint64_t bytes_in
    uint64_t bytes_out
    uint16_t status
    uint16_t tries
    uint16_t port
    uint16_t cache                    # index into CACHE_NAMES
    uint16_t lengths[9]
    char client[46]
    char method[18]
    char host[128]
    char target[256]
    char listener[48]
    char route[48]
    char pool[48]
    char endpoint[112]
    char reason[32]


cdef enum:
    A_CLIENT = 0
    A_METHOD
    A_HOST
    A_TARGET
    A_LISTENER
    A_ROUTE
    A_POOL
    A_ENDPOINT
    A_REASON


cdef class AccessLog:
    cdef readonly bint enabled
    cdef int fd
    cdef tg_access *ring
    cdef uint64_t head                # written by the data path
    cdef uint64_t tail                # written by the thread
    cdef bint stopping
    cdef readonly uint64_t dropped    # records for which the ring had no room
    cdef readonly uint64_t write_errors
    cdef object thread

    # Room for a record, zeroed; NULL when the log is off or the ring is full (counted).
    cdef tg_access *begin(self) noexcept
    # The record is complete.
    cdef void commit(self) noexcept
    cdef size_t drain(self) noexcept nogil


cdef void set_text(tg_access *record, int which, const char *text, size_t n) noexcept nogil
cdef void set_object(tg_access *record, int which, str text) noexcept
cdef int64_t wall_ns() noexcept nogil
