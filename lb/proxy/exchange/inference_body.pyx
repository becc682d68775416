"""The body of an HTTP request to a pool that speaks the Open Inference Protocol: see inference_body.pxd.

    begin            the path names the model; the body is gathered
    run              the codec turns JSON or binary tensors into one canonical gRPC message, in steps (BodyWork)
    through_cache    a repeated request is answered here; identical misses wait for the first
    answer           the codec turns a gRPC answer into what the client asked for

Between the last two a model server is asked (inference_attempt.pyx). What is no inference, such as a model's metadata,
goes the same way past codec and cache.
"""

import logging
from lb.errors import TidegateError
from lb.inference import generate, management, server_calls
from lb.inference.errors import OipError
from lb.inference.compression import COMPRESS_LEAST, COMPRESS_MOST, RATIO, compress, decompressed
from lb.inference.raw_input import raw_input
from lb.proxy.exchange.question import nobody
from lb.wire import grpc_service_pb2 as wire

cimport cython
from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memset
from lb.cache.layout cimport tg_found
from lb.failure cimport FAIL_BAD_REQUEST, FAIL_INTERNAL, FAIL_MODEL_ERROR, FAIL_NOT_CACHED, FAIL_NO_MEMORY, http_of_grpc
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size, tg_buffer_tail,
)
from lb.shared.hashing cimport hash64
from lb.http.codings cimport CODING_GZIP, CODING_IDENTITY, accept_codings, best_coding, tg_accepted
from lb.http.head cimport (
    H_CONTENT_ENCODING, H_INFERENCE_LENGTH, MAX_FIELDS, Field, Scan, parse_decimal, same_name, scan_begin, scan_field,
)
from lb.http.head_text cimport append_number, append_text
from lb.http.methods cimport method_text
from lb.net.poller cimport Poller, monotonic_ns
from lb.net.wakeups cimport Wakeups
from lb.net.work cimport Work, new_work_queue
from lb.net.ending cimport tg_end_by
from lb.net.reuse cimport tg_reuse
from lb.http.grpc.protobuf cimport span
from lb.shared.segment cimport Segment
from lb.net.stream cimport Address, iovec
from lb.inference.first_timeout cimport time_after
from lb.inference.paths cimport MATCH_ESCAPED, NO_MATCH, decode_model, match_infer, match_result
from lb.inference.reader cimport READ_MORE, READ_REFUSED, count_values
from lb.inference.request cimport InferRequest, begin_generate, begin_reading, parse_http, parse_raw, remembered
from lb.inference.response cimport InferResponse, render, render_again
from lb.proxy.exchange.cached cimport (
    AnswerCache, CachedBody, append_cache_status, leave_flight, note_found, read_cache_fields, through_cache,
)
from lb.proxy.exchange.cached_result cimport (
    append_location, append_result_fields, append_tags, find_result, is_known, read_query,
)
from lb.proxy.exchange.exchange cimport (
    CACHE_BYPASS, CACHE_HIT, CACHE_NONE, X_ANSWERING, X_DONE, X_REQUEST, Exchange,
)
from lb.proxy.exchange.pool_call cimport answers_probes
from lb.proxy.routing.decompression cimport DecompressionRules
from lb.proxy.exchange.question cimport put_question
from lb.upstream.attempt cimport Attempt
from lb.upstream.load.cost cimport UNIT_BYTES, PoolCosts
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.pool cimport KEY_MODEL

log = logging.getLogger("tidegate.proxy")

# A ServerLiveResponse or ServerReadyResponse that says yes; without its field it says no.
cdef bytes HEALTHY = b"\x08\x01"
cdef bytes PLAIN = b'{"inputs":[]}'
cdef size_t LARGEST_BODY = server_calls.LARGEST_BODY
cdef size_t LARGEST_LOAD_BODY = server_calls.LARGEST_LOAD_BODY
LOAD = server_calls.LOAD


cdef enum:
    MAX_REPLY = 256 * 1024 * 1024
    MOST_DESCRIPTIONS = 1024
    RESERVE = 16 * 1024 * 1024        # of a body, at its beginning: memory is taken when it is touched
    LOAD_VALUES = 4096                # values of a body that loads a model
    COUNTED_AT_ONCE = 16 * 1024       # bytes of it
    GRPC_INVALID_ARGUMENT = 3
    GRPC_NOT_FOUND = 5
    GRPC_UNIMPLEMENTED = 12
    GRPC_INTERNAL = 13
    NOT_MODIFIED = 304
    NOT_FOUND = 404
    NOT_ACCEPTABLE = 406
    UNKNOWN_ERROR = 400               # of HTTP, for an error within a stream, which has no code: as Triton's UNKNOWN


