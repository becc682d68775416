"""An exchange with a pool that speaks the Open Inference Protocol.

    begin            the path names the model; the body is gathered
    run              the codec turns JSON or binary tensors into one canonical gRPC message
    through_cache    a repeated request is answered here; identical misses wait for the first
    launch           the policy has picked an endpoint; its gRPC connection carries the message
    answered         the codec turns the gRPC answer into what the client asked for

What is no inference, such as a model's metadata, goes the same way past codec and cache.
"""

import logging
from lb.errors import TidegateError
from lb.inference import management
from lb.inference.compression import decompress

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memset
from lb.cache.flight cimport Flights
from lb.cache.store cimport ResultCache
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
    tg_buffer_tail,
)
from lb.shared.hashing cimport hash64
from lb.http.head cimport H_CONTENT_ENCODING, H_INFERENCE_LENGTH, Field, Scan, parse_decimal
from lb.http.head_text cimport append_number, append_text
from lb.http.methods cimport method_text
from lb.net.poller cimport Poller
from lb.http.grpc.protobuf cimport span
from lb.shared.segment cimport (
    TG_S_CACHE_STORED, TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, TG_S_TIMEOUTS, Segment, tg_add,
)
from lb.net.stream cimport Address, iovec
from lb.inference.paths cimport MATCH_ESCAPED, NO_MATCH, decode_model, match_infer
from lb.inference.request cimport parse_http
from lb.inference.response cimport InferResponse, render, store_form
from lb.http.grpc.http_status cimport http_status
from lb.proxy.exchange.exchange cimport (
    CACHE_BYPASS, CACHE_COLLAPSED, CACHE_HIT, CACHE_MISS, X_DONE, X_REQUEST, X_WAITING, Exchange, goes_on,
    learn_session, may_leave,
)
from lb.proxy.exchange.mirror.inference cimport mirror_inference
from lb.proxy.exchange.retry cimport RETRY_5XX, RETRY_CONNECT, RETRY_RESET, RETRY_TIMEOUT
from lb.proxy.exchange.attempts cimport Hedge, TryingExchange
from lb.upstream.load.cost cimport UNIT_BYTES, PoolCosts
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET, FAIL_TIMEOUT, FAIL_TOO_LARGE
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.load.load_report cimport REPORT_BINARY, REPORT_NAMED, read_report, tg_load
from lb.upstream.load.outlier cimport verdict_of_grpc
from lb.upstream.pool cimport KEY_MODEL, Pool

log = logging.getLogger("tidegate.proxy")


cdef enum:
    MAX_REPLY = 256 * 1024 * 1024
    RESERVE = 16 * 1024 * 1024        # of a body, at its beginning: memory is taken when it is touched
    GRPC_CANCELLED = 1
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_UNAVAILABLE = 14

cdef const char *INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"
cdef size_t INFER_PATH_LENGTH = 42


cdef class InferContext:
    """What the inference exchanges of a worker share: the cache, and the flights that collapse identical misses."""

    def __init__(self, Poller poller, Segment segment):
        self.poller = poller
        self.segment = segment
        self.flights = Flights()

    def __dealloc__(self):
        tg_buffer_free(&self.stored)

    def prepare(self, plan):
        """Whatever of a new plan can fail is done here, before anything is changed."""
        if plan.cache is not None and self.cache is None:
            self.cache = ResultCache(self.segment, plan.cache.max_object)

    def commit(self, plan):
        if plan.cache is None:
            self.cache = None

    def channel(self, Address address, uint64_t connect_timeout):
        """A gRPC connection to an endpoint: one for all exchanges of this worker."""
        return Http2Channel(self.poller, address, connect_timeout, MAX_REPLY)

    def new(self):
        """An exchange, to be bound to its client and route by the connection."""
        cdef InferExchange exchange = InferExchange.__new__(InferExchange)
        exchange.context = self
        exchange.json_length = -1
        exchange.model_status = -1
        return exchange


