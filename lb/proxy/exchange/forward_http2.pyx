"""An exchange with a pool that speaks HTTP/2: see forward_http2.pxd.

Both bodies stream, and flow control is tied from end to end: the endpoint is given window as the client takes what
came, the client as the endpoint does. The request's fields are kept, and its body while it fits the listener's
`retry_buffer` and the answer has not begun, so that another stream or endpoint can be tried.
"""

from lb.inference import management

from cpython.object cimport PyTypeObject
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memcmp, memset, strlen
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.shared.hashing cimport hash64
from lb.http.head cimport (
    H_CONTENT_LENGTH, H_EXPECT, H_GRPC_STATUS, H_GRPC_TIMEOUT, H_HOST, H_TE, H_TRAILER, Field, Scan, classify,
    has_token, mark_hop_by_hop, worker_scan,
)
from lb.http.head_text cimport append_number, append_trailers
from lb.http.http2.session cimport Http2Session, h2_rewind, h2_waiting, h2_whole
from lb.http.http2.block cimport block_add, block_add_lower
from lb.http.http2.head cimport HEAD_OK, FieldList, read_response, read_trailers
from lb.http.methods cimport method_text
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NONE, NGHTTP2_NV_FLAG_NO_INDEX
from lb.net.reuse cimport tg_reuse
from lb.shared.segment cimport TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, tg_add
from lb.net.stream cimport iovec
from lb.inference.first_batch cimport first_batch, tg_batch
from lb.inference.first_model cimport MODEL_FOUND, MODEL_UNKNOWN, first_model
from lb.inference.sequence cimport (
    GRPC_FRAME, LOOK_FOUND, LOOK_MORE, LOOK_MOST, infers, look_for_sequence, looked, message_length, next_look,
    tg_sequence,
)
from lb.proxy.exchange.exchange cimport (
    X_ANSWERING, X_BACKOFF, X_DONE, X_PICKED, X_QUEUED, X_REQUEST, X_WAITING, Exchange, goes_on, learn_session,
    may_leave,
)
from lb.proxy.client.client cimport Client
from lb.proxy.routing.headers.client_certificate cimport append_client_certificate
from lb.proxy.routing.cors cimport drop_cors
from lb.proxy.routing.headers.fields cimport OMIT_CERTIFICATE, replace_host
from lb.proxy.routing.headers.forwarded cimport tg_hop, tg_hop_cache
from lb.proxy.exchange.mirror.stream cimport mirror_stream
from lb.proxy.exchange.refusal cimport SPEAKS_GRPC, grpc_code, grpc_message
from lb.proxy.exchange.retry cimport RETRY_5XX, RETRY_CONNECT, RETRY_RESET, is_good, is_retryable
from lb.proxy.exchange.stream_sequences cimport StreamSequences, sequence_key, streams_inferences
from lb.proxy.exchange.attempts cimport Hedge, TryingExchange
from lb.upstream.load.cost cimport UNIT_BATCH, UNIT_BYTES, PoolCosts
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET, FAIL_TOO_LARGE
from lb.http.grpc.text cimport (
    GRPC_UNKNOWN, grpc_status, grpc_status_of_http, grpc_timeout, grpc_timeout_ns, pushback_ms,
)
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.load.outlier cimport VERDICT_GATEWAY, VERDICT_NONE, verdict_of_grpc
from lb.upstream.pool cimport KEY_MODEL, POOL_OIP


cdef enum:
    WEIGHING_NS = 100_000_000         # longest wait for the message that tells what a request costs
    HIGH_WATER = 64 * 1024            # bytes waiting on one side before the other is given no more window
    CANCELLED = 1                     # of gRPC
    DEADLINE_EXCEEDED = 4
    UNAVAILABLE = 14                  # the server says that it cannot take requests
    # llhttp's numbers of the methods that may be repeated (RFC 9110 section 9.2.2).
    M_DELETE = 0
    M_GET = 1
    M_HEAD = 2
    M_PUT = 4
    M_OPTIONS = 6
    M_TRACE = 7