cdef class InferContext:
    """What the inference exchanges of a worker share: the cache, and the flights that collapse identical misses."""

    def __init__(self, Poller poller, Segment segment, Wakeups wakeups):
        self.poller = poller
        self.answers = AnswerCache(poller, segment, wakeups)
        self.ask = nobody
        self.raw_inputs = {}
        self.schemas = {}
        self.works = new_work_queue(poller)

    def prepare(self, plan):
        """Whatever of a new plan can fail is done here, before anything is changed."""
        self.answers.prepare(plan.cache)

    def commit(self, plan):
        self.answers.commit(plan.cache)
        self.raw_inputs.clear()               # other endpoints may have other models
        self.schemas.clear()

    def tier_status(self):
        """TierStatus of the cache tier, or None."""
        return self.answers.tier_status()

    def close(self):
        self.answers.close()

    def channel(self, Address address, uint64_t connect_timeout):
        """A gRPC connection to an endpoint: one for all exchanges of this worker."""
        return Http2Channel(self.poller, address, connect_timeout, MAX_REPLY)

    cdef InferenceBody new_body(self):
        cdef InferenceBody body = InferenceBody.__new__(InferenceBody)
        body.context = self
        body.answers = self.answers
        body.json_length = -1
        return body


cdef class InferenceBody(CachedBody):

    cdef void begin(self, Exchange exchange, Scan *scan) noexcept:
        cdef uint64_t expected
        if not read_request_head(self, exchange, scan):
            return
        if exchange.pool.key_kind == KEY_MODEL:
            exchange.key = hash64(<const char *>self.name, <size_t>len(self.name)) if self.name is not None else 0
            if exchange.pool.sticky:
                exchange.read_affinity(scan)
        else:
            exchange.key = exchange.find_key(scan)
        exchange.move(X_REQUEST)
        if scan.has_length:
            # Checked against max_body at admission; a lying client gets no more memory than it sends.
            expected = min(scan.content_length, <uint64_t>RESERVE)
            if tg_buffer_reserve(&self.body, expected) < 0:
                exchange.fail(FAIL_NO_MEMORY, "out of memory")

    cdef char *space(self, Exchange exchange, size_t size) noexcept:
        if exchange.state != X_REQUEST or tg_buffer_reserve(&self.body, size) < 0:
            return NULL
        return tg_buffer_tail(&self.body)

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef int i
        if exchange.state != X_REQUEST:
            return
        if (count == 1 and spans[0].iov_base == tg_buffer_tail(&self.body)
                and size <= self.body.capacity - self.body.end):
            self.body.end += size     # received where `space` said
            count = 0
        for i in range(count):
            if tg_buffer_append(&self.body, spans[i].iov_base, spans[i].iov_len) < 0:
                exchange.fail(FAIL_NO_MEMORY, "out of memory")
                return
        if last:
            exchange.request_complete = True
            exchange.wants_body = False
            self.run(exchange)

    cdef void run(self, Exchange exchange) noexcept:
        """The request is here: make its message, look in the cache, else ask an endpoint."""
        if self.token is not None:
            answer_result(self, exchange)
        else:
            begin_work(self, exchange)

    cdef void proceed(self, Exchange exchange) noexcept:
        if len(self.request.sequence) and exchange.pool.sequences is not None and not self.join(exchange):
            return
        if self.streams:
            exchange.cache = CACHE_BYPASS if self.answers.on else CACHE_NONE
            exchange.pick()
        else:
            through_cache(self, exchange, self.request)

    cdef bint join(self, Exchange exchange) noexcept:
        cdef InferRequest request = self.request
        cdef bytes version = request.version
        cdef const char *id = <const char *>request.sequence
        cdef size_t text = id[0] == c'"'
        cdef uint64_t key = exchange.pool.sequences.key_of(
            <const char *>self.name, <size_t>len(self.name), <const char *>version, <size_t>len(version),
            id + text, <size_t>len(request.sequence) - text, text != 0)
        return exchange.join_sequence(key, request.sequence_start, request.sequence_end)

    cdef double units(self, Exchange exchange) noexcept:
        cdef PoolCosts costs = exchange.pool.costs
        if costs.unit == UNIT_BYTES:
            return costs.units_of_bytes(tg_buffer_size(&self.body))
        return 1.0 if self.request is None else <double>self.request.batch

    cdef int price(self, Exchange exchange, uint64_t now) noexcept:
        cdef PoolCosts costs = exchange.pool.costs
        cdef uint64_t key = 0
        if self.request is not None:
            key = costs.model_key(<const char *>self.name, <size_t>len(self.name))
        return costs.price(self.units(exchange), key, now)

    cdef void ended_well(self, Exchange exchange) noexcept:
        """How long the model server took says what such a request costs."""
        cdef Attempt attempt = exchange.attempt
        cdef PoolCosts costs = exchange.pool.costs
        cdef uint64_t now = exchange.client.poller.now
        cdef size_t n
        cdef uint64_t key
        if costs is None or self.request is None or exchange.grpc_status != 0:
            return
        n = <size_t>len(self.name)
        key = costs.model_key(<const char *>self.name, n)
        if key:
            costs.learn(key, <const char *>self.name, n, self.units(exchange), now - attempt.picked_at,
                        attempt.charged, attempt.load, now)

    cdef uint64_t due(self, Exchange exchange) noexcept:
        """The request's own `timeout` counts from its beginning."""
        if not self.has_timeout():
            return exchange.expires
        return min(exchange.expires, time_after(exchange.started, self.request.timeout_us))

    cdef bint has_timeout(self) noexcept:
        return self.request is not None and self.request.timeout_us != 0

    cdef bint repeatable(self) noexcept:
        """An inference is a pure function of its request: asking another endpoint as well does no harm. The exception
        is a sequence, whose state lives in one endpoint. Management calls only read."""
        return self.request is None or len(self.request.sequence) == 0

    cdef bytes model(self):
        return self.name

    cdef bytes counted(self, Exchange exchange, int64_t *rows):
        if self.request is not None:
            rows[0] = self.request.batch
        return self.name

    cdef void told(self, Exchange exchange, int status, str message, bytes reply) noexcept:
        self.question = None
        exchange.grpc_status = <short>status
        if self.name is not None:
            description_told(self, exchange, status, message, reply)
        else:
            management_answered(self, exchange, status, message, reply)

    cdef void deliver(self, Exchange exchange, const char *message, size_t size) noexcept:
        answer(self, exchange, message, size)

    cdef bint send(self, Exchange exchange, InferRequest request) noexcept:
        self.request = request
        return True

    cdef bint copy_request(self, Exchange exchange, tg_buffer *into) noexcept:
        cdef int i
        if tg_buffer_reserve(into, self.request.message_size) < 0:
            return False
        for i in range(self.request.part_count):
            if tg_buffer_append(into, self.request.parts[i].iov_base, self.request.parts[i].iov_len) < 0:
                return False
        return True

    cdef int digest_under(self, Exchange exchange, const unsigned char *secret, unsigned char *key) noexcept:
        return self.request.digest(secret, key)

    cdef void refuse(self, Exchange exchange, int grpc_status, str message) noexcept:
        answer_error(exchange, grpc_status, message)

    cdef void append_fields(self, Exchange exchange, tg_buffer *head) noexcept:
        if self.token is not None:            # no cache keeps for others that there is nothing, or not for this client
            append_text(head, b"Cache-Control: no-store\r\n")
        else:
            CachedBody.append_fields(self, exchange, head)

    cdef void leave(self, Exchange exchange) noexcept:
        if self.question is not None:
            self.question.exchange = None
        if self.work is not None:
            self.work.exchange = None
            self.work = None
        leave_flight(self, exchange)