cdef class InferCall(GrpcCall):

    cdef void sent_again(self) noexcept:
        if self.exchange is not None:
            self.exchange.count_again(self.hedge)

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        cdef InferExchange exchange = self.exchange
        cdef Hedge hedge = self.hedge
        if exchange is None:
            return
        self.exchange = None
        if hedge is None or exchange.hedge_answer(
                hedge, status == 0, http_status(status) if status else 200, status):
            exchange.answered(status, message, n)

    cdef void on_failed(self, int kind) noexcept:
        cdef InferExchange exchange = self.exchange
        cdef Hedge hedge = self.hedge
        if exchange is None:
            return
        self.exchange = None
        if hedge is None:
            exchange.call_failed(kind)
        else:
            self.hedge = None
            hedge.call = None
            exchange.hedge_failed(hedge, kind)


cdef class InferExchange(TryingExchange):

    def __dealloc__(self):
        tg_buffer_free(&self.body)

    # The request, on its way in.

    cdef void begin(self, Scan *scan) noexcept:
        cdef uint64_t expected
        if not read_request_head(self, scan):
            return
        if self.pool.key_kind == KEY_MODEL:
            self.key = hash64(<const char *>self.model, <size_t>len(self.model)) if self.model is not None else 0
            if self.pool.sticky:
                self.read_kept(scan)
        else:
            self.key = self.find_key(scan)
        self.move(X_REQUEST)
        if scan.has_length:
            # Checked against max_body at admission; a lying client gets no more memory than it sends.
            expected = min(scan.content_length, <uint64_t>RESERVE)
            if tg_buffer_reserve(&self.body, expected) < 0:
                self.fail(503, b"no-memory", "out of memory")

    cdef char *body_place(self, size_t size) noexcept:
        if self.state != X_REQUEST or tg_buffer_reserve(&self.body, size) < 0:
            return NULL
        return tg_buffer_tail(&self.body)

    cdef void request_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef int i
        if self.state != X_REQUEST:
            return
        if (count == 1 and spans[0].iov_base == tg_buffer_tail(&self.body)
                and size <= self.body.capacity - self.body.end):
            self.body.end += size             # received where `body_place` said
            count = 0
        for i in range(count):
            if tg_buffer_append(&self.body, spans[i].iov_base, spans[i].iov_len) < 0:
                self.fail(503, b"no-memory", "out of memory")
                return
        if last:
            self.request_complete = True
            self.wants_body = False
            self.run()

    cdef void run(self) noexcept:
        """The request is here: make its message, look in the cache, else ask an endpoint."""
        if not read_request_body(self):
            return
        if self.model is None:
            run_management(self)
            return
        if len(self.request.sequence) and self.pool.sequences is not None and not self.join(self.request):
            return
        through_cache(self)

    cdef bint join(self, InferRequest request) noexcept:
        cdef bytes version = request.version
        cdef uint64_t key = self.pool.sequences.key_of(
            <const char *>self.model, <size_t>len(self.model), <const char *>version, <size_t>len(version),
            <const char *>request.sequence, <size_t>len(request.sequence))
        return self.join_sequence(key, request.sequence_start, request.sequence_end)

    # The endpoint.

    cdef double units(self) noexcept:
        if self.pool.costs.unit == UNIT_BYTES:
            return self.pool.costs.units_of_bytes(tg_buffer_size(&self.body))
        return 1.0 if self.request is None else <double>self.request.batch

    cdef int price(self, uint64_t now) noexcept:
        cdef PoolCosts costs = self.pool.costs
        cdef uint64_t key = 0
        if self.request is not None:
            key = costs.model_key(<const char *>self.model, <size_t>len(self.model))
        return costs.price(self.units(), key, now)

    cdef void learn_cost(self) noexcept:
        cdef PoolCosts costs = self.pool.costs
        cdef uint64_t now = self.client.poller.now
        cdef size_t n = <size_t>len(self.model)
        cdef uint64_t key = costs.model_key(<const char *>self.model, n)
        if key:
            costs.learn(key, <const char *>self.model, n, self.units(), now - self.picked_at, self.charged, self.crowd,
                        now)

    cdef uint64_t due(self) noexcept:
        """The request's own `timeout` counts from its beginning."""
        if self.request is None or not self.request.timeout_us:
            return self.expires
        return min(self.expires, self.started + self.request.timeout_us * 1000)

    cdef void launch(self) noexcept:
        cdef InferCall call = InferCall.__new__(InferCall)
        self.call = call
        self.model_status = -1
        self.move(X_WAITING)
        if not self.send_call(call, self.pool, self.endpoint):
            self.fail(503, b"no-memory", "out of memory")
            return
        if self.request is not None and self.route.mirror is not None and self.tries == 1:
            mirror_inference(self.route.mirror, self.client.poller, call.parts, call.part_count, call.message_size,
                             INFER_PATH, INFER_PATH_LENGTH, self.key)
        if self.route.hedge is not None:
            self.watch()

    cdef bint send_call(self, InferCall call, Pool pool, int endpoint) noexcept:
        cdef bytes path
        cdef int failed
        cdef uint64_t deadline = self.due()
        cdef uint64_t now = self.client.poller.now
        cdef uint64_t limit = self.try_limit()
        if limit and now + limit < deadline:
            deadline = now + limit
        if self.request is not None:
            call.parts = self.request.parts
            call.part_count = self.request.part_count
            call.message_size = self.request.message_size
            failed = call.call_path(INFER_PATH, INFER_PATH_LENGTH)
        else:
            call.single.iov_base = <char *><bytes>self.management.request
            call.single.iov_len = <size_t>len(<bytes>self.management.request)
            call.parts = &call.single
            call.part_count = 1
            call.message_size = call.single.iov_len
            path = <bytes>self.management.grpc_path
            failed = call.call_path(<const char *>path, <size_t>len(path))
        if failed < 0:
            return False
        call.exchange = self
        call.due = deadline
        (<Http2Channel>pool.channels[endpoint]).start(call, deadline)
        return True

    cdef bint repeatable(self) noexcept:
        """An inference is a pure function of its request: asking another endpoint as well does no harm. The exception
        is a sequence, whose state lives in one endpoint. Management calls only read."""
        return self.request is None or len(self.request.sequence) == 0

    cdef bint launch_hedge(self, Hedge hedge) noexcept:
        cdef InferCall call = InferCall.__new__(InferCall)
        call.hedge = hedge
        hedge.call = call
        if self.send_call(call, hedge.pool, hedge.endpoint):
            return True
        call.hedge = None
        hedge.call = None
        return False

    cdef void cancel_hedge(self, Hedge hedge) noexcept:
        cdef InferCall call = <InferCall>hedge.call
        if call is not None:
            hedge.call = None
            call.exchange = None
            call.hedge = None
            (<Http2Channel>hedge.pool.channels[hedge.endpoint]).cancel(call)

    cdef void cancel_try(self) noexcept:
        cdef InferCall call = self.call
        self.call = None
        if call is not None and call.exchange is not None:
            call.exchange = None
            (<Http2Channel>self.pool.channels[self.last_endpoint]).cancel(call)

    cdef void adopt(self, Hedge hedge) noexcept:
        self.call = <InferCall>hedge.call
        self.call.hedge = None
        hedge.call = None

    cdef bytes named_model(self):
        return self.model if self.model is not None else self.wanted_model

    cdef int final_grpc_status(self) noexcept:
        """The client speaks HTTP: the model server's, which it got as an HTTP status."""
        return self.model_status

    cdef int code_of_call(self, int code) noexcept:
        return code

    cdef int attempt_code(self, bint ok) noexcept:
        if self.status == 499:
            return GRPC_CANCELLED
        if self.model_status >= 0:
            return self.model_status
        return GRPC_DEADLINE_EXCEEDED if self.status == 504 else GRPC_UNAVAILABLE

    cdef int verdict(self, bint ok) noexcept:
        if ok and self.model_status >= 0 and self.status != 499:
            return verdict_of_grpc(self.model_status)
        return TryingExchange.verdict(self, ok)

    cdef void call_failed(self, int kind) noexcept:
        cdef uint64_t *words = self.pool.series[self.endpoint]
        self.model_status = -1
        if kind == FAIL_TIMEOUT:
            tg_add(&words[TG_S_TIMEOUTS], 1)
            self.status = 504
        else:
            tg_add(&words[TG_S_CONNECT_ERRORS if kind == FAIL_CONNECT else TG_S_RESPONSE_ERRORS], 1)
            self.status = 502
        self.let_go(False)
        if self.hedge_takes_over():
            return
        if self.may_retry(kind):
            self.next_try()
            return
        if self.bound >= 0 and kind == FAIL_CONNECT and not self.sequence_start:
            if not goes_on(self):
                self.fail_lost()
            return
        release_followers(self, GRPC_UNAVAILABLE, "")
        if kind == FAIL_TIMEOUT:
            tg_add(&self.route.series[TG_S_TIMEOUTS], 1)
            self.fail(504, b"timeout", "the model server did not answer in time")
        elif kind == FAIL_CONNECT:
            self.fail(502, b"connect", "could not connect to a model server")
        elif kind == FAIL_PROTOCOL:
            self.fail(502, b"upstream-protocol", "the model server's answer is not valid gRPC")
        elif kind == FAIL_TOO_LARGE:
            self.fail(502, b"upstream-too-large", "the model server's answer is over the limit")
        else:
            self.fail(502, b"upstream-reset", "the model server closed the connection without an answer")

    cdef bint may_retry(self, int kind) noexcept:
        """Whatever became of the first: see `repeatable`. What was not processed may go elsewhere in any case, but for
        later requests of a sequence."""
        cdef int rule = RETRY_CONNECT
        cdef bint processed = kind != FAIL_CONNECT and kind != FAIL_REFUSED
        if not (self.repeatable() if processed else may_leave(self)):
            return False
        if kind == FAIL_RESET:
            rule = RETRY_RESET | RETRY_5XX            # a server that goes away says UNAVAILABLE, or nothing
        elif kind == FAIL_TIMEOUT and self.route.retry is not None and self.client.poller.now < self.expires and not (
                self.request is not None and self.request.timeout_us):
            rule = RETRY_TIMEOUT
        elif processed:
            return False
        return self.retry_granted(rule, -1)

    cdef void cancel_upstream(self) noexcept:
        self.cancel_try()
        leave_flight(self)

    # The answer.

    cdef void answered(self, int status, const char *message, size_t n) noexcept:
        cdef InferCall call = self.call
        cdef InferResponse response
        cdef bytes reply
        cdef bint going
        if self.pool.policy.reads_reports and tg_buffer_size(&call.report):
            self.keep_report(call)
        self.model_status = <short>status
        if status == 0:
            if self.route.hedge is not None:
                self.own_answer()
            self.status = 200
            if self.pool.sessions is not None:
                learn_session(self, 200, NULL, 0)
            if self.pool.costs is not None and self.request is not None:
                self.learn_cost()
            self.let_go(True)
            if self.management is not None:
                reply = tg_buffer_head(&call.reply)[:tg_buffer_size(&call.reply)]
                management_answered(self, 0, "", reply)
                return
            response = rendered(self, tg_buffer_head(&call.reply), tg_buffer_size(&call.reply))
            if response is None:              # nothing to keep, and nothing for those who wait
                tg_add(&self.pool.series[self.last_endpoint][TG_S_RESPONSE_ERRORS], 1)
                return
            if self.digest is not None:
                store(self)
                land(self, tg_buffer_head(&call.reply), tg_buffer_size(&call.reply))
            respond(self, response)
            return
        if status == GRPC_DEADLINE_EXCEEDED and self.client.poller.now >= call.due:
            self.call_failed(FAIL_TIMEOUT)    # servers keep the time they are given, to less than our ticks
            return
        self.status = http_status(status)
        # A server that is going away says UNAVAILABLE before it is out of the pool, and CANCELLED, which we did not ask
        # for, of what it had taken just before (grpcio does).
        going = status == GRPC_UNAVAILABLE or status == GRPC_CANCELLED
        self.let_go(not going)
        if (going or self.route.retry is not None and self.route.retry.names_code(status)) and self.hedge_takes_over():
            return
        self.pushback = call.pushback
        if self.repeatable() and self.retry_granted(RETRY_RESET | RETRY_5XX if going else 0, status):
            self.next_try()
            return
        text = message[:n].decode("utf-8", "replace")
        release_followers(self, status, text)
        if self.management is not None:
            management_answered(self, status, text, b"")
            return
        answer_error(self, status, text)

    cdef void keep_report(self, InferCall call) noexcept:
        cdef tg_load load
        if self.endpoint >= 0 and read_report(REPORT_BINARY if call.report_binary else REPORT_NAMED,
                                              tg_buffer_head(&call.report), tg_buffer_size(&call.report),
                                              &load) and load.utilization > 0.0:
            self.pool.endpoints.set_report(self.endpoint, load.utilization, load.qps, load.eps, self.client.poller.now)

    cdef void model_not_ready(self) noexcept:
        """An inference cannot be answered. What else is asked of the model, such as whether it is ready, any endpoint
        can."""
        if self.management is None:
            Exchange.model_not_ready(self)
            return
        self.want_model(None)
        self.pick()


