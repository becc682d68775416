"""The access log: see accesslog.pxd. One producer (the worker's loop), one consumer (the log's thread).

The thread holds the GIL only for records of sampled traces, one at a time: those become objects for the exporter.
"""

import logging
import threading
import time

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport write
from lb.core.buffer cimport (
    tg_buffer, tg_buffer_clear, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.telemetry.render cimport format_record, room_of, span_of, text_name

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t tg_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void tg_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    """
    uint64_t tg_load_acquire(const uint64_t *p) nogil
    void tg_store_release(uint64_t *p, uint64_t v) nogil

log = logging.getLogger("tidegate.telemetry")

cdef enum:
    RECORDS = 4096                    # about 4 MiB, taken only while the log is on
    FLUSH_BYTES = 256 * 1024
    SAMPLED = 1                       # bit of trace-flags

POLL_SECONDS = 0.05


cdef int64_t wall_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_REALTIME, &ts)
    return <int64_t>ts.tv_sec * 1_000_000_000 + ts.tv_nsec


cdef void set_text(tg_access *record, int which, const char *text, size_t n) noexcept nogil:
    cdef size_t room
    cdef char *into = room_of(record, which, &room)
    if n > room:
        n = room
    if n:
        memcpy(into, text, n)
    record.lengths[which] = <unsigned short>n


cdef void set_explanation(tg_access *record, const char *json, size_t n) noexcept nogil:
    record.explanation = <char *>malloc(n)
    if record.explanation != NULL:
        memcpy(record.explanation, json, n)
        record.explanation_length = <uint32_t>n


cdef void set_object(tg_access *record, int which, str text) noexcept:
    cdef bytes data = text.encode()
    set_text(record, which, <const char *>data, <size_t>len(data))


def close_exporter(exporter):
    try:
        exporter.close()
    except Exception:
        log.exception("an exporter of spans could not be closed")


cdef class AccessLog:
    """Writes to `fd`, which stays the caller's (it may be replaced underneath, as log rotation does). Off until
    `enable` or `export`."""

    def __init__(self, int fd):
        self.fd = fd
        self.retired = []

    def __dealloc__(self):
        free(self.ring)

    def enable(self, bint on):
        """Switch writing on or off; MemoryError when there is no room for the ring."""
        self.settle(on, self.exporter)

    def export(self, exporter):
        """Give the records of sampled traces to `exporter`, or to nobody (None). The one until now is closed.

        An exporter has `record(span)`, which must not wait and gets a dict of what a record holds, and `close()`. The
        log's thread calls the first, one of its own the second. MemoryError when there is no room for the ring.
        """
        if exporter is not self.exporter:
            self.settle(self.writing, exporter)

    def settle(self, bint writing, exporter):
        cdef bint on = writing or exporter is not None
        if on and self.ring == NULL:
            self.ring = <tg_access *>calloc(RECORDS, sizeof(tg_access))
            if self.ring == NULL:
                raise MemoryError
        if self.enabled and not on:
            self.stop()
        elif self.exporter is not None and exporter is not self.exporter:
            self.retired.append(self.exporter)
        self.writing = writing
        self.exporter = exporter
        if on and not self.enabled:
            self.stopping = False
            self.thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self.thread.start()
            self.enabled = True

    def close(self):
        """Write and export what is left and stop."""
        self.settle(False, None)

    def stop(self):
        """What is left goes where it went until now; the thread ends, and closes the exporter."""
        self.enabled = False
        self.stopping = True
        self.thread.join()
        self.thread = None

    def _run(self):
        cdef uint64_t head
        while True:
            stopping = self.stopping
            head = tg_load_acquire(&self.head)
            if head != self.tail:
                if self.exporter is not None:
                    self.hand_over(head)
                with nogil:
                    self.drain(head)
                continue
            if stopping and self.exporter is not None:
                self.retired.append(self.exporter)
                self.exporter = None
            while self.retired:
                # Its last sending may take a while, in which the ring would fill.
                closing = threading.Thread(target=close_exporter, args=(self.retired.pop(),), name="spans", daemon=True)
                closing.start()
                if stopping:
                    closing.join()
            if stopping:
                return
            time.sleep(POLL_SECONDS)

    def hand_over(self, uint64_t head):
        """The records of sampled traces up to `head`, to the exporter."""
        cdef uint64_t at = self.tail
        cdef tg_access *record
        while at != head:
            record = &self.ring[at % RECORDS]
            at += 1
            if not record.trace_flags & SAMPLED:
                continue
            exporter = self.exporter
            if exporter is None:
                return
            try:
                exporter.record(span_of(record))
            except Exception:
                log.exception("a span could not be exported")
            time.sleep(0)                     # whoever waits for the GIL goes first

    def write_sample(self, bytes trace_id=b"", bytes span_id=b"", bytes parent_id=b"", int flags=0, int status=200,
                     int grpc_status=-1, int version=11, int tls=0, dict texts=None, bytes explanation=None):
        """Put a record into the ring, for tests: False when there was no room. `texts` are by their JSON names."""
        cdef tg_access *record = self.begin()
        cdef int which
        cdef bytes text
        if record == NULL:
            return False
        if len(trace_id) > 16 or len(span_id) > 8 or len(parent_id) > 8:
            raise ValueError("an id is too long")
        memcpy(record.trace_id, <const char *>trace_id, <size_t>len(trace_id))
        memcpy(record.span_id, <const char *>span_id, <size_t>len(span_id))
        memcpy(record.parent_id, <const char *>parent_id, <size_t>len(parent_id))
        record.wall_ns = wall_ns()
        record.total_ns = 4_000_000
        record.wait_ns = 1_000_000
        record.connect_ns = 500_000
        record.upstream_ns = 2_000_000
        record.transfer_ns = 1_000_000
        record.trace_flags = <unsigned short>flags
        record.status = <unsigned short>status
        record.grpc_status = <short>grpc_status
        record.version = <unsigned short>version
        record.tls = <unsigned short>tls
        record.tries = 1
        for which in range(A_TEXTS):
            text = (texts or {}).get(text_name(which).decode("ascii"), "").encode("latin-1")
            set_text(record, which, <const char *>text, <size_t>len(text))
        if explanation is not None:
            set_explanation(record, <const char *>explanation, <size_t>len(explanation))
        self.commit()
        return True

    cdef tg_access *begin(self) noexcept:
        cdef tg_access *record
        if not self.enabled:
            return NULL
        if self.head - tg_load_acquire(&self.tail) >= RECORDS:
            self.dropped += 1
            return NULL
        record = &self.ring[self.head % RECORDS]
        memset(record, 0, sizeof(tg_access))
        record.grpc_status = -1
        return record

    cdef void commit(self) noexcept:
        tg_store_release(&self.head, self.head + 1)

    cdef void drain(self, uint64_t head) noexcept nogil:
        """Write the records up to `head` and give their places back."""
        cdef uint64_t at = self.tail
        cdef tg_buffer text
        cdef ssize_t n
        if not self.writing:
            self.give_back(head)
            return
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
            self.give_back(at)
        tg_buffer_free(&text)

    cdef void give_back(self, uint64_t end) noexcept nogil:
        """The places of the records up to `end`, which nobody needs any more."""
        cdef uint64_t at
        for at in range(self.tail, end):
            free(self.ring[at % RECORDS].explanation)
        tg_store_release(&self.tail, end)