cdef void end_body(void *body) noexcept:
    tg_buffer_free(&(<InferenceBody>body).body)
    tg_buffer_free(&(<InferenceBody>body).plain)


tg_end_by(<PyTypeObject *>InferenceBody, end_body)
tg_reuse(<PyTypeObject *>InferenceBody)


cdef enum:
    M_GET = 1                         # llhttp's numbers
    M_HEAD = 2
    M_POST = 3


cdef bint read_request_head(InferenceBody body, Exchange exchange, Scan *scan) noexcept:
    cdef span model, version, token
    cdef const char *query = <const char *>memchr(scan.target, 63, scan.target_length)
    cdef size_t path_length = scan.target_length if query == NULL else <size_t>(query - scan.target)
    cdef Field *field
    cdef int64_t length
    cdef const char *verb
    cdef size_t verb_length
    cdef int matched = NO_MATCH
    if exchange.method == M_POST:
        matched = match_infer(scan.target, path_length, &model, &version)
    elif exchange.route.results_by_get and (exchange.method == M_GET or exchange.method == M_HEAD):
        matched = match_result(scan.target, path_length, &model, &version, &token)
    try:
        if matched:
            if exchange.method != M_POST:
                body.token = token.data[:token.size]
            body.name = decode_model(&model) if matched == MATCH_ESCAPED else model.data[:model.size]
            body.version = version.data[:version.size]
        elif exchange.method == M_POST:
            body.generates = generate.target_of(scan.target[:path_length])
            if body.generates is not None:
                body.name, body.version = body.generates.model, body.generates.version
    except TidegateError as failure:
        exchange.fail(failure.failure.kind, str(failure))
        return False
    if body.name is not None:
        body.coding = <unsigned char>wanted_coding(scan)
        read_cache_fields(body, exchange, scan)
        if body.token is not None:
            return read_result_head(body, exchange, scan)
        if exchange.pool.models is not None:
            exchange.want_model(body.name)
    else:
        body.path = scan.target[:path_length]
        verb = method_text(scan, exchange.method, &verb_length)
        body.verb = verb[:verb_length]
    if scan.first[H_CONTENT_ENCODING] >= 0:
        field = &scan.fields[scan.first[H_CONTENT_ENCODING]]
        body.encoding = field.value[:field.value_length].lower()
    if scan.first[H_INFERENCE_LENGTH] >= 0:
        field = &scan.fields[scan.first[H_INFERENCE_LENGTH]]
        length = parse_decimal(field.value, field.value_length)
        if length < 0:
            exchange.fail(FAIL_BAD_REQUEST, "Inference-Header-Content-Length is not a number")
            return False
        body.json_length = <Py_ssize_t>length
    return True


