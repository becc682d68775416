"""The access log: see accesslog.pxd. One producer (the worker's loop), one consumer (the log's thread)."""

import logging
import threading
import time

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport write
from lb.core.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)

cdef extern from *:
    """
    #include <time.h>
    static inline uint64_t tg_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void tg_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline size_t tg_format_time(char *into, size_t room, int64_t seconds) {
        time_t t = (time_t)seconds; struct tm parts;
        return gmtime_r(&t, &parts) ? strftime(into, room, "%Y-%m-%dT%H:%M:%S", &parts) : 0;
    }
    """
    uint64_t tg_load_acquire(const uint64_t *p) nogil
    void tg_store_release(uint64_t *p, uint64_t v) nogil
    size_t tg_format_time(char *into, size_t room, int64_t seconds) nogil

log = logging.getLogger("tidegate.telemetry")

cdef enum:
    RECORDS = 4096                    # about 3 MiB, taken only while the log is on
    FLUSH_BYTES = 256 * 1024

POLL_SECONDS = 0.05

cdef const char *CACHE_NAMES[5]
CACHE_NAMES[0] = ""
CACHE_NAMES[1] = "hit"
CACHE_NAMES[2] = "miss"
CACHE_NAMES[3] = "collapsed"
CACHE_NAMES[4] = "bypass"

cdef const char *KEYS[9]
KEYS[A_CLIENT] = "client"
KEYS[A_METHOD] = "method"
KEYS[A_HOST] = "host"
KEYS[A_TARGET] = "target"
KEYS[A_LISTENER] = "listener"
KEYS[A_ROUTE] = "route"
KEYS[A_POOL] = "pool"
KEYS[A_ENDPOINT] = "endpoint"
KEYS[A_REASON] = "reason"


cdef int64_t wall_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_REALTIME, &ts)
    return <int64_t>ts.tv_sec * 1_000_000_000 + ts.tv_nsec


cdef inline char *room_of(tg_access *record, int which, size_t *room) noexcept nogil:
    if which == A_CLIENT:
        room[0] = sizeof(record.client)
        return record.client
    if which == A_METHOD:
        room[0] = sizeof(record.method)
        return record.method
    if which == A_HOST:
        room[0] = sizeof(record.host)
        return record.host
    if which == A_TARGET:
        room[0] = sizeof(record.target)
        return record.target
    if which == A_LISTENER:
        room[0] = sizeof(record.listener)
        return record.listener
    if which == A_ROUTE:
        room[0] = sizeof(record.route)
        return record.route
    if which == A_POOL:
        room[0] = sizeof(record.pool)
        return record.pool
    if which == A_ENDPOINT:
        room[0] = sizeof(record.endpoint)
        return record.endpoint
    room[0] = sizeof(record.reason)
    return record.reason


cdef void set_text(tg_access *record, int which, const char *text, size_t n) noexcept nogil:
    cdef size_t room
    cdef char *into = room_of(record, which, &room)
    if n > room:
        n = room
    if n:
        memcpy(into, text, n)
    record.lengths[which] = <unsigned short>n


cdef void set_object(tg_access *record, int which, str text) noexcept:
    cdef bytes data = text.encode()
    set_text(record, which, <const char *>data, <size_t>len(data))


