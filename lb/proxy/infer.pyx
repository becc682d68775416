"""An exchange with a pool that speaks the Open Inference Protocol.

    begin            the path names the model; the body is gathered
    run              the codec turns JSON or binary tensors into one canonical gRPC message
    cache            a repeated request is answered here; identical misses wait for the first (single flight)
    start_call       the policy picks an endpoint; its gRPC connection carries the message
    answer           the codec turns the gRPC answer into what the client asked for
"""

import logging

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memset
from lb.cache.flight cimport Flights
from lb.cache.store cimport ResultCache
from lb.core.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
)
from lb.core.hashing cimport hash64
from lb.core.head cimport H_CONTENT_ENCODING, H_INFERENCE_LENGTH, Field, Scan, parse_decimal
from lb.core.head_text cimport append_number, append_text
from lb.core.methods cimport method_text
from lb.core.poller cimport Poller
from lb.core.segment cimport (
    TG_S_CACHE_STORED, TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, TG_S_TIMEOUTS, Segment, tg_add,
)
from lb.core.stream cimport Address, iovec
from lb.inference.paths cimport MATCH_ESCAPED, NO_MATCH, decode_model, match_infer
from lb.core.protobuf cimport span
from lb.inference.request cimport parse_http
from lb.inference.response cimport InferResponse, render, store_form
from lb.inference.status cimport http_status
from lb.proxy.exchange cimport (
    CACHE_BYPASS, CACHE_COLLAPSED, CACHE_HIT, CACHE_MISS, X_DONE, X_REQUEST, X_WAITING,
    Exchange,
)
from lb.proxy.explained cimport append_explanation
from lb.proxy.mirror_infer cimport mirror_inference
from lb.proxy.retry cimport RETRY_5XX, RETRY_CONNECT, RETRY_RESET, RETRY_TIMEOUT
from lb.proxy.session cimport learn_session
from lb.proxy.tries cimport Hedge, TryingExchange
from lb.upstream.cost cimport UNIT_BYTES, PoolCosts
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET, FAIL_TIMEOUT, FAIL_TOO_LARGE
from lb.upstream.grpc_call cimport GrpcCall
from lb.upstream.http2 cimport Http2Channel
from lb.upstream.load_report cimport REPORT_BINARY, REPORT_NAMED, read_report, tg_load
from lb.upstream.pool cimport KEY_MODEL

from lb.errors import TidegateError
from lb.inference import management
from lb.inference.compression import decompress

log = logging.getLogger("tidegate.proxy")

cdef enum:
    M_POST = 3                        # llhttp's number
    MAX_REPLY = 256 * 1024 * 1024
    RESERVE = 16 * 1024 * 1024        # of a body, at its beginning: memory is taken when it is touched
    GRPC_CANCELLED = 1
    GRPC_INVALID_ARGUMENT = 3
    GRPC_NOT_FOUND = 5
    GRPC_UNIMPLEMENTED = 12
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
        return exchange


