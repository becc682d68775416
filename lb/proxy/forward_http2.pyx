"""An exchange with a pool that speaks HTTP/2: see forward_http2.pxd.

Both bodies stream, and flow control is tied from end to end: the endpoint is given window as the client takes what
came, the client as the endpoint does. The request's fields are kept, and its body while it fits the listener's
`retry_buffer` and the answer has not begun, so that another stream or endpoint can be tried.
"""

from cpython.object cimport PyTypeObject
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memcmp, memset, strlen
from lb.core.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.core.head cimport (
    H_EXPECT, H_GRPC_STATUS, H_GRPC_TIMEOUT, H_HOST, H_TE, Field, Scan, classify, has_token, mark_hop_by_hop,
    worker_scan,
)
from lb.core.head_text cimport append_number, append_trailers
from lb.core.http2 cimport Http2Session, h2_rewind, h2_waiting, h2_whole
from lb.core.http2_block cimport block_add, block_add_lower
from lb.core.http2_head cimport HEAD_OK, FieldList, read_response, read_trailers
from lb.core.methods cimport method_text
from lb.core.nghttp2 cimport NGHTTP2_NV_FLAG_NO_INDEX, NGHTTP2_NV_FLAG_NONE
from lb.core.reuse cimport tg_reuse
from lb.core.segment cimport TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, tg_add
from lb.core.stream cimport iovec
from lb.inference.first_batch cimport first_batch, tg_batch
from lb.inference.first_model cimport MODEL_FOUND, MODEL_UNKNOWN, first_model
from lb.inference.status cimport http_status
from lb.proxy.client_certificate cimport append_client_certificate
from lb.inference.sequence cimport LOOK_FOUND, LOOK_MORE, infers, look_for_sequence, looked, tg_sequence
from lb.proxy.client cimport Client
from lb.proxy.cors cimport drop_cors
from lb.proxy.exchange cimport (
    X_ANSWERING, X_BACKOFF, X_DONE, X_PICKED, X_QUEUED, X_REQUEST, X_WAITING, Exchange,
)
from lb.proxy.fields cimport replace_host
from lb.proxy.forwarded cimport tg_hop, tg_hop_cache
from lb.proxy.refusal cimport SPEAKS_GRPC, grpc_code, grpc_message
from lb.proxy.retry cimport RETRY_5XX, RETRY_CONNECT, RETRY_RESET, is_good, is_retryable
from lb.proxy.session cimport learn_session
from lb.proxy.tries cimport Hedge, TryingExchange
from lb.upstream.cost cimport UNIT_BATCH, UNIT_BYTES, PoolCosts
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET, FAIL_TOO_LARGE
from lb.upstream.grpc_text cimport grpc_status, grpc_timeout, grpc_timeout_ns, pushback_ms
from lb.upstream.http2 cimport Http2Channel
from lb.upstream.outlier cimport verdict_of
from lb.upstream.pool cimport POOL_OIP

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t size, const void *needle, size_t needle_size)

cdef enum:
    WEIGHING_NS = 100_000_000         # longest wait for the message that tells what a request costs
    FRAME = 5                         # of gRPC, before a message: compressed or not, and the message's length
    HIGH_WATER = 64 * 1024            # bytes waiting on one side before the other is given no more window
    CERTIFICATE_FIELD = 23            # length of "X-Forwarded-Client-Cert"
    UNAVAILABLE = 14                  # of gRPC: the server says that it cannot take requests
    # llhttp's numbers of the methods that may be repeated (RFC 9110 section 9.2.2).
    M_DELETE = 0
    M_GET = 1
    M_HEAD = 2
    M_PUT = 4
    M_OPTIONS = 6
    M_TRACE = 7


cdef const char *MODEL_METHODS = b"/inference.GRPCInferenceService/Model"
cdef size_t MODEL_METHODS_LENGTH = 37
cdef const char *INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"
cdef size_t INFER_PATH_LENGTH = 42
cdef const char *SEQUENCE = b"sequence_id"
cdef size_t SEQUENCE_LENGTH = 11


