"""A unary inference over gRPC whose answer may be in the result cache: see cached_call.pxd.

    begin            the attempt reads the head, as of any call
    gather           the message is kept, unless it is a large one, which goes on as it comes
    run              what it means is its key in the cache; identical misses wait for the first
    deliver          an answer from the cache, or another exchange's
    take_answer      the endpoint's answer to the first of them, on its way to the client
    answered         that answer goes into the cache and to those who wait
"""

import logging
from lb.errors import TidegateError
from lb.inference.compression import decompress
from urllib.parse import unquote

cimport cython
from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memset
from lb.failure cimport FAIL_NO_MEMORY
from lb.http.grpc.protobuf cimport append_field, cursor, next_field, start_cursor
from lb.http.grpc.protobuf cimport field as wire_field
from lb.http.grpc.text cimport grpc_status_of_http
from lb.http.grpc.web cimport WEB_NONE, web_kind
from lb.http.head cimport H_CONTENT_TYPE, Field, Scan, has_body, same_name
from lb.http.http2.streams cimport h2_rewind
from lb.inference.call cimport read_call, request_of_call, tg_asked
from lb.inference.request cimport InferRequest, digest_of
from lb.inference.response cimport is_sound, store_form
from lb.inference.sequence cimport message_length
from lb.inference.template cimport Template
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
)
from lb.net.ending cimport tg_end_by
from lb.net.reuse cimport tg_reuse
from lb.net.stream cimport iovec
from lb.proxy.exchange.cached cimport (
    AnswerCache, CachedBody, append_cache_status, combined, land, leave_flight, looks_up_rows, make_key,
    read_cache_fields, release_followers, scatter, store, store_error, through_cache_by_digest,
)
from lb.proxy.exchange.cached_rows cimport rows_to_look_up
from lb.proxy.exchange.call_answer cimport GRPC_PREFIX, answer_call, put_prefix
from lb.proxy.exchange.exchange cimport (
    CACHE_BYPASS, CACHE_COLLAPSED, CACHE_NEGATIVE, X_DONE, X_NEW, X_REQUEST, Exchange,
)
from lb.proxy.exchange.first_message cimport WEIGHING_NS, FirstMessage
from lb.proxy.exchange.grpc_web_codec cimport WebCodec
from lb.proxy.exchange.refusal cimport SPEAKS_GRPC, SPEAKS_WEB_TEXT
from lb.upstream.attempt cimport Attempt
from lb.upstream.connections.http2_call cimport Http2Call

log = logging.getLogger("tidegate.proxy")

cdef enum:
    # Bytes of a message that is gathered, the most that servers of gRPC take unless they are told otherwise. A larger
    # one goes on as it comes, since its transfer takes time that the endpoint's work should not wait for.
    GATHER_MOST = 4 * 1024 * 1024
    ROWS_MOST = 64 * 1024 * 1024      # bytes of an answer to rows, which waits until it is complete
    SPARE_MOST = 256 * 1024           # bytes of memory that are held for the next request
    GRPC_UNKNOWN = 2
    GRPC_UNAVAILABLE = 14
    M_POST = 3                        # llhttp's number
    ANSWER_ID = 3                     # field of a ModelInferResponse
    INFER_PATH_LENGTH = 42

cdef const char *INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"
cdef bytes PLAIN = b"application/grpc"
cdef bytes PROTO = b"application/grpc+proto"

# Of the request that is being read, and the answer that is being made: a worker does one at a time.
cdef tg_asked asked
cdef tg_buffer stripped
cdef tg_buffer front


cdef void spare(tg_buffer *buffer) noexcept:
    if buffer.capacity > SPARE_MOST:
        tg_buffer_free(buffer)