cdef class InferCall(GrpcCall):

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        cdef InferExchange exchange = self.exchange
        cdef Hedge hedge = self.hedge
        if exchange is None:
            return
        self.exchange = None
        if hedge is None or exchange.hedge_answer(hedge, status == 0, http_status(status) if status else 200):
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
        cdef span model, version
        cdef const char *query = <const char *>memchr(scan.target, 63, scan.target_length)
        cdef size_t path_length = scan.target_length if query == NULL else <size_t>(query - scan.target)
        cdef Field *field
        cdef int64_t length
        cdef uint64_t expected
        cdef const char *verb
        cdef size_t verb_length
        cdef int matched = NO_MATCH
        if self.method == M_POST:
            matched = match_infer(scan.target, path_length, &model, &version)
        if matched:
            try:
                self.model = decode_model(&model) if matched == MATCH_ESCAPED else model.data[:model.size]
            except TidegateError as failure:
                self.fail(failure.status, b"bad-request", str(failure))
                return
            self.version = version.data[:version.size]
            if self.pool.models is not None:
                self.want_model(self.model)
        else:
            self.path = scan.target[:path_length]
            verb = method_text(scan, self.method, &verb_length)
            self.verb = verb[:verb_length]
        if scan.first[H_CONTENT_ENCODING] >= 0:
            field = &scan.fields[scan.first[H_CONTENT_ENCODING]]
            self.encoding = field.value[:field.value_length].lower()
        if scan.first[H_INFERENCE_LENGTH] >= 0:
            field = &scan.fields[scan.first[H_INFERENCE_LENGTH]]
            length = parse_decimal(field.value, field.value_length)
            if length < 0:
                self.fail(400, b"bad-request", "Inference-Header-Content-Length is not a number")
                return
            self.json_length = <Py_ssize_t>length
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

    cdef void request_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef int i
        if self.state != X_REQUEST:
            return
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
        cdef const char *data
        cdef size_t size
        cdef bytes plain
        cdef unsigned char key[32]
        try:
            if self.encoding is not None and self.encoding != b"identity":
                plain = tg_buffer_head(&self.body)[:tg_buffer_size(&self.body)]
                plain = decompress(self.encoding, plain, self.route.max_body)
                tg_buffer_clear(&self.body)
                if tg_buffer_append(&self.body, <const char *>plain, <size_t>len(plain)) < 0:
                    raise MemoryError
            if self.model is None:
                self.run_management()
                return
            data = tg_buffer_head(&self.body)
            size = tg_buffer_size(&self.body)
            self.request = parse_http(self.model, self.version, data, size, self.json_length)
        except TidegateError as failure:
            self.fail(failure.status, b"bad-request", str(failure))
            return
        except MemoryError:
            self.fail(503, b"no-memory", "out of memory")
            return
        except Exception:                     # nothing above takes it: the exchange would never end
            log.exception("an inference request could not be read")
            self.fail(500, b"internal", "internal error")
            return
        if len(self.request.sequence) and self.pool.sequences is not None and not self.join(self.request):
            return
        if self.context.cache is None:
            self.start_call()
            return
        if not self.route.cache or not self.request.cacheable:
            self.cache = CACHE_BYPASS
            self.start_call()
            return
        if self.request.digest(self.context.segment.header.cache_secret, key) < 0:
            self.cache = CACHE_BYPASS
            self.start_call()
            return
        self.digest = (<char *>key)[:32]
        if not self.answer_from_cache():
            self.fly()

    cdef bint join(self, InferRequest request) noexcept:
        cdef bytes version = request.version
        cdef uint64_t key = self.pool.sequences.key_of(
            <const char *>self.model, <size_t>len(self.model), <const char *>version, <size_t>len(version),
            <const char *>request.sequence, <size_t>len(request.sequence))
        return self.join_sequence(key, request.sequence_start, request.sequence_end)

    # The cache.

    cdef bint answer_from_cache(self) noexcept:
        cdef uint64_t age = 0, ttl = 0
        cdef Py_ssize_t size
        tg_buffer_clear(&self.context.stored)
        size = self.context.cache.get(<const unsigned char *><const char *>self.digest, self.client.poller.now,
                                      &self.context.stored, &age, &ttl)
        if size < 0:
            return False
        self.cache = CACHE_HIT
        self.answer(tg_buffer_head(&self.context.stored), <size_t>size)
        return True

    cdef void fly(self) noexcept:
        """The first of identical misses asks; the others wait for its answer."""
        if self.context.flights.join(self.digest, self):
            self.following = True
            self.cache = CACHE_COLLAPSED
            self.arm_wait()
            return
        self.following = False
        self.leading = True
        self.cache = CACHE_MISS
        self.start_call()

    cdef void resume(self) noexcept:
        """The leader failed, or left: this follower takes part in a new flight."""
        self.following = False
        if self.state == X_REQUEST:
            self.client.poller.arm(self, self.expires)
            self.fly()

    cdef void land(self, const char *message, size_t size) noexcept:
        """The leader's answer is here: the followers get it too."""
        cdef object follower
        if not self.leading:
            return
        self.leading = False
        for follower in self.context.flights.finish(self.digest):
            (<InferExchange>follower).following = False
            (<InferExchange>follower).answer(message, size)

    cdef void release_followers(self, int grpc_status, str message) noexcept:
        """No answer to share. An error that is the request's own fault is everybody's; else they try for themselves."""
        cdef object follower
        if not self.leading:
            return
        self.leading = False
        for follower in self.context.flights.finish(self.digest):
            (<InferExchange>follower).following = False
            if grpc_status in (GRPC_INVALID_ARGUMENT, GRPC_NOT_FOUND, GRPC_UNIMPLEMENTED):
                (<InferExchange>follower).answer_error(grpc_status, message)
            else:
                (<InferExchange>follower).resume()

    cdef void store(self) noexcept:
        """Put the answer into the cache, without the id of the request it answered."""
        cdef tg_buffer *stored = &self.context.stored
        tg_buffer_clear(stored)
        if store_form(tg_buffer_head(&self.call.reply), tg_buffer_size(&self.call.reply), stored) < 0:
            return
        if self.context.cache.put(<const unsigned char *><const char *>self.digest, tg_buffer_head(stored),
                                  tg_buffer_size(stored), self.client.poller.now, self.route.cache_ttl) == 1:
            tg_add(&self.route.series[TG_S_CACHE_STORED], 1)
            self.stored = True

    # The endpoint.

    cdef void start_call(self) noexcept:
        self.pick()

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
        self.move(X_WAITING)
        if not self.send_call(call, self.endpoint):
            self.fail(503, b"no-memory", "out of memory")
            return
        if self.request is not None and self.route.mirror is not None and self.tries == 1:
            mirror_inference(self.route.mirror, self.client.poller, call.parts, call.part_count, call.message_size,
                             INFER_PATH, INFER_PATH_LENGTH, self.key)
        if self.route.hedge is not None:
            self.watch()

    cdef bint send_call(self, InferCall call, int endpoint) noexcept:
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
        (<Http2Channel>self.pool.channels[endpoint]).start(call, deadline)
        return True

    cdef bint repeatable(self) noexcept:
        """An inference is a pure function of its request: asking another endpoint as well does no harm. The exception
        is a sequence, whose state lives in one endpoint. Management calls only read."""
        return self.request is None or len(self.request.sequence) == 0

    cdef bint launch_hedge(self, Hedge hedge) noexcept:
        cdef InferCall call = InferCall.__new__(InferCall)
        call.hedge = hedge
        hedge.call = call
        if self.send_call(call, hedge.endpoint):
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
            (<Http2Channel>self.pool.channels[hedge.endpoint]).cancel(call)

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

    cdef void call_failed(self, int kind) noexcept:
        cdef uint64_t *words = self.pool.series[self.endpoint]
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
        self.release_followers(GRPC_UNAVAILABLE, "")
        if self.bound >= 0 and kind == FAIL_CONNECT:
            self.fail_lost()
            return
        if kind == FAIL_TIMEOUT:
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
        """Whatever became of the first: see `repeatable`."""
        cdef int rule = RETRY_CONNECT
        if not self.repeatable():
            return False
        if kind == FAIL_RESET:
            rule = RETRY_RESET | RETRY_5XX            # a server that goes away says UNAVAILABLE, or nothing
        elif kind == FAIL_TIMEOUT and self.route.retry is not None and self.client.poller.now < self.expires and not (
                self.request is not None and self.request.timeout_us):
            rule = RETRY_TIMEOUT
        elif kind != FAIL_CONNECT and kind != FAIL_REFUSED:
            return False
        return self.retry_granted(rule, -1)

    cdef void cancel_upstream(self) noexcept:
        self.cancel_try()
        if self.following:
            self.following = False
            self.context.flights.leave(self.digest, self)
        self.release_followers(GRPC_UNAVAILABLE, "")

    # The answer.

    cdef void answered(self, int status, const char *message, size_t n) noexcept:
        cdef InferCall call = self.call
        cdef InferResponse response
        cdef bytes reply
        cdef bint going
        if self.pool.policy.reads_reports and tg_buffer_size(&call.report):
            self.keep_report(call)
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
                self.management_answered(0, "", reply)
                return
            response = self.rendered(tg_buffer_head(&call.reply), tg_buffer_size(&call.reply))
            if response is None:              # nothing to keep, and nothing for those who wait
                tg_add(&self.pool.series[self.last_endpoint][TG_S_RESPONSE_ERRORS], 1)
                return
            if self.digest is not None:
                self.store()
                self.land(tg_buffer_head(&call.reply), tg_buffer_size(&call.reply))
            self.respond(response)
            return
        self.status = http_status(status)
        # A server that is going away says UNAVAILABLE before it is out of the pool, and CANCELLED, which we did not ask
        # for, of what it had taken just before (grpcio does).
        going = status == GRPC_UNAVAILABLE or status == GRPC_CANCELLED
        self.let_go(not going)
        if going and self.hedge_takes_over():
            return
        self.pushback = call.pushback
        if self.repeatable() and self.retry_granted(RETRY_RESET | RETRY_5XX if going else 0, status):
            self.next_try()
            return
        text = message[:n].decode("utf-8", "replace")
        self.release_followers(status, text)
        if self.management is not None:
            self.management_answered(status, text, b"")
            return
        self.answer_error(status, text)

    cdef void keep_report(self, InferCall call) noexcept:
        cdef tg_load load
        if self.endpoint >= 0 and read_report(REPORT_BINARY if call.report_binary else REPORT_NAMED,
                                              tg_buffer_head(&call.report), tg_buffer_size(&call.report),
                                              &load) and load.utilization > 0.0:
            self.pool.endpoints.set_report(self.endpoint, load.utilization, load.qps, load.eps, self.client.poller.now)

    cdef void answer_error(self, int grpc_status, str message) noexcept:
        self.fail(http_status(grpc_status), b"model-error", message or "the model server gave no reason")

    cdef void answer(self, const char *message, size_t size) noexcept:
        cdef InferResponse response
        if self.state == X_DONE:
            return
        response = self.rendered(message, size)
        if response is not None:
            self.respond(response)

    cdef InferResponse rendered(self, const char *message, size_t size):
        """The codec's form of the answer; None when it has none, and the exchange has failed."""
        try:
            return render(self.request, message, size)
        except TidegateError as failure:
            self.fail(failure.status, b"upstream-protocol", str(failure))
        except MemoryError:
            self.fail(503, b"no-memory", "out of memory")
        except Exception:                     # nothing above takes it: the exchange would never end
            log.exception("an inference answer could not be rendered")
            self.fail(500, b"internal", "internal error")
        return None

    cdef void respond(self, InferResponse response) noexcept:
        """The answer, with what RFC 9211 says of the cache."""
        cdef tg_buffer head
        memset(&head, 0, sizeof(head))
        if response.json_length < 0:
            append_text(&head, b"Content-Type: application/json\r\n")
        else:
            append_text(&head, b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: ")
            append_number(&head, <uint64_t>response.json_length)
            append_text(&head, b"\r\n")
        self.append_endpoint(&head)
        if self.route.response_fields is not None:
            self.route.response_fields.append(&head)
        if self.cache == CACHE_HIT:
            append_text(&head, b"Cache-Status: tidegate; hit\r\n")
        elif self.cache == CACHE_MISS:
            append_text(&head, b"Cache-Status: tidegate; fwd=miss")
            append_text(&head, b"; stored\r\n" if self.stored else b"\r\n")
        elif self.cache == CACHE_COLLAPSED:
            append_text(&head, b"Cache-Status: tidegate; fwd=miss; collapsed\r\n")
        elif self.cache == CACHE_BYPASS:
            append_text(&head, b"Cache-Status: tidegate; fwd=bypass\r\n")
        self.status = 200
        self.bytes_out = response.size
        self.call = None
        self.record()
        self.client.respond_whole(200, &head, response.parts, response.part_count)
        tg_buffer_free(&head)

    # The protocol's other routes: rare, and in plain Python.

    cdef void run_management(self) noexcept:
        cdef bytes body = tg_buffer_head(&self.body)[:tg_buffer_size(&self.body)] if tg_buffer_size(&self.body) else b""
        made = management.route(self.verb.decode(), (<bytes>self.path).decode("latin-1"), body)
        if isinstance(made, management.Reply):
            self.answer_management(made)
            return
        self.management = made
        if self.pool.models is not None and made.model:
            self.want_model(made.model.encode())
        self.start_call()

    cdef void model_not_ready(self) noexcept:
        """An inference cannot be answered. What else is asked of the model, such as whether it is ready, any endpoint
        can."""
        if self.management is None:
            Exchange.model_not_ready(self)
            return
        self.want_model(None)
        self.start_call()

    cdef void management_answered(self, int status, str message, bytes reply) noexcept:
        try:
            made = self.management.render(status, message, reply)
        except Exception:
            log.exception("the answer to %s could not be made", self.path)
            self.fail(500, b"internal", "internal error")
            return
        self.answer_management(made)

    cdef void answer_management(self, object reply) noexcept:
        cdef tg_buffer head
        cdef iovec part
        cdef bytes body = reply.body
        cdef bytes kind = reply.content_type.encode()
        memset(&head, 0, sizeof(head))
        if kind:
            append_text(&head, b"Content-Type: ")
            tg_buffer_append(&head, <const char *>kind, <size_t>len(kind))
            append_text(&head, b"\r\n")
        if self.pool.cookie is not None:
            self.append_cookie(&head)
        if self.explained:
            append_explanation(self, &head)
        part.iov_base = <char *>body
        part.iov_len = <size_t>len(body)
        self.status = reply.status
        self.bytes_out = part.iov_len
        self.call = None
        self.record()
        self.client.respond_whole(self.status, &head, &part, 1)
        tg_buffer_free(&head)