cdef const char *INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"
cdef size_t INFER_PATH_LENGTH = 42


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
                self.unary_inference = True
            elif not infers(scan.target, scan.target_length):
                reason = management.refused_call(scan.target[:scan.target_length])
                if reason is not None:
                    # As UNIMPLEMENTED, and 404 where REST asks for the same.
                    self.request_complete = scan.complete
                    self.fail(404, b"single-server", reason)
                    return
        self.call = StreamCall.__new__(StreamCall)
        self.call.stream.finished = scan.complete
        self.call.stream.keep = self.listener.retry_buffer
        if self.build_fields(scan) < 0:
            self.fail(503, b"no-memory", "out of memory")
            return
        if self.expires != UINT64_MAX:
            self.client.poller.arm(self, self.expires)
        self.naming = awaits_model(self, scan)
        self.looking = (self.pool.sequences is not None and self.pool.endpoints.size and not scan.complete
                        and infers(scan.target, scan.target_length))
        if self.looking and streams_inferences(scan.target, scan.target_length):
            self.messages = StreamSequences.__new__(StreamSequences)
        if self.pool.costs is not None:
            self.weighing = awaits_weight(self, scan)
        if self.naming or self.looking or self.weighing:
            if self.weighing:
                self.client.poller.arm(self, min(self.expires, self.client.poller.now + WEIGHING_NS))
            self.move(X_REQUEST)
            return
        self.start_try()

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

    cdef void model_not_ready(self) noexcept:
        if not self.any_endpoint:
            Exchange.model_not_ready(self)
            return
        self.want_model(None)
        self.start_try()

    cdef int build_fields(self, Scan *scan) noexcept:
        return request_fields(self, scan)

    cdef void request_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef Http2Channel channel = None
        cdef bint launched = self.endpoint >= 0
        cdef int i
        if self.state == X_DONE or (self.endpoint < 0 and self.state != X_QUEUED and self.state != X_REQUEST
                                    and self.state != X_BACKOFF):
            return
        if self.inference and size and self.bytes_in == size and self.recorded():
            self.log_model = model_of(<const char *>spans[0].iov_base, spans[0].iov_len)
        if launched:
            channel = <Http2Channel>self.pool.channels[self.endpoint]
        for i in range(count):
            if (channel.write(self.call, spans[i].iov_base, spans[i].iov_len) if launched
                    else tg_buffer_append(&self.call.stream.queue, spans[i].iov_base, spans[i].iov_len)) < 0:
                self.fail(503, b"no-memory", "out of memory")
                return
            if launched and self.messages is not None:
                self.messages.take(self, <const char *>spans[i].iov_base, spans[i].iov_len)
        if last:
            self.request_complete = True
            if launched:
                channel.finish(self.call)
            else:
                self.call.stream.finished = True
            if launched:
                self.mirror()
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
            read_message(self)

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
        if self.messages is not None:
            self.messages.begin(self, &self.call.stream.queue)
        self.call.exchange = self
        (<Http2Channel>self.pool.channels[self.endpoint]).start(self.call, self.expires)
        if self.request_complete:
            self.mirror()
            self.move(X_WAITING)
            self.arm_wait()
            if self.learning:
                self.sent_at = self.picked_at
            if self.route.hedge is not None:
                self.watch()

    cdef void mirror(self) noexcept:
        """The request is complete and with its first endpoint. Of a pool of models only inferences are copied."""
        if self.route.mirror is None or self.tries != 1 or (self.inference and not self.unary_inference):
            return
        mirror_stream(self.route.mirror, self.client.poller, self.call, self.key, self.grpc != 0)

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
            self.end()
            return
        if self.state == X_ANSWERING:
            tg_add(&self.pool.series[self.last_endpoint][TG_S_RESPONSE_ERRORS], 1)
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
        if self.bound >= 0 and kind == FAIL_CONNECT and not self.sequence_start:
            if not h2_whole(&self.call.stream) or not goes_on(self):
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
            end_in_trailers(self, status, reason, message)
        else:
            TryingExchange.fail(self, status, reason, message)

    cdef bint may_retry(self, int kind, bint begun) noexcept:
        """Safe when the endpoint did not process the request, or repeating it does no harm; possible while all of it is
        still here."""
        if kind == FAIL_CONNECT or kind == FAIL_REFUSED:
            return h2_whole(&self.call.stream) and may_leave(self) and self.retry_granted(RETRY_CONNECT, -1)
        if kind != FAIL_RESET or begun or not self.idempotent or not self.whole():
            return False
        return self.retry_granted(RETRY_RESET, -1)

    cdef bint whole(self) noexcept:
        """The request can be sent once more, as far as it has come."""
        return h2_whole(&self.call.stream) and not (self.inference and may_name_sequence(self))

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
        (<Http2Channel>hedge.pool.channels[hedge.endpoint]).start(call, self.expires)
        return True

    cdef void cancel_hedge(self, Hedge hedge) noexcept:
        cdef StreamCall call = <StreamCall>hedge.call
        if call is not None:
            hedge.call = None
            call.exchange = None
            call.hedge = None
            (<Http2Channel>hedge.pool.channels[hedge.endpoint]).cancel(call)

    cdef void adopt(self, Hedge hedge) noexcept:
        self.call = <StreamCall>hedge.call
        self.call.hedge = None
        hedge.call = None
        self.sent_at = hedge.picked_at if self.learning else 0

    # The answer.

    cdef void answer_head(self, Scan *scan, bint last) noexcept:
        cdef tg_buffer extra
        if (self.route.retry is not None or self.inference) and self.failed_head(scan, last):
            return
        if self.route.hedge is not None:
            self.own_answer()
        self.call.stream.keep = 0             # what is kept goes with the next part of the body
        self.status = scan.status
        self.sized = scan.has_length
        if self.messages is not None and not last:
            self.sequence_start = False       # the stream was taken: what ends it later does not undo what began
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
        if self.chunks_trailers and not last and scan.first[H_TRAILER] >= 0 and scan.first[H_CONTENT_LENGTH] >= 0:
            scan.fields[scan.first[H_CONTENT_LENGTH]].hop = True
            scan.has_length = False
        if self.route.cors is not None:
            drop_cors(scan)
        if self.route.response_fields is not None:
            self.route.response_fields.apply(scan)     # where it has no room left for ours, it goes on without
        if last:
            self.find_grpc_status(scan.fields, scan.field_count)
        if not self.request_complete and (last or scan.status >= 300):
            self.client.answered_early()
        memset(&extra, 0, sizeof(extra))
        self.append_endpoint(&extra)
        self.client.respond(scan, &extra, last)
        tg_buffer_free(&extra)

    cdef bint failed_head(self, Scan *scan, bint last) noexcept:
        """Whether the answer is one of those that the route does not take while another try may do better."""
        cdef Field *field
        cdef int i, kind = 0, code = -1
        if not self.grpc:
            return is_retryable(scan.status) and self.try_again(RETRY_5XX, scan.status)
        if not last and scan.status == 200:
            return False
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.id == H_GRPC_STATUS:
                code = grpc_status(field.value, field.value_length)
            elif field.name_length == 22 and memcmp(field.name, b"grpc-retry-pushback-ms", 22) == 0:
                self.pushback = pushback_ms(field.value, field.value_length)
        if code < 0 and scan.status != 200:
            code = grpc_status_of_http(scan.status)        # not the server's, but of a proxy before it
            if self.idempotent and is_retryable(scan.status):
                kind = RETRY_5XX
        if self.inference and self.idempotent and (code == UNAVAILABLE or code == CANCELLED):
            kind = RETRY_RESET | RETRY_5XX    # a model server that goes away: see lb.proxy.exchange.infer
        if code <= 0 or not self.retry_named(kind, code) or not self.request_complete or not self.whole():
            return False
        if (self.hedge is None or self.hedge.endpoint < 0) and not self.retry_granted(kind, code):
            return False
        self.status = scan.status
        self.grpc_status = code               # of the attempt: `forget_answer` lets go of it
        if last:
            self.again = True
        else:
            self.cancel_try()
            self.forget_answer()
        return True

    cdef void forget_answer(self) noexcept:
        self.again = False
        self.let_go(False)
        self.grpc_status = -1
        if not self.hedge_takes_over():
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
        if self.status == 200 or (self.grpc_status >= 0 and self.status != 499):
            return self.grpc_status
        return Exchange.final_grpc_status(self)

    cdef int counted_grpc_status(self) noexcept:
        if not self.grpc or self.status != 200 or self.grpc_status >= 0:
            return Exchange.counted_grpc_status(self)
        return GRPC_UNKNOWN if self.reason == NULL else UNAVAILABLE

    cdef bint succeeded(self) noexcept:
        return Exchange.succeeded(self) and (not self.grpc or self.grpc_status == 0)

    cdef bytes named_model(self):
        return self.wanted_model if self.wanted_model is not None else self.log_model

    cdef void let_go(self, bint ok) noexcept:
        if self.learning and ok and self.grpc_status == 0 and self.endpoint >= 0 and self.cost_key:
            learn_cost(self)
        Exchange.let_go(self, ok)

    cdef int attempt_code(self, bint ok) noexcept:
        if not self.grpc:
            return -1
        if self.status == 499:
            return CANCELLED
        if self.grpc_status >= 0:
            return self.grpc_status
        if self.reason != NULL and self.first_byte_at == 0:
            return Exchange.final_grpc_status(self)            # ours
        if self.status == 200:
            return GRPC_UNKNOWN if ok else UNAVAILABLE         # it ended without a status, or broke off
        if self.status == 504 and self.state != X_ANSWERING:
            return DEADLINE_EXCEEDED          # of a try: it has not answered in time
        return grpc_status_of_http(self.status)

    cdef int verdict(self, bint ok) noexcept:
        if not self.grpc or self.status != 200 or self.grpc_status < 0 and not ok:
            return Exchange.verdict(self, ok)
        if ok and self.reason != NULL and self.grpc_status != UNAVAILABLE:
            return VERDICT_NONE               # an end of our own, for a client's fault
        if self.inference and self.grpc_status == CANCELLED:
            return VERDICT_GATEWAY            # which nobody asked for: a model server that goes away
        return verdict_of_grpc(self.attempt_code(ok))

    cdef void client_drained(self) noexcept:
        cdef StreamCall call = self.call
        cdef size_t held = call.held
        if held and call.exchange is not None:
            call.held = 0
            (<Http2Channel>self.pool.channels[self.last_endpoint]).consume(call, held)