cdef bint read_result_head(InferenceBody body, Exchange exchange, Scan *scan) noexcept:
    body.asked_model = body.name
    body.asked_version = body.version
    body.query = read_query(scan)
    if body.query is None:
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
        return False
    return True


cdef int wanted_coding(Scan *scan) noexcept:
    cdef tg_accepted accepted
    cdef Field *field
    cdef int i
    memset(&accepted, 0, sizeof(accepted))
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 15 and same_name(field.name, 15, b"accept-encoding"):
            accept_codings(&accepted, field.value, field.value_length)
    return best_coding(&accepted)


@cython.final
cdef class BodyWork(Work):
    cdef bint go_on(self, uint64_t until) noexcept:
        cdef Exchange exchange = self.exchange
        cdef InferenceBody body = self.body
        if exchange is None or exchange.state == X_DONE:
            return True
        exchange.client.poller.now = monotonic_ns()
        try:
            if not read_request_body(body, exchange, until):
                return False
        except Exception as failure:          # nothing above takes it: the exchange would never end
            body.work = None
            fail_to_read(exchange, failure)
            return True
        body.work = None
        if body.name is None:
            run_management(body, exchange)
        elif body.request is None:
            run_described(body, exchange)
        else:
            body.proceed(exchange)
        return True


cdef void fail_to_read(Exchange exchange, object failure) noexcept:
    if isinstance(failure, TidegateError):
        exchange.fail(failure.failure.kind, str(failure))
    elif isinstance(failure, MemoryError):
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
    else:
        log.error("an inference request could not be read", exc_info=failure)
        exchange.fail(FAIL_INTERNAL, "internal error")


cdef void begin_work(InferenceBody body, Exchange exchange) noexcept:
    """Most bodies are read when this returns."""
    cdef BodyWork work
    if body.name is not None and body.encoding is None and body.generates is None and body.json_length != 0:
        try:
            body.request = remembered(body.name, body.version, tg_buffer_head(&body.body), tg_buffer_size(&body.body),
                                      body.json_length)
        except Exception as failure:          # as in BodyWork
            fail_to_read(exchange, failure)
            return
        if body.request is not None:
            body.proceed(exchange)
            return
    work = BodyWork.__new__(BodyWork)
    work.exchange = exchange
    work.body = body
    body.work = work
    body.context.works.begin(work)
    if body.work is work:
        exchange.arm_wait()


cdef bint read_request_body(InferenceBody body, Exchange exchange, uint64_t until) except -1:
    """Goes on until it is read, and then returns True, or until the clock says so. Raises TidegateError,
    MemoryError."""
    cdef const char *data
    cdef size_t size
    if body.encoding is not None and body.encoding != b"identity" and not decode_body(body, exchange, until):
        return False
    if body.reading is None:
        if body.name is None:
            return count_posted(body, until)
        if body.json_length == 0 or body.generates is not None:
            return True
        data = tg_buffer_head(&body.body)
        size = tg_buffer_size(&body.body)
        body.reading = begin_reading(body.name, body.version, data, size, body.json_length)
        body.reading.gives_back = True
    if not body.reading.go_on(until):
        return False
    body.request = body.reading.request
    body.reading = None
    return True