@cython.final
cdef class CachedCall(CachedBody):

    cdef void begin(self, Exchange exchange, Scan *scan) noexcept:
        cdef CachedCall own = self            # which the exchange lets go of meanwhile
        cdef Attempt attempt = exchange.attempt
        read_cache_fields(self, exchange, scan)
        exchange.key = exchange.find_key(scan)
        if exchange.pool.costs is not None and scan.has_length:
            exchange.announced = scan.content_length
        exchange.source = None
        attempt.begin(scan)                   # which makes a FirstMessage, where one is needed
        if exchange.state == X_DONE:
            return
        own.first = <FirstMessage>exchange.source
        exchange.source = own
        if exchange.state == X_NEW:
            exchange.move(X_REQUEST)

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef Attempt attempt = exchange.attempt
        if self.gathering:
            attempt.take_body(spans, count, size, last)
            if exchange.state == X_REQUEST:
                self.gather(exchange, <Http2Call>attempt, last)
        elif self.first is not None:
            self.first.take(exchange, spans, count, size, last)
        else:
            attempt.take_body(spans, count, size, last)

    cdef void gather(self, Exchange exchange, Http2Call call, bint last) noexcept:
        cdef const tg_buffer *body = &call.stream.queue
        cdef size_t size = tg_buffer_size(body)
        if size >= GRPC_PREFIX and message_length(tg_buffer_head(body)) > GATHER_MOST:
            self.pass_by(exchange, call)
        elif last:
            self.run(exchange, call)
        elif size >= GRPC_PREFIX and size > GRPC_PREFIX + message_length(tg_buffer_head(body)):
            self.pass_by(exchange, call)      # more than one message
        else:
            call.stream.wants_room = False    # until it is sent it takes as much room as that
            exchange.wants_body = True

    cdef void run(self, Exchange exchange, Http2Call call) noexcept:
        self.gathering = False
        if self.first is not None:
            self.first.find(exchange, call)
            if exchange.state != X_REQUEST:
                return
        if self.read(exchange, call):
            through_cache_by_digest(self, exchange)
        else:
            exchange.cache = CACHE_BYPASS
            exchange.pick()

    cdef bint read(self, Exchange exchange, Http2Call call) noexcept:
        cdef const char *data = tg_buffer_head(&call.stream.queue)
        cdef size_t size = tg_buffer_size(&call.stream.queue)
        cdef bytes plain
        cdef Template template
        cdef unsigned char[32] key
        if not self.answers.on or size < GRPC_PREFIX or size != GRPC_PREFIX + message_length(data):
            return False
        try:
            if data[0]:
                if self.encoding is None:
                    return False
                plain = decompress(self.encoding, data[GRPC_PREFIX:size], GATHER_MOST)
                template = read_call(plain, <size_t>len(plain), &asked)
            else:
                template = read_call(data + GRPC_PREFIX, size - GRPC_PREFIX, &asked)
            if template is None:
                return False
            self.id = asked.id.data[:asked.id.size] if asked.id.size else b""
            if exchange.pool.cached_rows is not None and template.batch > 1 and looks_up_rows(self):
                self.rows = rows_to_look_up(exchange, request_of_call(template, &asked))
            if make_key(self, exchange, template, asked.tensors, key) < 0:
                return False
            self.digest = (<char *>key)[:32]
            self.asked_model = template.model
            self.asked_version = template.version
        except (TidegateError, MemoryError):
            return False                      # for the endpoint to refuse
        except Exception:                     # nothing above takes it: the exchange would never end
            log.exception("an inference request could not be read")
            return False
        spare(&asked.packed)
        return True

    cdef void pass_by(self, Exchange exchange, Http2Call call) noexcept:
        cdef uint64_t now = exchange.client.poller.now
        self.gathering = False
        exchange.cache = CACHE_BYPASS
        if self.first is None:
            exchange.pick()
            return
        self.first.read(exchange, call)
        if exchange.state == X_REQUEST and self.first.weighing:
            exchange.client.poller.arm(exchange, min(exchange.expires, now + WEIGHING_NS))

    # An answer that is made here.

    cdef void deliver(self, Exchange exchange, const char *message, size_t size) noexcept:
        cdef char[GRPC_PREFIX] prefix
        cdef iovec[3] parts
        cdef tg_buffer extra
        if exchange.state == X_DONE:
            return
        if exchange.cache == CACHE_COLLAPSED and has_id(message, size):      # that of another request
            tg_buffer_clear(&stripped)
            if store_form(message, size, &stripped) < 0:
                exchange.fail(FAIL_NO_MEMORY, "out of memory")
                return
            message = tg_buffer_head(&stripped)
            size = tg_buffer_size(&stripped)
        tg_buffer_clear(&front)
        if self.id and append_field(&front, ANSWER_ID, <const char *>self.id, <size_t>len(self.id)) < 0:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
            return
        put_prefix(prefix, tg_buffer_size(&front) + size)
        parts[0].iov_base = prefix
        parts[0].iov_len = GRPC_PREFIX
        parts[1].iov_base = tg_buffer_head(&front)
        parts[1].iov_len = tg_buffer_size(&front)
        parts[2].iov_base = <char *>message
        parts[2].iov_len = size
        memset(&extra, 0, sizeof(extra))
        append_cache_status(self, exchange, &extra)
        answer_call(exchange, self.web, self.kind, 0, "", parts, 3, &extra)
        tg_buffer_free(&extra)
        spare(&stripped)

    cdef bint copy_request(self, Exchange exchange, tg_buffer *into) noexcept:
        cdef const tg_buffer *body = &(<Http2Call>exchange.attempt).stream.queue
        cdef const char *data = tg_buffer_head(body)
        cdef size_t size = tg_buffer_size(body)
        cdef bytes plain
        if size < GRPC_PREFIX:
            return False
        if not data[0]:
            return tg_buffer_append(into, data + GRPC_PREFIX, size - GRPC_PREFIX) == 0
        try:
            plain = decompress(self.encoding, data[GRPC_PREFIX:size], GATHER_MOST)
        except (TidegateError, MemoryError):
            return False
        return tg_buffer_append(into, <const char *>plain, <size_t>len(plain)) == 0

    cdef int digest_under(self, Exchange exchange, const unsigned char *secret, unsigned char *key) noexcept:
        cdef const tg_buffer *body = &(<Http2Call>exchange.attempt).stream.queue
        cdef const char *data = tg_buffer_head(body)
        cdef size_t size = tg_buffer_size(body)
        cdef bytes plain                      # keeps what `asked` points to
        cdef Template template
        cdef int made = -1
        if size < GRPC_PREFIX:
            return -1
        try:
            if data[0]:
                plain = decompress(self.encoding, data[GRPC_PREFIX:size], GATHER_MOST)
                template = read_call(plain, <size_t>len(plain), &asked)
            else:
                template = read_call(data + GRPC_PREFIX, size - GRPC_PREFIX, &asked)
            if template is not None:
                made = digest_of(template, asked.tensors, secret, key)
        except (TidegateError, MemoryError):
            pass
        spare(&asked.packed)
        return made

    cdef void refuse(self, Exchange exchange, int grpc_status, str message) noexcept:
        cdef tg_buffer extra
        if exchange.state == X_DONE:
            return
        memset(&extra, 0, sizeof(extra))
        if exchange.cache == CACHE_NEGATIVE:
            append_cache_status(self, exchange, &extra)
        answer_call(exchange, self.web, self.kind, grpc_status, message, NULL, 0, &extra)
        tg_buffer_free(&extra)

    cdef void leave(self, Exchange exchange) noexcept:
        leave_flight(self, exchange)

    # Rows of the request, in place of all of it.

    cdef bint send(self, Exchange exchange, InferRequest request) noexcept:
        cdef Http2Call call = <Http2Call>exchange.attempt
        cdef tg_buffer *queue = &call.stream.queue
        cdef tg_buffer made
        cdef char[GRPC_PREFIX] prefix
        cdef int i
        if request is self.rows.request:
            self.combining = False
            if tg_buffer_size(&self.original):
                swap(queue, &self.original)
                tg_buffer_free(&self.original)
                h2_rewind(&call.stream)
            return True
        memset(&made, 0, sizeof(made))
        put_prefix(prefix, request.message_size)
        if tg_buffer_reserve(&made, GRPC_PREFIX + request.message_size) < 0:
            return False
        tg_buffer_append(&made, prefix, GRPC_PREFIX)       # cannot fail: the room is there
        for i in range(request.part_count):
            tg_buffer_append(&made, request.parts[i].iov_base, request.parts[i].iov_len)
        swap(queue, &self.original)
        swap(queue, &made)
        tg_buffer_free(&made)
        self.combining = True
        return True

    cdef void take_rows_head(self, Scan *scan) noexcept:
        self.taking = True
        tg_buffer_clear(&self.reply)
        self.find_encoding(scan)

    cdef void combine(self, Exchange exchange) noexcept:
        cdef bytes message = b""
        cdef const tg_buffer *whole
        cdef tg_buffer reply
        cdef int status = exchange.grpc_status
        if status < 0:
            status = GRPC_UNKNOWN if exchange.status == 200 else grpc_status_of_http(exchange.status)
        if status:
            text = "" if self.problem is None else self.problem
            release_followers(self, status, text)
            self.refuse(exchange, status, text)
            return
        exchange.let_go(True)
        if self.taking:
            message = self.unpacked()
            if message is None:
                message = b""                 # which goes with nothing: all of the request is asked for
        memset(&reply, 0, sizeof(reply))
        reply.data = <char *>message
        reply.end = reply.capacity = <size_t>len(message)
        whole = combined(self, exchange, &reply)
        if whole == NULL:
            return
        store(self, exchange, whole)
        land(self, tg_buffer_head(whole), tg_buffer_size(whole))
        self.deliver(exchange, tg_buffer_head(whole), tg_buffer_size(whole))

    # The endpoint's answer.

    cdef void take_head(self, Exchange exchange, Scan *scan, tg_buffer *extra) noexcept:
        self.taking = self.leading or self.refills
        tg_buffer_clear(&self.reply)          # of an answer to rows that went with nothing
        self.find_encoding(scan)
        append_cache_status(self, exchange, extra)

    cdef void find_encoding(self, Scan *scan) noexcept:
        cdef Field *field
        cdef int i
        self.reply_encoding = None
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.name_length == 13 and same_name(field.name, 13, b"grpc-encoding"):
                self.reply_encoding = field.value[:field.value_length]

    cdef void take_answer(self, Exchange exchange, const char *data, size_t size) noexcept:
        cdef size_t most
        if not self.taking:
            return
        most = 0 if self.answers.store is None else self.answers.store.max_object
        if self.combining:
            most = ROWS_MOST
        if (tg_buffer_size(&self.reply) + size > most + GRPC_PREFIX
                or tg_buffer_append(&self.reply, data, size) < 0):
            self.taking = False
            tg_buffer_free(&self.reply)

    cdef void take_error(self, const Field *fields, int count) noexcept:
        cdef bytes text
        cdef int i
        for i in range(count):
            if fields[i].name_length == 12 and memcmp(fields[i].name, b"grpc-message", 12) == 0:
                text = fields[i].value[:fields[i].value_length]
                self.problem = unquote(text.decode("utf-8", "replace"))

    cdef void answered(self, Exchange exchange) noexcept:
        cdef bytes message, problem
        cdef tg_buffer whole
        if not self.leading and not self.refills:
            return
        if exchange.grpc_status:
            problem = (self.problem or "").encode("utf-8", "replace")
            store_error(self, exchange, exchange.grpc_status, <const char *>problem, <size_t>len(problem))
            release_followers(self, exchange.grpc_status if exchange.grpc_status > 0 else GRPC_UNAVAILABLE,
                              "" if self.problem is None else self.problem)
            return
        message = self.unpacked() if self.taking else None
        if message is None:
            scatter(self)
            return
        memset(&whole, 0, sizeof(whole))
        whole.data = <char *>message
        whole.end = whole.capacity = <size_t>len(message)
        if self.rows is not None:
            combined(self, exchange, &whole)  # the model server was asked for all of it: its rows may be kept
        store(self, exchange, &whole)
        land(self, message, <size_t>len(message))

    cdef bytes unpacked(self):
        cdef const char *data = tg_buffer_head(&self.reply)
        cdef size_t size = tg_buffer_size(&self.reply)
        cdef bytes message
        if size < GRPC_PREFIX or size != GRPC_PREFIX + message_length(data):
            return None
        try:
            message = data[GRPC_PREFIX:size]
            if data[0]:
                if self.reply_encoding is None or self.answers.store is None:
                    return None
                message = decompress(self.reply_encoding, message,
                                     ROWS_MOST if self.combining else self.answers.store.max_object)
        except (TidegateError, MemoryError):
            return None
        return message if is_sound(message, <size_t>len(message)) else None

    # As of calls past the cache.

    cdef void passed(self, Exchange exchange, const char *data, size_t size) noexcept:
        if self.first is not None:
            self.first.passed(exchange, data, size)

    cdef int price(self, Exchange exchange, uint64_t now) noexcept:
        return 0 if self.first is None else self.first.price(exchange, now)

    cdef bytes model(self):
        return None if self.first is None else self.first.model()

    cdef bytes counted(self, Exchange exchange, int64_t *rows):
        return None if self.first is None else self.first.counted(exchange, rows)

    cdef bint on_time(self, Exchange exchange) noexcept:
        if self.first is None or exchange.client.poller.now >= exchange.expires:
            return False
        if not self.gathering:
            return self.first.on_time(exchange)
        exchange.client.poller.arm(exchange, exchange.expires)
        return True

    cdef void picked(self, Exchange exchange) noexcept:
        if self.first is not None:
            self.first.picked(exchange)

    cdef void answer_begins(self, Exchange exchange, bint last) noexcept:
        if self.first is not None:
            self.first.answer_begins(exchange, last)

    cdef void ended_well(self, Exchange exchange) noexcept:
        if self.first is not None:
            self.first.ended_well(exchange)