cdef enum:
    M_POST = 3                        # llhttp's number


cdef bint read_request_head(InferExchange exchange, Scan *scan) noexcept:
    cdef span model, version
    cdef const char *query = <const char *>memchr(scan.target, 63, scan.target_length)
    cdef size_t path_length = scan.target_length if query == NULL else <size_t>(query - scan.target)
    cdef Field *field
    cdef int64_t length
    cdef const char *verb
    cdef size_t verb_length
    cdef int matched = NO_MATCH
    if exchange.method == M_POST:
        matched = match_infer(scan.target, path_length, &model, &version)
    if matched:
        try:
            exchange.model = decode_model(&model) if matched == MATCH_ESCAPED else model.data[:model.size]
        except TidegateError as failure:
            exchange.fail(failure.status, b"bad-request", str(failure))
            return False
        exchange.version = version.data[:version.size]
        if exchange.pool.models is not None:
            exchange.want_model(exchange.model)
    else:
        exchange.path = scan.target[:path_length]
        verb = method_text(scan, exchange.method, &verb_length)
        exchange.verb = verb[:verb_length]
    if scan.first[H_CONTENT_ENCODING] >= 0:
        field = &scan.fields[scan.first[H_CONTENT_ENCODING]]
        exchange.encoding = field.value[:field.value_length].lower()
    if scan.first[H_INFERENCE_LENGTH] >= 0:
        field = &scan.fields[scan.first[H_INFERENCE_LENGTH]]
        length = parse_decimal(field.value, field.value_length)
        if length < 0:
            exchange.fail(400, b"bad-request", "Inference-Header-Content-Length is not a number")
            return False
        exchange.json_length = <Py_ssize_t>length
    return True