cdef bint count_posted(InferenceBody body, uint64_t until) except -1:
    """Goes on with counting the values of a body that loads a model, which alone may be large."""
    cdef size_t size = tg_buffer_size(&body.body)
    cdef int result = READ_MORE
    if not LARGEST_BODY < size <= LARGEST_LOAD_BODY or LOAD.fullmatch((<bytes>body.path).decode("latin-1")) is None:
        return True
    if body.counted_values is None:
        body.counted_values = count_values(tg_buffer_head(&body.body), size, LOAD_VALUES)
    while result == READ_MORE:
        result = body.counted_values.go_on(COUNTED_AT_ONCE)
        if result == READ_REFUSED:
            raise body.counted_values.refusal()
        if result == READ_MORE and monotonic_ns() >= until:
            return False
    body.counted_values = None
    return True


cdef bint decode_body(InferenceBody body, Exchange exchange, uint64_t until) except -1:
    """Goes on with taking the encoding off."""
    cdef DecompressionRules rules = exchange.route.decompression
    cdef bytes piece
    if body.pieces is None:
        coded = memoryview(b"")
        if tg_buffer_size(&body.body):
            coded = PyMemoryView_FromMemory(
                tg_buffer_head(&body.body), <Py_ssize_t>tg_buffer_size(&body.body), PyBUF_READ)
        body.pieces = decompressed(body.encoding, coded, exchange.route.max_body,
                                   RATIO if rules is None else rules.max_ratio)
    for piece in body.pieces:
        if tg_buffer_append(&body.plain, <const char *>piece, <size_t>len(piece)) < 0:
            raise MemoryError
        if monotonic_ns() >= until:
            return False
    body.pieces = None
    body.encoding = None
    tg_buffer_free(&body.body)
    body.body = body.plain
    memset(&body.plain, 0, sizeof(body.plain))
    return True


cdef tuple description_key(InferenceBody body, Exchange exchange):
    return exchange.pool.name, body.name, body.version


cdef dict descriptions(InferenceBody body):
    return body.context.raw_inputs if body.generates is None else body.context.schemas


cdef void run_described(InferenceBody body, Exchange exchange) noexcept:
    description = descriptions(body).get(description_key(body, exchange))
    if description is None:
        body.question = put_question(body.context.ask, exchange, "ModelMetadata", description_request(body, False))
    else:
        read_described(body, exchange, description)


cdef bytes description_request(InferenceBody body, bint config):
    model = body.name.decode("utf-8", "replace")
    kind = wire.ModelConfigRequest if config else wire.ModelMetadataRequest
    return kind(name=model, version=body.version.decode()).SerializeToString()


cdef void description_told(InferenceBody body, Exchange exchange, int status, str message, bytes reply) noexcept:
    cdef dict known = descriptions(body)
    cdef bytes metadata = body.metadata
    # A server without configurations says nothing of a batch, and has no decoupled models.
    if status != 0 and not (metadata is not None and status == GRPC_UNIMPLEMENTED):
        answer_error(exchange, status, message)
        return
    if metadata is None:
        body.metadata = reply
        body.question = put_question(body.context.ask, exchange, "ModelConfig", description_request(body, True))
        return
    body.metadata = None
    exchange.grpc_status = -1                 # of no endpoint that was picked
    config = reply if status == 0 else None
    try:
        description = raw_input(metadata, config) if body.generates is None else generate.schema_of(metadata, config)
    except TidegateError as failure:
        exchange.fail(failure.failure.kind, str(failure))
        return
    if len(known) >= MOST_DESCRIPTIONS:
        known.clear()
    known[description_key(body, exchange)] = description
    exchange.client.poller.arm(exchange, exchange.expires)
    read_described(body, exchange, description)


cdef void read_described(InferenceBody body, Exchange exchange, object description) noexcept:
    """Goes on with the request, or the exchange has failed."""
    try:
        if body.generates is None:
            read_raw(body, description)
        else:
            body.streams = body.generates.stream or description.decoupled
            body.reading = begin_generate(body.name, body.version, tg_buffer_head(&body.body),
                                          tg_buffer_size(&body.body), description)
            body.reading.gives_back = True
    except Exception as failure:              # as in BodyWork
        fail_to_read(exchange, failure)
        return
    if body.reading is None:
        body.proceed(exchange)
    else:
        begin_work(body, exchange)


cdef object read_raw(InferenceBody body, object raw):
    """Raises TidegateError, MemoryError."""
    cdef size_t size = tg_buffer_size(&body.body)
    cdef uint32_t prefix = <uint32_t>size
    cdef tg_buffer prefixed
    memset(&prefixed, 0, sizeof(prefixed))
    header = raw.header(size)
    if raw.prefixed:
        if (tg_buffer_append(&prefixed, &prefix, sizeof(prefix)) < 0
                or tg_buffer_append(&prefixed, tg_buffer_head(&body.body), size) < 0):
            tg_buffer_free(&prefixed)
            raise MemoryError
        tg_buffer_free(&body.body)
        body.body = prefixed
    body.request = parse_raw(body.name, body.version, header, tg_buffer_head(&body.body), tg_buffer_size(&body.body))