tg_reuse(<PyTypeObject *>Http2Exchange)


cdef enum:
    CERTIFICATE_FIELD = 23            # length of "X-Forwarded-Client-Cert"

# What the hop adds to a request, until it is in the request's block.
cdef tg_buffer hop_lines


cdef int add_client_certificate(Http2Exchange exchange, Scan *scan) noexcept:
    cdef tg_buffer line
    cdef int failed
    memset(&line, 0, sizeof(line))
    failed = append_client_certificate(&line, exchange.client, scan)
    if tg_buffer_size(&line) > CERTIFICATE_FIELD + 4:
        failed |= block_add_lower(&exchange.call.fields, tg_buffer_head(&line), CERTIFICATE_FIELD,
                                  tg_buffer_head(&line) + CERTIFICATE_FIELD + 2,
                                  tg_buffer_size(&line) - CERTIFICATE_FIELD - 4)
    tg_buffer_free(&line)
    return failed


cdef int request_fields(Http2Exchange exchange, Scan *scan) noexcept:
    cdef tg_buffer *block = &exchange.call.fields
    cdef size_t method_length
    cdef const char *method = method_text(scan, exchange.method, &method_length)
    cdef tg_hop hop
    cdef tg_hop_cache *cache = NULL
    cdef uint64_t skip = <uint64_t>1 << H_EXPECT | <uint64_t>1 << H_HOST, allowed
    cdef Field *field
    cdef bytes name
    cdef size_t begun
    cdef bint known = False
    cdef int i, failed = 0
    mark_hop_by_hop(scan)
    hop.omit = 0 if exchange.route.request_fields is None else exchange.route.request_fields.omit
    if exchange.ids == NULL and hop.omit == 0:
        cache = exchange.client.hop_cache()
        if cache != NULL:
            known = exchange.listener.hop.cached(scan, cache)
    if not known:
        tg_buffer_clear(&hop_lines)
        hop.text = &hop_lines
        failed = exchange.listener.hop.collect(scan, exchange.ids, exchange.client.ip, exchange.client.ip_length,
                                               exchange.client.scheme(), scan.version, &hop)
    if exchange.route.new_host is not None:   # after X-Forwarded-Host, which says what the client asked for
        failed |= replace_host(scan, exchange.route.new_host)
    failed |= block_add(block, b":method", 7, method, method_length)
    failed |= block_add(block, b":path", 5, scan.target, scan.target_length)
    if scan.first[H_HOST] >= 0 and scan.fields[scan.first[H_HOST]].value_length:
        field = &scan.fields[scan.first[H_HOST]]
        failed |= block_add(block, b":authority", 10, field.value, field.value_length)
    else:
        name = exchange.pool.name.encode()
        failed |= block_add(block, b":authority", 10, <const char *>name, <size_t>len(name))
    if known:
        failed |= tg_buffer_append(block, tg_buffer_head(&cache.block), tg_buffer_size(&cache.block))
    else:
        begun = tg_buffer_size(block)
        for i in range(hop.count):
            failed |= block_add(block, hop.fields[i].name, hop.fields[i].name_length,
                                tg_buffer_head(&hop_lines) + hop.fields[i].start, hop.fields[i].length)
        if cache != NULL and not failed:
            exchange.listener.hop.keep(cache, tg_buffer_head(block) + begun, tg_buffer_size(block) - begun)
    if not hop.omit & OMIT_CERTIFICATE:
        failed |= add_client_certificate(exchange, scan)
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.hop or (field.id and (skip >> field.id) & 1):
            continue
        if field.id == H_GRPC_TIMEOUT and exchange.grpc:
            # What is left of it is said when the stream is opened.
            allowed = grpc_timeout_ns(field.value, field.value_length)
            if allowed and exchange.started + allowed < exchange.expires:
                exchange.expires = exchange.started + allowed
            continue
        failed |= block_add_lower(block, field.name, field.name_length, field.value, field.value_length)
    if scan.first[H_TE] >= 0:
        field = &scan.fields[scan.first[H_TE]]
        # What gRPC's clients say, and what others may say among more.
        if field.value_length == 8 and memcmp(field.value, b"trailers", 8) == 0 or has_token(field, b"trailers"):
            failed |= block_add(block, b"te", 2, b"trailers", 8)
            exchange.chunks_trailers = scan.version == 11 and not exchange.head_method
    return failed