cdef bint read_request_body(InferExchange exchange) noexcept:
    cdef const char *data
    cdef size_t size
    cdef bytes plain
    try:
        if exchange.encoding is not None and exchange.encoding != b"identity":
            plain = tg_buffer_head(&exchange.body)[:tg_buffer_size(&exchange.body)]
            plain = decompress(exchange.encoding, plain, exchange.route.max_body)
            tg_buffer_clear(&exchange.body)
            if tg_buffer_append(&exchange.body, <const char *>plain, <size_t>len(plain)) < 0:
                raise MemoryError
        if exchange.model is None:
            return True
        data = tg_buffer_head(&exchange.body)
        size = tg_buffer_size(&exchange.body)
        exchange.request = parse_http(exchange.model, exchange.version, data, size, exchange.json_length)
    except TidegateError as failure:
        exchange.fail(failure.status, b"bad-request", str(failure))
        return False
    except MemoryError:
        exchange.fail(503, b"no-memory", "out of memory")
        return False
    except Exception:                     # nothing above takes it: the exchange would never end
        log.exception("an inference request could not be read")
        exchange.fail(500, b"internal", "internal error")
        return False
    return True


cdef void answer_error(InferExchange exchange, int grpc_status, str message) noexcept:
    exchange.fail(http_status(grpc_status), b"model-error", message or "the model server gave no reason")