cdef void forget_description(InferenceBody body, Exchange exchange, int grpc_status) noexcept:
    if (body.generates is not None or body.json_length == 0) and (
            grpc_status in (GRPC_INVALID_ARGUMENT, GRPC_NOT_FOUND, GRPC_UNIMPLEMENTED)):
        descriptions(body).pop(description_key(body, exchange), None)


cdef void take_streamed(InferenceBody body, Exchange exchange, const char *message, size_t size) noexcept:
    cdef bytes made, inner
    cdef InferResponse response
    cdef str problem
    try:
        problem, inner = generate.split(message[:size] if size else b"")
    except TidegateError as failure:
        exchange.fail(failure.failure.kind, str(failure))
        return
    if problem:
        if not body.generates.stream:
            exchange.fail_with(FAIL_MODEL_ERROR, UNKNOWN_ERROR, problem)
            return
        made = generate.error(problem)
    else:
        response = rendered(body, exchange, <const char *>inner, <size_t>len(inner))
        if response is None:
            return
        try:
            made = generate.answer(response.body())
        except TidegateError as failure:
            exchange.fail(failure.failure.kind, str(failure))
            return
        except Exception:                     # nothing above takes it: the exchange would never end
            log.exception("an answer to a generate request could not be made")
            exchange.fail(FAIL_INTERNAL, "internal error")
            return
    if not body.generates.stream:
        if body.single is not None:
            exchange.fail_with(FAIL_MODEL_ERROR, http_of_grpc(GRPC_INTERNAL), generate.ONE)
        body.single = made
        return
    if exchange.state != X_ANSWERING:
        # The status of an answer that begins with an error says so.
        begin_events(exchange, UNKNOWN_ERROR if problem else 200)
    send_event(exchange, made)


cdef void begin_events(Exchange exchange, int status) noexcept:
    cdef Scan scan
    cdef tg_buffer extra
    cdef bytes kind = generate.EVENTS.encode()
    exchange.status = <short>status
    exchange.first_byte_at = exchange.client.poller.now
    exchange.move(X_ANSWERING)
    memset(&extra, 0, sizeof(extra))
    scan_begin(&scan)
    scan.version = 20                         # its reason phrase is ours
    scan.status = status
    scan.has_length = scan.chunked = scan.complete = scan.websocket = False
    scan.span_count = scan.trailer_count = 0
    scan.max_fields = MAX_FIELDS
    scan_field(&scan, b"content-type", 12, <const char *>kind, <size_t>len(kind))
    scan_field(&scan, b"cache-control", 13, b"no-cache", 8)
    exchange.append_endpoint(&extra)
    exchange.change_answer(&scan)
    exchange.client.respond(&scan, &extra, False)
    tg_buffer_free(&extra)


cdef void send_event(Exchange exchange, bytes data) noexcept:
    cdef bytes text = generate.event(data)
    cdef iovec part
    part.iov_base = <char *>text
    part.iov_len = <size_t>len(text)
    exchange.bytes_out += part.iov_len
    exchange.arm_wait()
    exchange.client.respond_body(&part, 1)


cdef void send_error(Exchange exchange, str message) noexcept:
    send_event(exchange, generate.error(message))


cdef void end_streamed(InferenceBody body, Exchange exchange) noexcept:
    cdef tg_buffer head
    cdef iovec whole
    if body.generates.stream:
        if exchange.state != X_ANSWERING:
            begin_events(exchange, 200)       # a model may have nothing to say
        if exchange.state != X_DONE:
            exchange.end()
        return
    if body.single is None:
        exchange.fail_with(FAIL_MODEL_ERROR, http_of_grpc(GRPC_INTERNAL), generate.ONE)
        return
    exchange.status = 200
    exchange.let_go(True)
    memset(&head, 0, sizeof(head))
    whole.iov_base = <char *>body.single
    whole.iov_len = <size_t>len(body.single)
    append_text(&head, b"Content-Type: application/json\r\n")
    respond_with(body, exchange, &head, &whole, 1, whole.iov_len)
    tg_buffer_free(&head)


cdef void answer_error(Exchange exchange, int grpc_status, str message) noexcept:
    exchange.fail_with(FAIL_MODEL_ERROR, http_of_grpc(grpc_status), message or "the model server gave no reason")


cdef void answer(InferenceBody body, Exchange exchange, const char *message, size_t size) noexcept:
    cdef InferResponse response
    if exchange.state == X_DONE:
        return
    response = rendered(body, exchange, message, size)
    if response is not None:
        respond(body, exchange, response)


