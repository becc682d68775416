"""A Python view of Http2Client for tests and fuzzing: bytes in, bytes and recorded events out."""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free
from lb.core.buffer cimport tg_buffer, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.core.http2 cimport Http2Client, h2_field, h2_stream
from lb.core.nghttp2 cimport nghttp2_nv
from lb.core.stream cimport iovec

cdef enum:
    MOST_FIELDS = 16


cdef class ProbeStream:
    """One request's memory."""
    cdef h2_stream stream
    cdef iovec *vector
    cdef tuple memory
    cdef tuple fields

    def __dealloc__(self):
        free(self.vector)

    @property
    def id(self):
        return self.stream.id

    @property
    def sent(self):
        return bool(self.stream.sent)


cdef class Http2Probe(Http2Client):
    """Records events as tuples in `events`; `streams_by_id` holds what was submitted and is not closed or let go of."""
    cdef public list events
    cdef readonly dict streams_by_id

    def __init__(self):
        self.events = []
        self.streams_by_id = {}

    def start(self):
        return self.begin()

    def request(self, fields, prefix: bytes, parts) -> ProbeStream:
        """Submit a request with `fields` (pairs of bytes) and a body of `prefix` (up to 8 bytes) and `parts`."""
        cdef ProbeStream probe = ProbeStream()
        cdef nghttp2_nv array[MOST_FIELDS]
        cdef int i, rc
        cdef bytes piece, name, value
        probe.fields = tuple(fields)
        probe.memory = tuple(parts)
        if len(prefix) > 8 or len(probe.fields) > MOST_FIELDS:
            raise ValueError("too much for a probe")
        probe.vector = <iovec *>calloc(max(1, len(probe.memory)), sizeof(iovec))
        if probe.vector == NULL:
            raise MemoryError
        for i in range(len(probe.memory)):
            piece = probe.memory[i]               # kept by `memory`
            probe.vector[i].iov_base = <void *><const char *>piece
            probe.vector[i].iov_len = len(piece)
            probe.stream.left += probe.vector[i].iov_len
        for i in range(len(prefix)):
            probe.stream.prefix[i] = <char><int>prefix[i]
        probe.stream.left += len(prefix)
        probe.stream.prefix_size = len(prefix)
        probe.stream.part = -1 if prefix else 0
        probe.stream.parts = probe.vector
        probe.stream.part_count = len(probe.memory)
        probe.stream.owner = <void *>probe
        for i in range(len(probe.fields)):
            name = probe.fields[i][0]
            value = probe.fields[i][1]
            h2_field(&array[i], <const char *>name, len(name), <const char *>value, len(value), 0)
        rc = self.submit(&probe.stream, array, len(probe.fields))
        if rc < 0:
            raise RuntimeError(f"submit: {rc}")
        self.streams_by_id[probe.stream.id] = probe
        return probe

    def reset_stream(self, ProbeStream probe not None, code: int):
        self.reset(&probe.stream, code)
        del self.streams_by_id[probe.stream.id]

    def forget_stream(self, ProbeStream probe not None):
        self.forget(&probe.stream)
        del self.streams_by_id[probe.stream.id]

    def receive(self, data: bytes) -> int:
        return self.feed(data, len(data))

    def gather(self, budget: int) -> tuple:
        """(result of collect, the head, the gathered pieces as (copied, bytes))."""
        cdef tg_buffer head
        cdef int rc, i
        head.data = NULL
        head.start = head.end = head.capacity = 0
        rc = self.collect(&head, budget)
        try:
            first = tg_buffer_head(&head)[:tg_buffer_size(&head)] if tg_buffer_size(&head) else b""
            pieces = [
                (bool(self.in_tail[i]), (<const char *>self.vector[i].iov_base)[:self.vector[i].iov_len])
                for i in range(self.pieces)
            ]
        finally:
            tg_buffer_free(&head)
        return rc, first, pieces

    def is_ended(self) -> bool:
        return self.ended()

    def say_ping(self) -> int:
        return self.ping()

    def say_goodbye(self, code: int):
        self.terminate(code)

    @property
    def stream_limit(self) -> int:
        return self.peer_stream_limit()

    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept:
        self.events.append(("field", stream.id, name[:name_size], value[:value_size]))

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        self.events.append(("fields_end", stream.id, bool(last)))

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        self.events.append(("data", stream.id, data[:size]))

    cdef void on_end(self, h2_stream *stream) noexcept:
        self.events.append(("end", stream.id))

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        self.events.append(("close", stream.id, code, bool(stream.reset_by_peer)))
        self.forget(stream)
        self.streams_by_id.pop(stream.id)

    cdef void on_settings(self) noexcept:
        self.events.append(("settings",))

    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept:
        self.events.append(("goaway", last_stream, code))