cdef bint is_well(Exchange exchange, Scan *scan, bint last) noexcept:
    cdef int i
    if not is_good(scan.status):
        return False
    if exchange.grpc and last:
        for i in range(scan.field_count):
            if scan.fields[i].id == H_GRPC_STATUS:
                return grpc_status(scan.fields[i].value, scan.fields[i].value_length) == 0
    return True


cdef int code_of_head(Exchange exchange, Scan *scan, bint last) noexcept:
    """The gRPC status of an answer that begins: -1 where that comes behind its messages, or there is none."""
    cdef Field *field
    if not exchange.grpc:
        return -1
    if scan.first[H_GRPC_STATUS] >= 0:
        field = &scan.fields[scan.first[H_GRPC_STATUS]]
        return grpc_status(field.value, field.value_length)
    if scan.status != 200:
        return grpc_status_of_http(scan.status)
    return GRPC_UNKNOWN if last else -1


cdef class StreamCall(Http2Call):

    cdef int build(self, FieldList fields, uint64_t now) noexcept:
        cdef Http2Exchange exchange = <Http2Exchange>self.exchange
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
        cdef Http2Exchange exchange = <Http2Exchange>self.exchange
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
        if self.hedge is not None and not exchange.hedge_answer(self.hedge, is_well(exchange, scan, last), scan.status,
                                                                code_of_head(exchange, scan, last)):
            return 0
        self.head_seen = True
        exchange.answer_head(scan, last)
        return 0

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        if not self.head_seen:
            return FAIL_PROTOCOL
        (<Http2Exchange>self.exchange).answer_data(data, size, held)
        self.held += held[0]
        return 0

    cdef void judge(self) noexcept:
        if not self.head_seen:
            self.fail = FAIL_PROTOCOL

    cdef void sent_again(self) noexcept:
        if self.exchange is not None:
            self.exchange.count_again(self.hedge)

    cdef void room(self) noexcept:
        if self.exchange is not None and self.hedge is None:
            (<Http2Exchange>self.exchange).request_room()

    cdef void over(self) noexcept:
        cdef Http2Exchange exchange = <Http2Exchange>self.exchange
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