cdef InferResponse rendered(InferenceBody body, Exchange exchange, const char *message, size_t size):
    """The codec's form of the answer; None when it has none, and the exchange has failed."""
    try:
        return (render_again if exchange.cache == CACHE_HIT else render)(body.request, message, size)
    except Exception as failure:              # nothing above takes it: the exchange would never end
        fail_to_render(exchange, failure)
    return None


cdef void fail_to_render(Exchange exchange, object failure) noexcept:
    if isinstance(failure, TidegateError):
        exchange.fail(failure.failure.kind, str(failure))
    elif isinstance(failure, MemoryError):
        exchange.fail(FAIL_NO_MEMORY, "out of memory")
    else:
        log.error("an inference answer could not be rendered", exc_info=failure)
        exchange.fail(FAIL_INTERNAL, "internal error")


cdef void respond(InferenceBody body, Exchange exchange, InferResponse response) noexcept:
    """The answer, compressed where the client wants that, with what RFC 9211 says of the cache."""
    cdef tg_buffer head
    cdef iovec whole
    cdef const iovec *parts = response.parts
    cdef int count = response.part_count
    cdef bytes packed = None
    cdef uint64_t size = response.size
    memset(&head, 0, sizeof(head))
    if body.generates is not None:
        try:
            packed = generate.answer(response.body())
        except TidegateError as failure:
            exchange.fail(failure.failure.kind, str(failure))
            return
        except Exception:                     # nothing above takes it: the exchange would never end
            log.exception("an answer to a generate request could not be made")
            exchange.fail(FAIL_INTERNAL, "internal error")
            return
        whole.iov_base = <char *>packed
        whole.iov_len = <size_t>len(packed)
        append_text(&head, b"Content-Type: application/json\r\n")
        respond_with(body, exchange, &head, &whole, 1, whole.iov_len)
        tg_buffer_free(&head)
        return
    if LEAST <= size <= MOST:
        append_text(&head, b"Vary: Accept-Encoding\r\n")
        if body.coding != CODING_IDENTITY:
            packed = compressed(response, b"gzip" if body.coding == CODING_GZIP else b"deflate")
    if packed is not None:
        append_text(&head, b"Content-Encoding: ")
        append_text(&head, b"gzip\r\n" if body.coding == CODING_GZIP else b"deflate\r\n")
        whole.iov_base = <char *>packed
        whole.iov_len = size = <uint64_t>len(packed)
        parts = &whole
        count = 1
    if response.json_length < 0:
        append_text(&head, b"Content-Type: application/json\r\n")
    else:
        append_text(&head, b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: ")
        append_number(&head, <uint64_t>response.json_length)
        append_text(&head, b"\r\n")
    respond_with(body, exchange, &head, parts, count, size)
    tg_buffer_free(&head)


cdef void respond_with(InferenceBody body, Exchange exchange, tg_buffer *head, const iovec *parts, int count,
                       uint64_t size) noexcept:
    append_own_fields(body, exchange, head)
    exchange.status = 200
    exchange.bytes_out = size
    exchange.record()
    exchange.client.respond_whole(200, head, parts, count)


cdef void append_own_fields(InferenceBody body, Exchange exchange, tg_buffer *head) noexcept:
    if body.token is not None:
        append_result_fields(body, exchange, body.query, head)
        if exchange.route.cors is not None:
            exchange.append_cors(head, False)
    else:
        exchange.append_endpoint(head)
        if body.generates is None:
            append_location(body, exchange, head)
        if body.digest is not None:
            append_tags(body, exchange.pool, head)
    exchange.append_changes(head)
    append_cache_status(body, exchange, head)


cdef void answer_result(InferenceBody body, Exchange exchange) noexcept:
    """What others get may be of this answer: nothing is said that is this client's alone, such as its cookie or what
    the rate limit leaves to it."""
    cdef tg_buffer message
    cdef tg_found found
    cdef InferResponse response
    memset(&message, 0, sizeof(message))
    if not find_result(body, exchange, body.query, &message, &found):
        tg_buffer_free(&message)
        exchange.fail_with(FAIL_NOT_CACHED, NOT_FOUND, "there is no such result: it was never there, or is no more")
        return
    note_found(body, exchange, &found)
    exchange.cache = CACHE_HIT
    response = rendered_result(body, exchange, tg_buffer_head(&message), tg_buffer_size(&message))
    if response is not None and is_known(body.query):
        respond_not_modified(body, exchange, response)
    elif response is not None:
        respond(body, exchange, response)
    tg_buffer_free(&message)


cdef void respond_not_modified(InferenceBody body, Exchange exchange, InferResponse response) noexcept:
    cdef tg_buffer head
    memset(&head, 0, sizeof(head))
    if LEAST <= response.size <= MOST:
        append_text(&head, b"Vary: Accept-Encoding\r\n")
    append_own_fields(body, exchange, &head)
    exchange.status = NOT_MODIFIED
    exchange.record()
    exchange.client.respond_whole(NOT_MODIFIED, &head, NULL, 0)
    tg_buffer_free(&head)


cdef InferResponse rendered_result(InferenceBody body, Exchange exchange, const char *message, size_t size):
    """As for a request that says nothing of the answer's form. None when it has none, and the exchange has failed."""
    try:
        return render(parse_http(body.name, body.version, PLAIN, <size_t>len(PLAIN), -1), message, size)
    except OipError:
        exchange.fail_with(FAIL_BAD_REQUEST, NOT_ACCEPTABLE, "the result has bytes that are not UTF-8 text, which JSON "
                           "cannot hold: ask for it by POST as binary data (parameter binary_data)")
    except Exception as failure:              # as in `rendered`
        fail_to_render(exchange, failure)
    return None


cdef uint64_t LEAST = COMPRESS_LEAST
cdef uint64_t MOST = COMPRESS_MOST


cdef bytes compressed(InferResponse response, bytes encoding):
    """The body in that encoding; None where it would not be shorter, or memory is short."""
    cdef int i
    cdef const iovec *parts = response.parts
    cdef bytes packed
    try:
        packed = compress(encoding, [
            PyMemoryView_FromMemory(<char *>parts[i].iov_base, <Py_ssize_t>parts[i].iov_len, PyBUF_READ)
            for i in range(response.part_count)
        ])
    except MemoryError:
        return None
    return packed if <uint64_t>len(packed) < response.size else None


cdef void run_management(InferenceBody body, Exchange exchange) noexcept:
    cdef size_t size = tg_buffer_size(&body.body)
    posted = b""
    if size:
        posted = PyMemoryView_FromMemory(tg_buffer_head(&body.body), <Py_ssize_t>size, PyBUF_READ)
    made = management.route(body.verb.decode(), (<bytes>body.path).decode("latin-1"), posted,
                            exchange.route.server_calls, exchange.pool.sequences is not None)
    if isinstance(made, management.Reply):
        answer_management(exchange, made)
        return
    body.management = made
    if made.method in (b"ServerLive", b"ServerReady") and answers_probes(exchange.pool):
        # Probes come all the time: passed on they would keep a model server, wake one, or wait for one.
        well = made.method == b"ServerLive" or exchange.pool.welcomes_requests()
        answer_management(exchange, made.render(0, "", HEALTHY if well else b""))
        return
    if made.whole_pool:
        body.question = put_question(body.context.ask, exchange, made.method.decode(), made.request)
        if made.changes and exchange.state == X_REQUEST:
            exchange.client.poller.arm(exchange, exchange.expires)    # model servers take as long as they do
        return
    body.any_endpoint = True                  # an inference cannot be answered where the model is not ready, this can
    if exchange.pool.models is not None and made.model:
        exchange.want_model(made.model.encode())
    exchange.pick()


cdef void management_answered(InferenceBody body, Exchange exchange, int status, str message, bytes reply) noexcept:
    try:
        made = body.management.render(status, message, reply)
    except Exception:
        log.exception("the answer to %s could not be made", body.path)
        exchange.fail(FAIL_INTERNAL, "internal error")
        return
    answer_management(exchange, made)


cdef void answer_management(Exchange exchange, object reply) noexcept:
    cdef tg_buffer head
    cdef iovec part
    cdef bytes text = reply.body
    cdef bytes kind = reply.content_type.encode()
    cdef bytes allow = reply.allow.encode()
    memset(&head, 0, sizeof(head))
    if kind:
        append_text(&head, b"Content-Type: ")
        tg_buffer_append(&head, <const char *>kind, <size_t>len(kind))
        append_text(&head, b"\r\n")
    if allow:
        append_text(&head, b"Allow: ")
        tg_buffer_append(&head, <const char *>allow, <size_t>len(allow))
        append_text(&head, b"\r\n")
    exchange.append_endpoint(&head)
    exchange.append_changes(&head)
    part.iov_base = <char *>text
    part.iov_len = <size_t>len(text)
    if reply.failure:
        exchange.note_failure(reply.failure)
    exchange.status = reply.status
    exchange.bytes_out = part.iov_len
    exchange.record()
    exchange.client.respond_whole(exchange.status, &head, &part, 1)
    tg_buffer_free(&head)