cdef char *put_decimal(char *at, uint64_t value) noexcept nogil:
    cdef char reversed[20]
    cdef int n = 0
    while True:
        reversed[n] = <char>(48 + value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    while n:
        n -= 1
        at[0] = reversed[n]
        at += 1
    return at


cdef void put_field(Field *field, const char *name, const char *value, size_t n) noexcept nogil:
    field.name = name
    field.name_length = <uint32_t>strlen(name)
    field.value = value
    field.value_length = <uint32_t>n
    classify(field)


# What the hop adds to a request, until it is in the request's block.
cdef tg_buffer hop_lines


cdef class StreamCall(Http2Call):

    def __dealloc__(self):
        tg_buffer_free(&self.fields)

    cdef int build(self, FieldList fields, uint64_t now) noexcept:
        cdef Http2Exchange exchange = self.exchange
        cdef int n
        cdef bint round
        fields.add_kept(b":scheme", 7, b"https", 4 if self.dispatcher.address.tls is None else 5, NGHTTP2_NV_FLAG_NONE)
        fields.add_block(&self.fields)
        if exchange.grpc and exchange.expires != UINT64_MAX:
            n = grpc_timeout(self.timeout, exchange.expires - now if exchange.expires > now else 1, &round)
            fields.add_kept(b"grpc-timeout", 12, self.timeout, <size_t>n,
                            NGHTTP2_NV_FLAG_NONE if round else NGHTTP2_NV_FLAG_NO_INDEX)
        self.stream.streaming = True
        h2_rewind(&self.stream)
        self.head_seen = False
        self.held = 0
        return 0

    cdef bint replayable(self) noexcept:
        return h2_whole(&self.stream)

    cdef int take_fields(self, Http2Session session, bint last, bint *over) noexcept:
        cdef Scan *scan = worker_scan()
        cdef Http2Exchange exchange = self.exchange
        if session.block_over:
            return FAIL_TOO_LARGE
        scan.max_fields = <int>session.options.max_fields
        if self.head_seen:
            if read_trailers(scan, &session.block) != HEAD_OK:
                return FAIL_PROTOCOL
            exchange.answer_trailers(scan)
            return 0
        if read_response(scan, &session.block, last) != HEAD_OK or scan.status == 101:
            return FAIL_PROTOCOL
        if scan.status < 200:
            self.begun = False
            if self.hedge is None and scan.status != 100 and not exchange.http10:     # 100 was sent by ourselves
                exchange.client.respond(scan, NULL, False)
            return 0
        if self.hedge is not None and not exchange.hedge_answer(self.hedge, is_well(exchange, scan, last), scan.status):
            return 0
        self.head_seen = True
        exchange.answer_head(scan, last)
        return 0

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        if not self.head_seen:
            return FAIL_PROTOCOL
        self.exchange.answer_data(data, size, held)
        self.held += held[0]
        return 0

    cdef void judge(self) noexcept:
        if not self.head_seen:
            self.fail = FAIL_PROTOCOL

    cdef void room(self) noexcept:
        if self.exchange is not None and self.hedge is None:
            self.exchange.request_room()

    cdef void over(self) noexcept:
        cdef Http2Exchange exchange = self.exchange
        cdef Hedge hedge = self.hedge
        if exchange is None:
            return
        self.exchange = None
        if hedge is not None:
            self.hedge = None
            hedge.call = None
            exchange.hedge_failed(hedge, self.fail)
            return
        exchange.call_over(self.fail, self.begun)


cdef bint is_well(Http2Exchange exchange, Scan *scan, bint last) noexcept:
    """Whether the head is of an answer that a hedge may give: of gRPC's one that has a message, or says OK."""
    cdef int i
    if not is_good(scan.status):
        return False
    if exchange.grpc and last:
        for i in range(scan.field_count):
            if scan.fields[i].id == H_GRPC_STATUS:
                return grpc_status(scan.fields[i].value, scan.fields[i].value_length) == 0
    return True


cdef class Http2Exchange(TryingExchange):

    def __cinit__(self):
        self.grpc_status = -1

    # The request, on its way in.

    cdef void begin(self, Scan *scan) noexcept:
        self.key = self.find_key(scan)
        self.idempotent = self.method in (M_GET, M_HEAD, M_PUT, M_DELETE, M_OPTIONS, M_TRACE) or self.route.idempotent
        if self.pool.protocol == POOL_OIP:
            self.inference = True
            if scan.target_length == INFER_PATH_LENGTH and memcmp(scan.target, INFER_PATH, INFER_PATH_LENGTH) == 0:
                self.idempotent = True
        self.call = StreamCall.__new__(StreamCall)
        self.call.stream.finished = scan.complete
        self.call.stream.keep = self.listener.retry_buffer
        if self.build_fields(scan) < 0:
            self.fail(503, b"no-memory", "out of memory")
            return
        if self.expires != UINT64_MAX:
            self.client.poller.arm(self, self.expires)
        self.naming = self.pool.models is not None and self.awaits_model(scan)
        self.looking = (self.pool.sequences is not None and self.pool.endpoints.size and not scan.complete
                        and infers(scan.target, scan.target_length))
        if self.pool.costs is not None:
            self.weighing = self.awaits_weight(scan)
        if self.naming or self.looking or self.weighing:
            if self.weighing:
                self.client.poller.arm(self, min(self.expires, self.client.poller.now + WEIGHING_NS))
            self.move(X_REQUEST)
            return
        self.start_try()

    cdef bint awaits_model(self, Scan *scan) noexcept:
        """Of the protocol's methods those about a model, whose requests all name it in their first field."""
        cdef size_t n = scan.target_length
        if n <= MODEL_METHODS_LENGTH or memcmp(scan.target, MODEL_METHODS, MODEL_METHODS_LENGTH) != 0:
            return False
        self.any_endpoint = memcmp(scan.target + n - 5, b"Infer", 5) != 0
        return True

    cdef bint awaits_weight(self, Scan *scan) noexcept:
        cdef PoolCosts costs = self.pool.costs
        cdef bint inference = self.pool.protocol == POOL_OIP and infers(scan.target, scan.target_length)
        if costs.unit == UNIT_BYTES and scan.has_length:
            self.units = costs.units_of_bytes(scan.content_length)
        if scan.complete or not self.pool.endpoints.size:
            return False
        if inference:
            # A stream's time says nothing of one request.
            self.learning = costs.learns and scan.target_length == INFER_PATH_LENGTH
            return costs.learns or costs.unit == UNIT_BATCH or self.units == 0
        return self.grpc and costs.unit == UNIT_BYTES and self.units == 0

    cdef bint find_weight(self) noexcept:
        cdef PoolCosts costs = self.pool.costs
        cdef const char *data = tg_buffer_head(&self.call.stream.queue)
        cdef size_t size = tg_buffer_size(&self.call.stream.queue)
        cdef const unsigned char *head = <const unsigned char *>data
        cdef tg_batch found
        if size < FRAME:
            return False
        if costs.unit == UNIT_BYTES and self.units == 0:
            self.units = costs.units_of_bytes(
                <uint64_t>head[1] << 24 | <uint64_t>head[2] << 16 | <uint64_t>head[3] << 8 | head[4])
        if not self.inference or not (costs.learns or costs.unit == UNIT_BATCH):
            return True
        if not first_batch(data, size, &found) and size <= HIGH_WATER and not self.request_complete:
            return False
        if costs.unit == UNIT_BATCH:
            self.units = <double>found.size
        if found.model.size:
            self.cost_key = costs.model_key(found.model.data, found.model.size)
            if self.cost_key and self.learning and not costs.known(self.cost_key, self.client.poller.now):
                self.cost_model = found.model.data[:found.model.size]
        return True

    cdef void on_timer(self) noexcept:
        """The peer of a stream may have to speak first: its message is not waited for."""
        if self.state != X_REQUEST or not self.weighing or self.client.poller.now >= self.expires:
            TryingExchange.on_timer(self)
            return
        self.weighing = False
        self.client.poller.arm(self, self.expires)
        if not self.naming and not self.looking:
            self.start_try()

    cdef int price(self, uint64_t now) noexcept:
        if self.units == 0:
            return Exchange.price(self, now)
        return self.pool.costs.price(self.units, self.cost_key, now)

    cdef void learn_cost(self) noexcept:
        cdef bytes model = self.cost_model
        cdef uint64_t took = self.first_byte_at - self.sent_at
        if self.sent_at == 0 or self.first_byte_at <= self.sent_at or self.pool.costs is None:
            return
        if model is None:
            self.pool.costs.learn(self.cost_key, NULL, 0, self.units, took, self.charged, self.crowd,
                                  self.client.poller.now)
        else:
            self.pool.costs.learn(self.cost_key, <const char *>model, <size_t>len(model), self.units, took,
                                  self.charged, self.crowd, self.client.poller.now)

    cdef bint find_model(self) noexcept:
        cdef const char *name
        cdef size_t size
        cdef int found = first_model(tg_buffer_head(&self.call.stream.queue), tg_buffer_size(&self.call.stream.queue),
                                     &name, &size)
        if found == MODEL_FOUND:
            self.want_model(name[:size])
        return found != MODEL_UNKNOWN or tg_buffer_size(&self.call.stream.queue) > HIGH_WATER

    cdef void model_not_ready(self) noexcept:
        if not self.any_endpoint:
            Exchange.model_not_ready(self)
            return
        self.want_model(None)
        self.start_try()

    cdef int build_fields(self, Scan *scan) noexcept:
        cdef tg_buffer *block = &self.call.fields
        cdef size_t method_length
        cdef const char *method = method_text(scan, self.method, &method_length)
        cdef tg_hop hop
        cdef tg_hop_cache *cache = NULL
        cdef uint64_t skip = <uint64_t>1 << H_EXPECT | <uint64_t>1 << H_HOST, allowed
        cdef Field *field
        cdef bytes name
        cdef size_t begun
        cdef bint known = False
        cdef int i, failed = 0
        mark_hop_by_hop(scan)
        if self.ids == NULL:
            cache = self.client.hop_cache()
            if cache != NULL:
                known = self.listener.hop.cached(scan, cache)
        if not known:
            tg_buffer_clear(&hop_lines)
            hop.text = &hop_lines
            failed = self.listener.hop.collect(scan, self.ids, self.client.ip, self.client.ip_length,
                                               self.client.scheme(), scan.version, &hop)
        if self.route.new_host is not None:   # after X-Forwarded-Host, which says what the client asked for
            failed |= replace_host(scan, self.route.new_host)
        failed |= block_add(block, b":method", 7, method, method_length)
        failed |= block_add(block, b":path", 5, scan.target, scan.target_length)
        if scan.first[H_HOST] >= 0 and scan.fields[scan.first[H_HOST]].value_length:
            field = &scan.fields[scan.first[H_HOST]]
            failed |= block_add(block, b":authority", 10, field.value, field.value_length)
        else:
            name = self.pool.name.encode()
            failed |= block_add(block, b":authority", 10, <const char *>name, <size_t>len(name))
        if known:
            failed |= tg_buffer_append(block, tg_buffer_head(&cache.block), tg_buffer_size(&cache.block))
        else:
            begun = tg_buffer_size(block)
            for i in range(hop.count):
                failed |= block_add(block, hop.fields[i].name, hop.fields[i].name_length,
                                    tg_buffer_head(&hop_lines) + hop.fields[i].start, hop.fields[i].length)
            if cache != NULL and not failed:
                self.listener.hop.keep(cache, tg_buffer_head(block) + begun, tg_buffer_size(block) - begun)
        failed |= self.add_client_certificate(scan)
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.hop or (field.id and (skip >> field.id) & 1):
                continue
            if field.id == H_GRPC_TIMEOUT and self.grpc:
                # What is left of it is said when the stream is opened.
                allowed = grpc_timeout_ns(field.value, field.value_length)
                if allowed and self.started + allowed < self.expires:
                    self.expires = self.started + allowed
                continue
            failed |= block_add_lower(block, field.name, field.name_length, field.value, field.value_length)
        if scan.first[H_TE] >= 0:
            field = &scan.fields[scan.first[H_TE]]
            # What gRPC's clients say, and what others may say among more.
            if field.value_length == 8 and memcmp(field.value, b"trailers", 8) == 0 or has_token(field, b"trailers"):
                failed |= block_add(block, b"te", 2, b"trailers", 8)
        return failed

    cdef int add_client_certificate(self, Scan *scan) noexcept:
        cdef tg_buffer line
        cdef int failed
        memset(&line, 0, sizeof(line))
        failed = append_client_certificate(&line, self.client, scan)
        if tg_buffer_size(&line) > CERTIFICATE_FIELD + 4:
            failed |= block_add_lower(&self.call.fields, tg_buffer_head(&line), CERTIFICATE_FIELD,
                                      tg_buffer_head(&line) + CERTIFICATE_FIELD + 2,
                                      tg_buffer_size(&line) - CERTIFICATE_FIELD - 4)
        tg_buffer_free(&line)
        return failed

    cdef void request_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef Http2Channel channel
        cdef int i
        if self.state == X_DONE or (self.endpoint < 0 and self.state != X_QUEUED and self.state != X_REQUEST
                                    and self.state != X_BACKOFF):
            return
        # Before an endpoint is chosen it is nobody's yet, and the call's own channel is as good as any.
        channel = <Http2Channel>self.pool.channels[max(self.endpoint, 0)]
        for i in range(count):
            if channel.write(self.call, spans[i].iov_base, spans[i].iov_len) < 0:
                self.fail(503, b"no-memory", "out of memory")
                return
        if last:
            self.request_complete = True
            channel.finish(self.call)
            if self.state == X_PICKED:
                self.move(X_WAITING)
                self.arm_wait()
                if self.learning:
                    self.sent_at = self.client.poller.now
                if self.route.hedge is not None:
                    self.watch()
        elif h2_waiting(&self.call.stream) > HIGH_WATER:
            self.call.stream.wants_room = True
            self.wants_body = False
            if not self.grpc and self.state > X_QUEUED:
                self.arm_wait()               # nobody else watches an endpoint that takes no more of it
        if self.state == X_REQUEST:
            self.read_message()

    cdef void read_message(self) noexcept:
        """Which endpoints will do is in the first message: nothing is sent on before that is known."""
        if self.naming and (self.find_model() or self.request_complete):
            self.naming = False
        if self.looking:
            self.look()
        if self.weighing and (self.find_weight() or self.request_complete):
            self.weighing = False
        if self.state == X_REQUEST and not self.naming and not self.looking and not self.weighing:
            self.start_try()

    cdef void look(self) noexcept:
        """Looks for the sequence that the inference belongs to."""
        cdef tg_sequence found
        cdef tg_buffer *body = &self.call.stream.queue
        cdef char digits[24]
        cdef const char *text
        cdef size_t n
        cdef uint64_t key
        # What exceeds the buffer is told by what is here: encoders write the tensors last.
        cdef looked verdict = look_for_sequence(
            tg_buffer_head(body), tg_buffer_size(body), self.request_complete or tg_buffer_size(body) >= HIGH_WATER,
            &found)
        if verdict == LOOK_MORE:
            return
        self.looking = False
        if verdict == LOOK_FOUND:
            text, n = found.id.data, found.id.size
            if n == 0:
                text = digits
                n = <size_t>(put_decimal(digits, found.number) - digits)
            key = self.pool.sequences.key_of(found.model.data, found.model.size, found.version.data,
                                             found.version.size, text, n)
            self.join_sequence(key, found.start, found.end)

    cdef void take_trailers(self, Scan *scan) noexcept:
        if append_trailers(&self.call.stream.trailers, scan) < 0:
            self.fail(503, b"no-memory", "out of memory")

    cdef void request_room(self) noexcept:
        if self.state != X_DONE and not self.wants_body:
            self.wants_body = True
            if not self.grpc and self.state < X_ANSWERING:
                self.client.poller.arm(self, self.expires)
            self.client.resume_request()

    # The endpoint.

    cdef void start_try(self) noexcept:
        self.pick()

    cdef void launch(self) noexcept:
        self.call.exchange = self
        (<Http2Channel>self.pool.channels[self.endpoint]).start(self.call, self.expires)
        if self.request_complete:
            self.move(X_WAITING)
            self.arm_wait()
            if self.learning:
                self.sent_at = self.picked_at
            if self.route.hedge is not None:
                self.watch()

    cdef void cancel_upstream(self) noexcept:
        if self.call is not None and self.call.exchange is not None:
            self.call.exchange = None
            (<Http2Channel>self.pool.channels[self.last_endpoint]).cancel(self.call)

    cdef void call_over(self, int kind, bint begun) noexcept:
        cdef uint64_t *words
        if self.again:
            self.forget_answer()
            return
        if kind == 0:
            if not self.request_complete:
                self.client.answered_early()
            self.end()
            return
        if self.state == X_ANSWERING:
            self.fail(502, b"upstream-reset", "the endpoint ended the stream within its answer")
            return
        if kind == FAIL_CONNECT or kind == FAIL_REFUSED or kind == FAIL_RESET or kind == FAIL_PROTOCOL \
                or kind == FAIL_TOO_LARGE:
            words = self.pool.series[self.endpoint]
            tg_add(&words[TG_S_CONNECT_ERRORS if kind == FAIL_CONNECT else TG_S_RESPONSE_ERRORS], 1)
            self.status = 502
            self.let_go(False)
            if self.hedge_takes_over():
                return
            if self.may_retry(kind, begun):
                self.next_try()
                return
        if self.bound >= 0 and kind == FAIL_CONNECT:
            self.fail_lost()
        elif kind == FAIL_CONNECT:
            self.fail(502, b"connect", "could not connect to the endpoint")
        elif kind == FAIL_PROTOCOL:
            self.fail(502, b"upstream-protocol", "the endpoint's answer is not valid HTTP/2")
        elif kind == FAIL_TOO_LARGE:
            self.fail(502, b"upstream-too-large", "the head of the endpoint's answer is over the limit")
        elif kind == FAIL_REFUSED or kind == FAIL_RESET:
            self.fail(502, b"upstream-reset", "the endpoint ended the stream without an answer")
        else:
            self.on_timer()                   # the exchange's deadline, met while the call waited for a stream

    cdef void fail(self, int status, const char *reason, str message) noexcept:
        # gRPC-Web has its trailers in the body, where they would be read as the rest of a message that was cut.
        if (self.state == X_ANSWERING and self.grpc == SPEAKS_GRPC and self.grpc_status < 0 and not self.sized
                and not self.http10):
            self.fail_in_trailers(status, reason, message)
        else:
            TryingExchange.fail(self, status, reason, message)

    cdef void fail_in_trailers(self, int status, const char *reason, str message) noexcept:
        """Ends an answer that has begun by a gRPC status: a stream that is reset says INTERNAL, whatever the reason was
        (gRPC over HTTP2, "Errors")."""
        cdef Client client = self.client
        cdef Scan scan
        cdef tg_buffer code
        cdef bytes text = grpc_message(message)
        self.cancel_upstream()
        memset(&code, 0, sizeof(code))
        append_number(&code, <uint64_t>grpc_code(status))
        scan.trailer_count = 2
        put_field(&scan.trailers[0], b"grpc-status", tg_buffer_head(&code), tg_buffer_size(&code))
        put_field(&scan.trailers[1], b"grpc-message", <const char *>text, <size_t>len(text))
        self.answer_trailers(&scan)
        tg_buffer_free(&code)
        self.reason = reason
        self.let_go(False)
        if not self.request_complete:
            client.answered_early()
        self.record()
        client.respond_end()

    cdef bint may_retry(self, int kind, bint begun) noexcept:
        """Safe when the endpoint did not process the request, or repeating it does no harm; possible while all of it is
        still here."""
        if not self.whole():
            return False
        if kind != FAIL_CONNECT and kind != FAIL_REFUSED and (kind != FAIL_RESET or begun or not self.idempotent):
            return False
        return self.retry_granted(RETRY_RESET if kind == FAIL_RESET else RETRY_CONNECT, -1)

    cdef bint whole(self) noexcept:
        """The request can be sent once more, as far as it has come."""
        return h2_whole(&self.call.stream) and not (self.inference and self.in_sequence())

    cdef bint in_sequence(self) noexcept:
        """Whether its message may name a sequence, whose state lives in one endpoint. A compressed one may."""
        cdef const char *body = tg_buffer_head(&self.call.stream.queue)
        cdef size_t n = tg_buffer_size(&self.call.stream.queue)
        return n > 0 and (body[0] != 0 or memmem(body, n, SEQUENCE, SEQUENCE_LENGTH) != NULL)

    cdef bint repeatable(self) noexcept:
        return self.request_complete and self.idempotent and self.whole()

    cdef bint launch_hedge(self, Hedge hedge) noexcept:
        cdef StreamCall call = StreamCall.__new__(StreamCall)
        cdef StreamCall own = self.call
        if (tg_buffer_append(&call.fields, tg_buffer_head(&own.fields), tg_buffer_size(&own.fields)) < 0
                or tg_buffer_append(&call.stream.queue, tg_buffer_head(&own.stream.queue),
                                    tg_buffer_size(&own.stream.queue)) < 0
                or tg_buffer_append(&call.stream.trailers, tg_buffer_head(&own.stream.trailers),
                                    tg_buffer_size(&own.stream.trailers)) < 0):
            return False
        call.stream.finished = True
        call.stream.keep = self.listener.retry_buffer
        call.exchange = self
        call.hedge = hedge
        hedge.call = call
        (<Http2Channel>self.pool.channels[hedge.endpoint]).start(call, self.expires)
        return True

    cdef void cancel_hedge(self, Hedge hedge) noexcept:
        cdef StreamCall call = <StreamCall>hedge.call
        if call is not None:
            hedge.call = None
            call.exchange = None
            call.hedge = None
            (<Http2Channel>self.pool.channels[hedge.endpoint]).cancel(call)

    cdef void adopt(self, Hedge hedge) noexcept:
        self.call = <StreamCall>hedge.call
        self.call.hedge = None
        hedge.call = None
        self.sent_at = hedge.picked_at if self.learning else 0

    # The answer.

    cdef void answer_head(self, Scan *scan, bint last) noexcept:
        cdef tg_buffer extra
        if self.route.retry is not None and self.failed_head(scan, last):
            return
        if self.route.hedge is not None:
            self.own_answer()
        self.call.stream.keep = 0             # what is kept goes with the next part of the body
        self.status = scan.status
        self.sized = scan.has_length
        self.first_byte_at = self.client.poller.now
        self.move(X_ANSWERING)
        if self.grpc:
            self.client.poller.arm(self, self.expires)     # a stream of messages may be silent for long
        else:
            self.arm_wait()
        if self.pool.policy.reads_reports:
            self.find_report(scan.fields, scan.field_count)
        if self.pool.sessions is not None:
            learn_session(self, scan.status if is_well(self, scan, last) else 500, scan.fields, scan.field_count)
        mark_hop_by_hop(scan)
        if self.route.cors is not None:
            drop_cors(scan)
        if self.route.response_fields is not None:
            self.route.response_fields.apply(scan)     # where it has no room left for ours, it goes on without
        if last:
            self.find_grpc_status(scan.fields, scan.field_count)
        memset(&extra, 0, sizeof(extra))
        self.append_endpoint(&extra)
        self.client.respond(scan, &extra, last)
        tg_buffer_free(&extra)

    cdef bint failed_head(self, Scan *scan, bint last) noexcept:
        """Whether the answer is one of those that the route does not take while another try may do better."""
        cdef Field *field
        cdef int i, code = -1
        if not self.grpc:
            return is_retryable(scan.status) and self.try_again(RETRY_5XX, scan.status)
        if not last:
            return False
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.id == H_GRPC_STATUS:
                code = grpc_status(field.value, field.value_length)
            elif field.name_length == 22 and memcmp(field.name, b"grpc-retry-pushback-ms", 22) == 0:
                self.pushback = pushback_ms(field.value, field.value_length)
        if code <= 0 or not self.route.retry.names_code(code) or not self.request_complete or not self.whole():
            return False
        if (self.hedge is None or self.hedge.endpoint < 0) and not self.retry_granted(0, code):
            return False
        self.status = scan.status
        self.again = True
        return True

    cdef void forget_answer(self) noexcept:
        self.again = False
        self.let_go(False)
        if not self.hedge_takes_over():
            self.client.poller.arm(self, self.expires)
            self.next_try()

    cdef void answer_data(self, const char *data, size_t size, size_t *held) noexcept:
        cdef iovec part
        part.iov_base = <void *>data
        part.iov_len = size
        self.bytes_out += size
        if not self.grpc:
            self.arm_wait()
        self.client.respond_body(&part, 1)
        if self.state != X_DONE and self.client.backlog() > HIGH_WATER:
            held[0] = size

    cdef void answer_trailers(self, Scan *scan) noexcept:
        self.find_grpc_status(scan.trailers, scan.trailer_count)
        if self.pool.policy.reads_reports:
            self.find_report(scan.trailers, scan.trailer_count)
        self.client.respond_trailers(scan)

    cdef void find_grpc_status(self, const Field *fields, int count) noexcept:
        cdef int i
        if self.grpc:
            for i in range(count):
                if fields[i].id == H_GRPC_STATUS:
                    self.grpc_status = grpc_status(fields[i].value, fields[i].value_length)
            if self.grpc_status == UNAVAILABLE:
                self.reason = b"grpc-unavailable"

    cdef int final_grpc_status(self) noexcept:
        return self.grpc_status if self.status == 200 else Exchange.final_grpc_status(self)

    cdef bint succeeded(self) noexcept:
        return Exchange.succeeded(self) and (not self.grpc or self.grpc_status == 0)

    cdef void let_go(self, bint ok) noexcept:
        if self.learning and ok and self.grpc_status == 0 and self.endpoint >= 0 and self.cost_key:
            self.learn_cost()
        Exchange.let_go(self, ok and self.grpc_status != UNAVAILABLE)

    cdef int verdict(self, bint ok) noexcept:
        if self.grpc_status > 0 and self.status == 200:
            return verdict_of(http_status(self.grpc_status), True)
        return Exchange.verdict(self, ok)

    cdef void client_drained(self) noexcept:
        cdef StreamCall call = self.call
        cdef size_t held = call.held
        if held and call.exchange is not None:
            call.held = 0
            (<Http2Channel>self.pool.channels[self.last_endpoint]).consume(call, held)


tg_reuse(<PyTypeObject *>StreamCall)
tg_reuse(<PyTypeObject *>Http2Exchange)
