"""The access log: see accesslog.pxd. One producer (the worker's loop), one consumer (the log's thread).

The thread holds the GIL only for records of sampled traces, one at a time: those become objects for the exporter.
"""

import logging
import os
import threading
import time

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from lb.http.utf8 cimport JSON_ESCAPE, json_point, utf8_point
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_size
from lb.telemetry.log_writer cimport LogWriter


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
SAY_SECONDS = 5.0                     # without a reader; and without an error before trouble is over


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


cdef void set_fields(tg_access *record, const char *json, size_t n) noexcept nogil:
    record.fields = <char *>malloc(n)
    if record.fields != NULL:
        memcpy(record.fields, json, n)
        record.fields_length = <uint32_t>n


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
        self.trouble = ""

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
        cdef uint64_t head, before = self.lost, errors = self.writer.errors
        cdef bint taken
        since = None                      # the log takes no more
        failed_at = 0.0                   # monotonic: the last error
        self.trouble = ""
        while True:
            stopping = self.stopping
            head = tg_load_acquire(&self.head)
            if head != self.tail or tg_buffer_size(&self.writer.text):
                if self.exporter is not None:
                    self.hand_over(head)
                with nogil:
                    taken = self.drain(head)
                now = time.monotonic()
                if self.writer.errors != errors:
                    errors, failed_at, since = self.writer.errors, now, None
                    trouble = os.strerror(self.writer.error)
                    if trouble != self.trouble:
                        self.trouble = trouble
                        log.error("the access log cannot be written: %s; records are lost until it can", trouble)
                    continue
                if taken:
                    if self.trouble and now - failed_at >= SAY_SECONDS:
                        self.trouble = ""
                        log.info("the access log takes records again, %d were lost so far", self.dropped)
                    since = None
                    continue
                since = since or now
                if stopping and now >= self.give_up_at:
                    self.lose(head)
                elif self.exporter is not None and head - self.tail > RECORDS / 2:
                    self.lose(head)       # they were exported: those to come are not lost for the exporter as well
                if not self.trouble and now - since >= SAY_SECONDS:
                    self.trouble = "nobody reads it"
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

    cdef size_t shown(self, const char *target, size_t n) noexcept nogil:
        cdef const char *query = <const char *>memchr(target, 63, n) if self.hides_queries and n else NULL
        return n if query == NULL else <size_t>(query - target)

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
            free(self.ring[at % RECORDS].fields)
        tg_store_release(&self.tail, end)


cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    static inline size_t tg_format_time(char *into, size_t room, int64_t seconds) {
        time_t t = (time_t)seconds; struct tm parts;
        return gmtime_r(&t, &parts) ? strftime(into, room, "%Y-%m-%dT%H:%M:%S", &parts) : 0;
    }
    """
    size_t tg_format_time(char *into, size_t room, int64_t seconds) nogil

cdef const char *CACHE_NAMES[10]
CACHE_NAMES[0] = ""
CACHE_NAMES[1] = "hit"
CACHE_NAMES[2] = "miss"
CACHE_NAMES[3] = "collapsed"
CACHE_NAMES[4] = "bypass"
CACHE_NAMES[5] = "stale"
CACHE_NAMES[6] = "revalidated"
CACHE_NAMES[7] = "refreshed"
CACHE_NAMES[8] = "stale_if_error"
CACHE_NAMES[9] = "negative"

cdef const char *HEDGE_NAMES[3]
HEDGE_NAMES[0] = ""
HEDGE_NAMES[1] = "lost"
HEDGE_NAMES[2] = "won"

cdef const char *KEYS[A_TEXTS]
KEYS[A_CLIENT] = "client"
KEYS[A_METHOD] = "method"
KEYS[A_HOST] = "host"
KEYS[A_TARGET] = "target"
KEYS[A_LISTENER] = "listener"
KEYS[A_ROUTE] = "route"
KEYS[A_POOL] = "pool"
KEYS[A_ENDPOINT] = "endpoint"
KEYS[A_REASON] = "reason"
KEYS[A_REQUEST_ID] = "request_id"
KEYS[A_USER_AGENT] = "user_agent"
KEYS[A_MODEL] = "model"
KEYS[A_IDENTITY] = "identity"


cdef char *room_of(tg_access *record, int which, size_t *room) noexcept nogil:
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
    if which == A_REQUEST_ID:
        room[0] = sizeof(record.request_id)
        return record.request_id
    if which == A_USER_AGENT:
        room[0] = sizeof(record.user_agent)
        return record.user_agent
    if which == A_MODEL:
        room[0] = sizeof(record.model)
        return record.model
    if which == A_IDENTITY:
        room[0] = sizeof(record.identity)
        return record.identity
    room[0] = sizeof(record.reason)
    return record.reason


cdef const char *text_name(int which) noexcept nogil:
    return KEYS[which]


cdef int append_escaped(tg_buffer *out, const char *text, size_t n) noexcept nogil:
    """A JSON string's inside (RFC 8259 section 7), in ASCII; a byte that is no UTF-8 is taken for ISO-8859-1, so that
    any input gives valid JSON."""
    cdef size_t i = 0, start = 0, size
    cdef unsigned char c
    cdef uint32_t point
    cdef char escape[JSON_ESCAPE]
    while i < n:
        c = <unsigned char>text[i]
        if c >= 32 and c < 127 and c != 34 and c != 92:
            i += 1
            continue
        if tg_buffer_append(out, text + start, i - start) < 0:
            return -1
        size = utf8_point(text + i, n - i, &point)
        if size == 0:
            point, size = c, 1
        i += size
        start = i
        if tg_buffer_append(out, escape, json_point(escape, point)) < 0:
            return -1
    return tg_buffer_append(out, text + start, n - start)


cdef const char *protocol_name(int version) noexcept nogil:
    if version == 11:
        return b"HTTP/1.1"
    if version == 20:
        return b"HTTP/2"
    if version == 10:
        return b"HTTP/1.0"
    return b""


cdef const char *tls_name(int version) noexcept nogil:
    if version == 0x0304:
        return b"TLSv1.3"
    if version == 0x0303:
        return b"TLSv1.2"
    return b""


cdef void hex_id(const unsigned char *data, size_t n, char *into) noexcept nogil:
    """An id in hexadecimal with a NUL; nothing for one that is all zero."""
    cdef const char *digits = b"0123456789abcdef"
    cdef size_t i
    cdef int some = 0
    for i in range(n):
        some |= data[i]
        into[2 * i] = digits[data[i] >> 4]
        into[2 * i + 1] = digits[data[i] & 15]
    into[2 * n if some else 0] = 0


cdef dict span_of(tg_access *record):
    """What an exporter gets: times in ns, ids as bytes (parent_id b"" where the trace began here), texts as str."""
    cdef bytes parent = (<char *>record.parent_id)[:sizeof(record.parent_id)]
    cdef size_t room
    cdef int which
    span = {
        "start_ns": record.wall_ns,
        "total_ns": record.total_ns,
        "wait_ns": record.wait_ns,
        "connect_ns": record.connect_ns,
        "upstream_ns": record.upstream_ns,
        "transfer_ns": record.transfer_ns,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "status": record.status,
        "grpc_status": record.grpc_status if record.grpc_status >= 0 else None,
        "attempts": record.attempts,
        "port": record.port,
        "cache": CACHE_NAMES[record.cache].decode("ascii"),
        "hedge": HEDGE_NAMES[record.hedge].decode("ascii"),
        "protocol": protocol_name(record.version).decode("ascii"),
        "tls": tls_name(record.tls).decode("ascii"),
        "trace_id": <bytes>(<char *>record.trace_id)[:sizeof(record.trace_id)],
        "span_id": <bytes>(<char *>record.span_id)[:sizeof(record.span_id)],
        "parent_id": parent if any(parent) else b"",
        "trace_flags": record.trace_flags,
    }
    for which in range(A_TEXTS):
        text = room_of(record, which, &room)[:record.lengths[which]]
        try:
            span[KEYS[which].decode("ascii")] = text.decode()
        except UnicodeDecodeError:
            span[KEYS[which].decode("ascii")] = text.decode("latin-1")
    return span


cdef int format_record(tg_access *record, tg_buffer *out) noexcept nogil:
    cdef char line[512]
    cdef char stamp[33]
    cdef char code[8]
    cdef int n, which
    cdef size_t room
    cdef char *text
    n = <int>tg_format_time(stamp, sizeof(stamp), record.wall_ns // 1_000_000_000)
    stamp[n] = 0
    n = snprintf(line, sizeof(line), b'{"time":"%s.%03dZ"', stamp, <int>(record.wall_ns // 1_000_000 % 1000))
    if tg_buffer_append(out, line, <size_t>n) < 0:
        return -1
    for which in range(A_TEXTS):
        text = room_of(record, which, &room)
        n = snprintf(line, sizeof(line), b',"%s":"', KEYS[which])
        if tg_buffer_append(out, line, <size_t>n) < 0 or append_escaped(out, text, record.lengths[which]) < 0:
            return -1
        if tg_buffer_append(out, b'"', 1) < 0:
            return -1
    hex_id(record.trace_id, sizeof(record.trace_id), stamp)
    snprintf(code, sizeof(code), b"null" if record.grpc_status < 0 else b"%d", <int>record.grpc_status)
    n = snprintf(
        line, sizeof(line),
        b',"port":%u,"status":%u,"grpc_status":%s,"attempts":%u,"hedge":"%s","cache":"%s","protocol":"%s","tls":"%s",'
        b'"trace_id":"%s",'
        b'"bytes_in":%llu,"bytes_out":%llu,"total_us":%llu,"wait_us":%llu,"connect_us":%llu,"upstream_us":%llu,'
        b'"transfer_us":%llu',
        <unsigned>record.port, <unsigned>record.status, code, <unsigned>record.attempts,
        HEDGE_NAMES[record.hedge], CACHE_NAMES[record.cache], protocol_name(record.version), tls_name(record.tls),
        stamp,
        <unsigned long long>record.bytes_in, <unsigned long long>record.bytes_out,
        <unsigned long long>(record.total_ns // 1000), <unsigned long long>(record.wait_ns // 1000),
        <unsigned long long>(record.connect_ns // 1000),
        <unsigned long long>(record.upstream_ns // 1000), <unsigned long long>(record.transfer_ns // 1000))
    if tg_buffer_append(out, line, <size_t>n) < 0:
        return -1
    if record.explanation != NULL:
        if (tg_buffer_append(out, b',"explain":', 11) < 0
                or tg_buffer_append(out, record.explanation, record.explanation_length) < 0):
            return -1
    if record.fields != NULL:
        if (tg_buffer_append(out, b',"fields":', 10) < 0
                or tg_buffer_append(out, record.fields, record.fields_length) < 0):
            return -1
    return tg_buffer_append(out, b"}\n", 2)
