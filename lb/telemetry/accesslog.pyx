"""The access log: see accesslog.pxd. One producer (the worker's loop), one consumer (the log's thread).

The thread holds the GIL only for records of sampled traces, one at a time: those become objects for the exporter.
"""

import logging
import threading
import time

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from lb.core.buffer cimport tg_buffer_size
from lb.telemetry.log_writer cimport LogWriter
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
    WAIT_MS = 50                      # for who reads the log, between two looks at whether to stop

POLL_SECONDS = 0.05
# What is left has so long to be written when the log is switched off by a reload, when the loop waits, and at the end.
RELOAD_SECONDS = 0.1
CLOSE_SECONDS = 1.0
SAY_SECONDS = 5.0                     # without a reader


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
        self.writer = LogWriter(fd)
        self.retired = []

    def __dealloc__(self):
        free(self.ring)

    @property
    def dropped(self):
        """Records that were not written: there was no room in the ring, or the log did not take them."""
        return self.full + self.lost

    @property
    def write_errors(self):
        return self.writer.errors

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

    def settle(self, bint writing, exporter, double grace=RELOAD_SECONDS):
        cdef bint on = writing or exporter is not None
        if on and self.ring == NULL:
            self.ring = <tg_access *>calloc(RECORDS, sizeof(tg_access))
            if self.ring == NULL:
                raise MemoryError
        if self.enabled and not on:
            self.stop(grace)
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
        """Write and export what is left and stop. What a pipe that nobody reads does not take is lost, and said."""
        self.settle(False, None, CLOSE_SECONDS)

    def stop(self, double grace):
        """What is left goes where it went until now; the thread ends, and closes the exporter. When the log takes no
        more, the thread waits `grace` seconds for it."""
        self.enabled = False
        self.give_up_at = time.monotonic() + grace
        self.stopping = True
        self.thread.join()
        self.thread = None

    def _run(self):
        cdef uint64_t head, before = self.lost
        cdef bint taken
        since = None                      # the log takes no more
        said = False
        while True:
            stopping = self.stopping
            head = tg_load_acquire(&self.head)
            if head != self.tail or tg_buffer_size(&self.writer.text):
                if self.exporter is not None:
                    self.hand_over(head)
                with nogil:
                    taken = self.drain(head)
                now = time.monotonic()
                if taken:
                    if said:
                        log.info("the access log is read again, %d records were lost so far", self.dropped)
                    since, said = None, False
                    continue
                since = since or now
                if stopping and now >= self.give_up_at:
                    self.lose(head)
                elif self.exporter is not None and head - self.tail > RECORDS / 2:
                    self.lose(head)       # they were exported: those to come are not lost for the exporter as well
                if not said and now - since >= SAY_SECONDS:
                    said = True
                    log.warning("nobody reads the access log: when %d records wait, further ones are lost", RECORDS)
                continue
            if stopping and self.lost != before:
                log.warning("%d records of the access log could not be written", self.lost - before)
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
        cdef uint64_t at = max(self.tail, self.handed)
        cdef tg_access *record
        self.handed = head
        while at < head:
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
            self.full += 1
            return NULL
        record = &self.ring[self.head % RECORDS]
        memset(record, 0, sizeof(tg_access))
        record.grpc_status = -1
        return record

    cdef void commit(self) noexcept:
        tg_store_release(&self.head, self.head + 1)

    cdef bint drain(self, uint64_t head) noexcept nogil:
        """Write the records up to `head` and give their places back. False: the log takes no more now."""
        cdef uint64_t at
        cdef int rc
        if not self.writing:
            self.writer.flush(0)
            self.lost += self.writer.discard()
            self.give_back(head)
            return True
        while True:
            rc = self.writer.flush(WAIT_MS)
            if rc == 0:
                return False
            if rc < 0:
                self.lost += self.writer.discard()
            at = self.tail
            if at == head:
                return True
            while at != head and tg_buffer_size(&self.writer.text) < FLUSH_BYTES:
                if format_record(&self.ring[at % RECORDS], &self.writer.text) < 0:
                    break                 # out of memory: the rest of the line is lost, the log goes on
                at += 1
            if tg_buffer_size(&self.writer.text) == 0:
                at += 1
            self.give_back(at)

    def lose(self, uint64_t head):
        """The records up to `head` are not written."""
        self.lost += self.writer.discard() + head - self.tail
        self.give_back(head)

    cdef void give_back(self, uint64_t end) noexcept nogil:
        """The places of the records up to `end`, which nobody needs any more."""
        cdef uint64_t at
        for at in range(self.tail, end):
            free(self.ring[at % RECORDS].explanation)
        tg_store_release(&self.tail, end)