cdef class AccessLog:
    """Writes to `fd`, which stays the caller's (it may be replaced underneath, as log rotation does). Off until
    `enable`."""

    def __init__(self, int fd):
        self.fd = fd

    def __dealloc__(self):
        free(self.ring)

    def enable(self, bint on):
        """Switch the log on or off; MemoryError when there is no room for the ring."""
        if on == self.enabled:
            return
        if on:
            if self.ring == NULL:
                self.ring = <tg_access *>calloc(RECORDS, sizeof(tg_access))
                if self.ring == NULL:
                    raise MemoryError
            self.stopping = False
            self.thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self.thread.start()
            self.enabled = True
        else:
            self.close()

    def close(self):
        """Write what is left and stop."""
        if not self.enabled:
            return
        self.enabled = False
        self.stopping = True
        self.thread.join()
        self.thread = None

    def _run(self):
        cdef size_t written
        while True:
            stopping = self.stopping
            with nogil:
                written = self.drain()
            if written == 0:
                if stopping:
                    return
                time.sleep(POLL_SECONDS)

    cdef tg_access *begin(self) noexcept:
        cdef tg_access *record
        if not self.enabled:
            return NULL
        if self.head - tg_load_acquire(&self.tail) >= RECORDS:
            self.dropped += 1
            return NULL
        record = &self.ring[self.head % RECORDS]
        memset(record, 0, sizeof(tg_access))
        return record

    cdef void commit(self) noexcept:
        tg_store_release(&self.head, self.head + 1)

    cdef size_t drain(self) noexcept nogil:
        """Write the records that are there: how many."""
        cdef uint64_t head = tg_load_acquire(&self.head)
        cdef uint64_t at = self.tail
        cdef size_t count = <size_t>(head - at)
        cdef tg_buffer text
        cdef ssize_t n
        memset(&text, 0, sizeof(text))
        while at != head:
            while at != head and tg_buffer_size(&text) < FLUSH_BYTES:
                if format_record(&self.ring[at % RECORDS], &text) < 0:
                    break                 # out of memory: the rest of the line is lost, the log goes on
                at += 1
            if tg_buffer_size(&text) == 0:
                at += 1
            while tg_buffer_size(&text):
                n = write(self.fd, tg_buffer_head(&text), tg_buffer_size(&text))
                if n < 0:
                    if errno == EINTR:
                        continue
                    self.write_errors += 1    # a full disk, a closed pipe: nothing to be gained by waiting
                    tg_buffer_clear(&text)
                    break
                tg_buffer_consume(&text, <size_t>n)
            tg_store_release(&self.tail, at)
        tg_buffer_free(&text)
        return count


cdef int append_escaped(tg_buffer *out, const char *text, size_t n) noexcept nogil:
    """A JSON string's inside (RFC 8259 section 7); bytes outside of ASCII become \\u00XX, so that any input gives
    valid JSON."""
    cdef size_t i, start = 0
    cdef unsigned char c
    cdef char escape[8]
    for i in range(n):
        c = <unsigned char>text[i]
        if c >= 32 and c < 127 and c != 34 and c != 92:
            continue
        if tg_buffer_append(out, text + start, i - start) < 0:
            return -1
        start = i + 1
        snprintf(escape, sizeof(escape), b"\\u%04x", <unsigned>c)
        if tg_buffer_append(out, escape, 6) < 0:
            return -1
    return tg_buffer_append(out, text + start, n - start)


cdef int format_record(tg_access *record, tg_buffer *out) noexcept nogil:
    cdef char line[512]
    cdef char stamp[32]
    cdef int n, which
    cdef size_t room
    cdef char *text
    n = <int>tg_format_time(stamp, sizeof(stamp), record.wall_ns // 1_000_000_000)
    stamp[n] = 0
    n = snprintf(line, sizeof(line), b'{"time":"%s.%03dZ"', stamp, <int>(record.wall_ns // 1_000_000 % 1000))
    if tg_buffer_append(out, line, <size_t>n) < 0:
        return -1
    for which in range(9):
        text = room_of(record, which, &room)
        n = snprintf(line, sizeof(line), b',"%s":"', KEYS[which])
        if tg_buffer_append(out, line, <size_t>n) < 0 or append_escaped(out, text, record.lengths[which]) < 0:
            return -1
        if tg_buffer_append(out, b'"', 1) < 0:
            return -1
    n = snprintf(
        line, sizeof(line),
        b',"port":%u,"status":%u,"tries":%u,"cache":"%s","bytes_in":%llu,"bytes_out":%llu,"total_us":%llu,'
        b'"wait_us":%llu,"upstream_us":%llu,"transfer_us":%llu}\n',
        <unsigned>record.port, <unsigned>record.status, <unsigned>record.tries, CACHE_NAMES[record.cache],
        <unsigned long long>record.bytes_in, <unsigned long long>record.bytes_out,
        <unsigned long long>(record.total_ns // 1000), <unsigned long long>(record.wait_ns // 1000),
        <unsigned long long>(record.upstream_ns // 1000), <unsigned long long>(record.transfer_ns // 1000))
    return tg_buffer_append(out, line, <size_t>n)