cdef void end_call(void *call) noexcept:
    tg_buffer_free(&(<CachedCall>call).reply)
    tg_buffer_free(&(<CachedCall>call).original)


tg_end_by(<PyTypeObject *>CachedCall, end_call)
tg_reuse(<PyTypeObject *>CachedCall)


cdef inline void swap(tg_buffer *one, tg_buffer *other) noexcept nogil:
    cdef tg_buffer between = one[0]
    one[0] = other[0]
    other[0] = between


cdef bint has_id(const char *message, size_t size) noexcept nogil:
    cdef cursor c
    cdef wire_field f
    start_cursor(&c, message, size)
    while next_field(&c, &f) > 0:
        if f.number == ANSWER_ID:
            return True
    return False


cdef CachedCall new_cached_call(AnswerCache answers, int speaks, const Scan *scan):
    cdef CachedCall call
    cdef const Field *field
    cdef const char *format
    cdef size_t n, i
    cdef bytes kind
    if (not has_body(scan) or scan.method != M_POST or not answers.on or scan.target_length != INFER_PATH_LENGTH
            or memcmp(scan.target, INFER_PATH, INFER_PATH_LENGTH) != 0):
        return None
    field = &scan.fields[scan.first[H_CONTENT_TYPE]]
    if speaks == SPEAKS_GRPC:
        format, n = field.value + len(PLAIN), field.value_length - <size_t>len(PLAIN)
    elif web_kind(field.value, field.value_length, &format, &n) == WEB_NONE:
        return None
    if n >= 6 and memcmp(format, b"+proto", 6) == 0 and (n == 6 or format[6] == c';' or format[6] == c' '):
        kind = PROTO
    elif n and format[0] == c'+':
        return None                           # messages of another encoding
    else:
        kind = PLAIN
    call = CachedCall.__new__(CachedCall)
    call.answers = answers
    call.kind = kind
    call.gathering = True
    if speaks != SPEAKS_GRPC:
        call.web = WebCodec.__new__(WebCodec)
        call.web.text = speaks == SPEAKS_WEB_TEXT
    for i in range(<size_t>scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 13 and same_name(field.name, 13, b"grpc-encoding"):
            call.encoding = field.value[:field.value_length]
    return call