tg_reuse(<PyTypeObject *>StreamCall)


cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t size, const void *needle, size_t needle_size)

cdef const char *SEQUENCE = b"sequence_id"
cdef size_t SEQUENCE_LENGTH = 11
cdef const char *MODEL_METHODS = b"/inference.GRPCInferenceService/Model"
cdef size_t MODEL_METHODS_LENGTH = 37


cdef bint awaits_model(Http2Exchange exchange, Scan *scan) noexcept:
    """Of the protocol's methods those about a model, whose requests all name it in their first field."""
    cdef size_t n = scan.target_length
    if exchange.pool.models is None and exchange.pool.key_kind != KEY_MODEL:
        return False
    if n <= MODEL_METHODS_LENGTH or memcmp(scan.target, MODEL_METHODS, MODEL_METHODS_LENGTH) != 0:
        return False
    exchange.any_endpoint = memcmp(scan.target + n - 5, b"Infer", 5) != 0
    return True


cdef bint awaits_weight(Http2Exchange exchange, Scan *scan) noexcept:
    cdef PoolCosts costs = exchange.pool.costs
    cdef bint inference = exchange.pool.protocol == POOL_OIP and infers(scan.target, scan.target_length)
    if costs.unit == UNIT_BYTES and scan.has_length:
        exchange.units = costs.units_of_bytes(scan.content_length)
    if scan.complete or not exchange.pool.endpoints.size:
        return False
    if inference:
        # A stream's time says nothing of one request.
        exchange.learning = costs.learns and scan.target_length == INFER_PATH_LENGTH
        return costs.learns or costs.unit == UNIT_BATCH or exchange.units == 0
    return exchange.grpc and costs.unit == UNIT_BYTES and exchange.units == 0