cdef void answer(InferExchange exchange, const char *message, size_t size) noexcept:
    cdef InferResponse response
    if exchange.state == X_DONE:
        return
    response = rendered(exchange, message, size)
    if response is not None:
        respond(exchange, response)


cdef InferResponse rendered(InferExchange exchange, const char *message, size_t size):
    """The codec's form of the answer; None when it has none, and the exchange has failed."""
    try:
        return render(exchange.request, message, size)
    except TidegateError as failure:
        exchange.fail(failure.status, b"upstream-protocol", str(failure))
    except MemoryError:
        exchange.fail(503, b"no-memory", "out of memory")
    except Exception:                     # nothing above takes it: the exchange would never end
        log.exception("an inference answer could not be rendered")
        exchange.fail(500, b"internal", "internal error")
    return None


cdef void respond(InferExchange exchange, InferResponse response) noexcept:
    """The answer, with what RFC 9211 says of the cache."""
    cdef tg_buffer head
    memset(&head, 0, sizeof(head))
    if response.json_length < 0:
        append_text(&head, b"Content-Type: application/json\r\n")
    else:
        append_text(&head, b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: ")
        append_number(&head, <uint64_t>response.json_length)
        append_text(&head, b"\r\n")
    exchange.append_endpoint(&head)
    if exchange.route.response_fields is not None:
        exchange.route.response_fields.append(&head)
    if exchange.cache == CACHE_HIT:
        append_text(&head, b"Cache-Status: tidegate; hit\r\n")
    elif exchange.cache == CACHE_MISS:
        append_text(&head, b"Cache-Status: tidegate; fwd=miss")
        append_text(&head, b"; stored\r\n" if exchange.stored else b"\r\n")
    elif exchange.cache == CACHE_COLLAPSED:
        append_text(&head, b"Cache-Status: tidegate; fwd=miss; collapsed\r\n")
    elif exchange.cache == CACHE_BYPASS:
        append_text(&head, b"Cache-Status: tidegate; fwd=bypass\r\n")
    exchange.status = 200
    exchange.bytes_out = response.size
    exchange.call = None
    exchange.record()
    exchange.client.respond_whole(200, &head, response.parts, response.part_count)
    tg_buffer_free(&head)


cdef enum:
    GRPC_INVALID_ARGUMENT = 3
    GRPC_NOT_FOUND = 5
    GRPC_UNIMPLEMENTED = 12


cdef void through_cache(InferExchange exchange) noexcept:
    cdef unsigned char key[32]
    if exchange.context.cache is None:
        exchange.pick()
        return
    if not exchange.route.cache or not exchange.request.cacheable:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    if exchange.request.digest(<const unsigned char *><const char *>exchange.pool.cache_key, key) < 0:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    exchange.digest = (<char *>key)[:32]
    if not answer_from_cache(exchange):
        fly(exchange)


cdef bint answer_from_cache(InferExchange exchange) noexcept:
    cdef uint64_t age = 0, ttl = 0
    cdef Py_ssize_t size
    tg_buffer_clear(&exchange.context.stored)
    size = exchange.context.cache.get(<const unsigned char *><const char *>exchange.digest, exchange.client.poller.now,
                                      &exchange.context.stored, &age, &ttl)
    if size < 0:
        return False
    exchange.cache = CACHE_HIT
    answer(exchange, tg_buffer_head(&exchange.context.stored), <size_t>size)
    return True


cdef void fly(InferExchange exchange) noexcept:
    """The first of identical misses asks; the others wait for its answer."""
    if exchange.context.flights.join(exchange.digest, exchange):
        exchange.following = True
        exchange.cache = CACHE_COLLAPSED
        exchange.arm_wait()
        return
    exchange.following = False
    exchange.leading = True
    exchange.cache = CACHE_MISS
    exchange.pick()


cdef void resume(InferExchange exchange) noexcept:
    """The leader failed, or left: this follower takes part in a new flight."""
    exchange.following = False
    if exchange.state == X_REQUEST:
        exchange.client.poller.arm(exchange, exchange.expires)
        fly(exchange)


cdef void land(InferExchange exchange, const char *message, size_t size) noexcept:
    cdef object follower
    if not exchange.leading:
        return
    exchange.leading = False
    for follower in exchange.context.flights.finish(exchange.digest):
        (<InferExchange>follower).following = False
        answer(<InferExchange>follower, message, size)


cdef void release_followers(InferExchange exchange, int grpc_status, str message) noexcept:
    cdef object follower
    if not exchange.leading:
        return
    exchange.leading = False
    for follower in exchange.context.flights.finish(exchange.digest):
        (<InferExchange>follower).following = False
        if grpc_status in (GRPC_INVALID_ARGUMENT, GRPC_NOT_FOUND, GRPC_UNIMPLEMENTED):
            answer_error(<InferExchange>follower, grpc_status, message)
        else:
            resume(<InferExchange>follower)


cdef void store(InferExchange exchange) noexcept:
    cdef tg_buffer *stored = &exchange.context.stored
    tg_buffer_clear(stored)
    if store_form(tg_buffer_head(&exchange.call.reply), tg_buffer_size(&exchange.call.reply), stored) < 0:
        return
    if exchange.context.cache.put(<const unsigned char *><const char *>exchange.digest, tg_buffer_head(stored),
                                  tg_buffer_size(stored), exchange.client.poller.now, exchange.route.cache_ttl) == 1:
        tg_add(&exchange.route.series[TG_S_CACHE_STORED], 1)
        exchange.stored = True


cdef void leave_flight(InferExchange exchange) noexcept:
    if exchange.following:
        exchange.following = False
        exchange.context.flights.leave(exchange.digest, exchange)
    release_followers(exchange, GRPC_UNAVAILABLE, "")


cdef void run_management(InferExchange exchange) noexcept:
    cdef size_t size = tg_buffer_size(&exchange.body)
    cdef bytes body = tg_buffer_head(&exchange.body)[:size] if size else b""
    made = management.route(exchange.verb.decode(), (<bytes>exchange.path).decode("latin-1"), body)
    if isinstance(made, management.Reply):
        answer_management(exchange, made)
        return
    exchange.management = made
    if exchange.pool.models is not None and made.model:
        exchange.want_model(made.model.encode())
    exchange.pick()


cdef void management_answered(InferExchange exchange, int status, str message, bytes reply) noexcept:
    try:
        made = exchange.management.render(status, message, reply)
    except Exception:
        log.exception("the answer to %s could not be made", exchange.path)
        exchange.fail(500, b"internal", "internal error")
        return
    answer_management(exchange, made)


cdef void answer_management(InferExchange exchange, object reply) noexcept:
    cdef tg_buffer head
    cdef iovec part
    cdef bytes body = reply.body
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
    if exchange.route.response_fields is not None:
        exchange.route.response_fields.append(&head)
    part.iov_base = <char *>body
    part.iov_len = <size_t>len(body)
    if reply.reason:
        exchange.reason = <const char *><bytes>reply.reason            # a constant of `management`
    exchange.status = reply.status
    exchange.bytes_out = part.iov_len
    exchange.call = None
    exchange.record()
    exchange.client.respond_whole(exchange.status, &head, &part, 1)
    tg_buffer_free(&head)
