"""A Python view of Http2Session for tests and fuzzing: bytes in, bytes and recorded events out."""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport Field, Scan, worker_scan
from lb.http.http2.session cimport Http2Session, h2_field, h2_options, h2_stream
from lb.http.http2.block cimport block_add
from lb.http.http2.head cimport read_request, read_request_again, read_trailers
from lb.http.http2.resets cimport frames_begin, frames_look, frames_looked, reset_ahead, tg_frames
from lb.http.http2.nghttp2 cimport nghttp2_nv
from lb.net.stream cimport iovec

cdef enum:
    MOST_FIELDS = 64

CONTROLS = ("ping", "settings", "reset", "fault", "empty", "window", "bomb", "other")


def bytes_looked():
    """Bytes that were looked over for resets, in this process."""
    return frames_looked()


cdef h2_options probe_options(uint32_t window, uint32_t header_list, uint32_t max_streams) noexcept:
    cdef h2_options options
    memset(&options, 0, sizeof(options))
    options.stream_window = window
    options.connection_window = 16 << 20
    options.header_list = header_list
    options.max_fields = 100
    options.max_streams = max_streams
    return options


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


cdef class Http2Probe(Http2Session):
    """A client. Records events as tuples in `events`; `streams_by_id` holds what was submitted and is not closed or let
    go of."""
    cdef public list events
    cdef readonly dict streams_by_id

    def __init__(self):
        self.events = []
        self.streams_by_id = {}

    def start(self):
        cdef h2_options options = probe_options(1 << 20, 16 * 1024, 0)
        return self.begin(False, &options)

    def request(self, fields, prefix: bytes, parts, place: int = 0, in_block=()) -> ProbeStream:
        """Submit a request with `fields` (pairs of bytes) and a body of `prefix` (up to 8 bytes) and `parts`. Those
        `in_block`, names in lower case, go as a block before the field at `place`."""
        cdef ProbeStream probe = ProbeStream()
        cdef nghttp2_nv array[MOST_FIELDS]
        cdef tg_buffer block
        cdef int i, rc = 0
        cdef bytes piece, name, value
        memset(&block, 0, sizeof(block))
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
        for name, value in in_block:
            rc |= block_add(&block, <const char *>name, len(name), <const char *>value, len(value))
        if rc == 0:
            rc = self.submit(&probe.stream, array, len(probe.fields), &block if in_block else NULL, place)
        tg_buffer_free(&block)
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
        cdef iovec *vector
        cdef tg_buffer head
        cdef int rc, i
        head.data = NULL
        head.start = head.end = head.capacity = 0
        rc = self.collect(&head, budget)
        try:
            first = tg_buffer_head(&head)[:tg_buffer_size(&head)] if tg_buffer_size(&head) else b""
            vector = self.gathered.vector
            pieces = [
                (bool(self.gathered.in_tail[i]), (<const char *>vector[i].iov_base)[:vector[i].iov_len])
                for i in range(self.gathered.pieces)
            ]
        finally:
            tg_buffer_free(&head)
        return rc, first, pieces

    def is_ended(self) -> bool:
        return self.ended()

    @property
    def drowned(self) -> bool:
        return bool(self.queue.choked)

    def skip_to(self, number: int):
        """The next stream gets this number."""
        self.next_id = number

    def say_ping(self) -> int:
        return self.ping()

    def say_goodbye(self, code: int):
        self.terminate(code)

    @property
    def stream_limit(self) -> int:
        return self.peer_stream_limit()

    cdef bint gathers(self, h2_stream *stream) noexcept:
        return False

    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept:
        self.events.append(("field", stream.id, name[:name_size], value[:value_size]))

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        self.events.append(("fields_end", stream.id, bool(last)))

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        self.events.append(("data", stream.id, data[:size]))
        self.consume(stream, size)

    cdef void on_end(self, h2_stream *stream) noexcept:
        self.events.append(("end", stream.id))

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        self.events.append(("close", stream.id, code, bool(stream.reset_by_peer)))
        self.streams_by_id.pop(stream.id)

    cdef void on_settings(self) noexcept:
        self.events.append(("settings",))

    cdef void on_goaway(self, int32_t last_stream, uint32_t code) noexcept:
        self.events.append(("goaway", last_stream, code))


cdef class EchoStream:
    """One request's memory on the server's side."""
    cdef h2_stream stream
    cdef bint answered

    def __dealloc__(self):
        tg_buffer_free(&self.stream.queue)
        tg_buffer_free(&self.stream.trailers)