cdef bint find_weight(Http2Exchange exchange) noexcept:
    """True: what it costs is known, as far as it can be."""
    cdef PoolCosts costs = exchange.pool.costs
    cdef const char *data = tg_buffer_head(&exchange.call.stream.queue)
    cdef size_t size = tg_buffer_size(&exchange.call.stream.queue)
    cdef tg_batch found
    if size < GRPC_FRAME:
        return False
    if costs.unit == UNIT_BYTES and exchange.units == 0:
        exchange.units = costs.units_of_bytes(message_length(data))
    if not exchange.inference or not (costs.learns or costs.unit == UNIT_BATCH):
        return True
    if not first_batch(data, size, &found) and size <= LOOK_MOST and not exchange.request_complete:
        return False
    if costs.unit == UNIT_BATCH:
        exchange.units = <double>found.size
    if found.model.size:
        exchange.cost_key = costs.model_key(found.model.data, found.model.size)
        if exchange.cost_key and exchange.learning and not costs.known(exchange.cost_key, exchange.client.poller.now):
            exchange.cost_model = found.model.data[:found.model.size]
    return True


cdef void learn_cost(Http2Exchange exchange) noexcept:
    cdef bytes model = exchange.cost_model
    cdef uint64_t took = exchange.first_byte_at - exchange.sent_at
    if exchange.sent_at == 0 or exchange.first_byte_at <= exchange.sent_at or exchange.pool.costs is None:
        return
    if model is None:
        exchange.pool.costs.learn(exchange.cost_key, NULL, 0, exchange.units, took, exchange.charged, exchange.crowd,
                                  exchange.client.poller.now)
    else:
        exchange.pool.costs.learn(exchange.cost_key, <const char *>model, <size_t>len(model), exchange.units, took,
                                  exchange.charged, exchange.crowd, exchange.client.poller.now)


cdef bint find_model(Http2Exchange exchange) noexcept:
    """Looks for its name in what has come; True: the endpoint can be chosen now."""
    cdef const char *name
    cdef size_t size
    cdef const tg_buffer *body = &exchange.call.stream.queue
    cdef int found = first_model(tg_buffer_head(body), tg_buffer_size(body), &name, &size)
    if found == MODEL_FOUND:
        exchange.want_model(name[:size])
        if exchange.pool.key_kind == KEY_MODEL:
            exchange.key = hash64(name, size)
    return found != MODEL_UNKNOWN or tg_buffer_size(body) > LOOK_MOST


cdef bytes model_of(const char *body, size_t n):
    cdef const char *name
    cdef size_t size
    return name[:size] if first_model(body, n, &name, &size) == MODEL_FOUND else None


cdef void look(Http2Exchange exchange) noexcept:
    """Looks for the sequence that the inference belongs to."""
    cdef tg_sequence found
    cdef tg_buffer *body = &exchange.call.stream.queue
    # What exceeds the buffer is told by what is here: encoders write the tensors last.
    cdef looked verdict = look_for_sequence(
        tg_buffer_head(body), tg_buffer_size(body), exchange.request_complete or tg_buffer_size(body) >= LOOK_MOST,
        &found)
    if verdict == LOOK_MORE:
        return
    exchange.looking = False
    if verdict == LOOK_FOUND:
        exchange.join_sequence(sequence_key(exchange.pool.sequences, &found), found.start,
                               found.end and exchange.messages is None)


cdef bint may_name_sequence(Http2Exchange exchange) noexcept:
    cdef const char *body = tg_buffer_head(&exchange.call.stream.queue)
    cdef size_t n = tg_buffer_size(&exchange.call.stream.queue)
    return n > 0 and (body[0] != 0 or memmem(body, n, SEQUENCE, SEQUENCE_LENGTH) != NULL)


cdef void read_message(Http2Exchange exchange) noexcept:
    """Which endpoints will do is in the first message: nothing is sent on before that is known."""
    cdef const tg_buffer *body = &exchange.call.stream.queue
    cdef size_t size = tg_buffer_size(body)
    if size < exchange.enough and not exchange.request_complete:
        return
    if size < LOOK_MOST:
        exchange.enough = next_look(tg_buffer_head(body), size)
    if exchange.naming and (find_model(exchange) or exchange.request_complete):
        exchange.naming = False
    if exchange.looking:
        look(exchange)
    if exchange.weighing and (find_weight(exchange) or exchange.request_complete):
        exchange.weighing = False
    if exchange.state == X_REQUEST and not exchange.naming and not exchange.looking and not exchange.weighing:
        exchange.start_try()


cdef void put_field(Field *field, const char *name, const char *value, size_t n) noexcept nogil:
    field.name = name
    field.name_length = <uint32_t>strlen(name)
    field.value = value
    field.value_length = <uint32_t>n
    classify(field)


cdef void end_in_trailers(Http2Exchange exchange, int status, const char *reason, str message) noexcept:
    cdef Client client = exchange.client
    cdef Scan scan
    cdef tg_buffer code
    cdef bytes text = grpc_message(message)
    exchange.cancel_upstream()
    memset(&code, 0, sizeof(code))
    append_number(&code, <uint64_t>grpc_code(status))
    scan.trailer_count = 2
    put_field(&scan.trailers[0], b"grpc-status", tg_buffer_head(&code), tg_buffer_size(&code))
    put_field(&scan.trailers[1], b"grpc-message", <const char *>text, <size_t>len(text))
    exchange.answer_trailers(&scan)
    tg_buffer_free(&code)
    exchange.reason = reason
    exchange.let_go(status < 500)     # a client's fault is not held against the endpoint
    exchange.record()
    client.respond_end()