cdef class Http2Echo(Http2Session):
    """A server that answers each request with its own body, as it comes, and the trailer `x-end: 1` if asked to.

    Records events as tuples in `events`; `open` holds the streams. `refuse` refuses new ones; `reads` also reads the
    heads and trailers, as a gate does; `hasty` answers a head at once, without a body.
    """
    cdef public list events
    cdef readonly dict open
    cdef list finished                    # whose bodies `collect` may still refer to
    cdef public bint refuse
    cdef public bint with_trailers
    cdef public bint reads
    cdef public bint hasty

    def __init__(self, window: int = 65536, header_list: int = 16384, max_streams: int = 16):
        cdef h2_options options = probe_options(window, header_list, max_streams)
        self.events = []
        self.open = {}
        self.finished = []
        if self.begin(True, &options) < 0:
            raise MemoryError

    def receive(self, data: bytes) -> int:
        return self.feed(data, len(data))

    def gather(self, budget: int) -> tuple:
        """(result of collect, all its bytes)."""
        cdef iovec *vector
        cdef tg_buffer head
        cdef int rc, i
        memset(&head, 0, sizeof(head))
        rc = self.collect(&head, budget)
        try:
            taken = tg_buffer_head(&head)[:tg_buffer_size(&head)] if tg_buffer_size(&head) else b""
            vector = self.gathered.vector
            taken += b"".join([
                (<const char *>vector[i].iov_base)[:vector[i].iov_len] for i in range(self.gathered.pieces)
            ])
        finally:
            tg_buffer_free(&head)
        self.finished.clear()                   # what was gathered is a copy now
        return rc, taken

    def is_ended(self) -> bool:
        return self.ended()

    def allow(self, work: int):
        """So much is done for what comes next."""
        self.work = work

    @property
    def waits(self) -> int:
        """Bytes of what was received last that were not taken."""
        return self.untaken

    @property
    def drowned(self) -> bool:
        return bool(self.queue.choked)

    def leave(self):
        self.warn_shutdown()

    def stop(self):
        self.stop_streams()

    cdef h2_stream *on_request(self, int32_t id) noexcept:
        cdef EchoStream echo
        if self.refuse:
            self.events.append(("refused", id))
            return NULL
        echo = EchoStream()
        echo.stream.owner = <void *>echo
        echo.stream.streaming = True
        self.open[id] = echo
        return &echo.stream

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        cdef nghttp2_nv field
        cdef EchoStream echo = <EchoStream>stream.owner
        self.events.append(("fields", stream.id, int(self.blocks.count), bool(self.blocks.over), bool(last)))
        if self.reads and not self.blocks.over:
            self.events.append(self.read(stream, not echo.answered, last))
        if echo.answered:                     # trailers
            return
        echo.answered = True
        h2_field(&field, b":status", 7, b"200", 3, 0)
        self.respond(stream, &field, 1, not self.hasty)

    cdef tuple read(self, h2_stream *stream, bint first, bint last):
        """("head" or "trailers", stream, result, target, fields)."""
        cdef Scan *scan = worker_scan()
        cdef Field *field = &scan.fields[0] if first else &scan.trailers[0]
        cdef str kind = "head" if first else "trailers"
        cdef int problem, count, i
        scan.max_fields = 100
        if not first:
            problem = read_trailers(scan, &self.blocks.fields)
        elif self.blocks.known == NULL:
            problem = read_request(scan, &self.blocks.fields, last)
        else:
            problem = read_request_again(scan, &self.blocks.fields, last, &self.blocks.known.reading)
        if problem:
            return kind, stream.id, problem, b"", []
        count = scan.field_count if first else scan.trailer_count
        fields = [
            (field[i].name[:field[i].name_length], field[i].value[:field[i].value_length]) for i in range(count)
        ]
        return kind, stream.id, 0, scan.target[:scan.target_length] if first else b"", fields

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        self.write(stream, data, size)
        self.consume(stream, size)

    cdef void on_end(self, h2_stream *stream) noexcept:
        self.events.append(("end", stream.id))
        if self.with_trailers:
            tg_buffer_append(&stream.trailers, b"x-end: 1\r\n", 10)
        self.finish(stream)

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        cdef EchoStream echo = <EchoStream>stream.owner
        self.events.append(("close", stream.id, code, bool(stream.reset_by_peer)))
        self.finished.append(self.open.pop(echo.stream.id))

    cdef void on_control(self, int kind) noexcept:
        self.events.append(("control", CONTROLS[kind]))


def resets_in(pieces: list, streams: list) -> list:
    """For each piece of what a client sends, preface first: which of `streams` are known to be reset in it."""
    cdef tg_frames frames
    cdef bytes piece
    found = []
    frames_begin(&frames)
    for piece in pieces:
        seen = frames_look(&frames, piece, <size_t>len(piece))
        found.append({stream for stream in streams if reset_ahead(stream)} if seen else set())
    return found
