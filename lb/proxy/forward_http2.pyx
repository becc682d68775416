"""An exchange with a pool that speaks HTTP/2: see forward_http2.pxd.

Both bodies stream, and flow control is tied from end to end: the endpoint is given window as the client takes what
came, the client as the endpoint does. The request's fields are kept, and its body while it fits the listener's
`retry_buffer` and the answer has not begun, so that another stream or endpoint can be tried.
"""

from cpython.object cimport PyTypeObject
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memcmp, memset
from lb.core.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.core.head cimport H_CONTENT_LENGTH, H_GRPC_STATUS, H_TRAILER, Field, Scan, mark_hop_by_hop
from lb.core.head_text cimport append_trailers
from lb.core.http2 cimport h2_waiting, h2_whole
from lb.core.reuse cimport tg_reuse
from lb.core.segment cimport TG_S_CONNECT_ERRORS, TG_S_RESPONSE_ERRORS, tg_add
from lb.core.stream cimport iovec
from lb.inference.sequence cimport infers
from lb.proxy.bound cimport goes_on, may_leave
from lb.proxy.cors cimport drop_cors
from lb.proxy.exchange cimport (
    X_ANSWERING, X_BACKOFF, X_DONE, X_PICKED, X_QUEUED, X_REQUEST, X_WAITING, Exchange,
)
from lb.proxy.forward_http2_call cimport StreamCall, is_well
from lb.proxy.forward_http2_cut cimport end_in_trailers
from lb.proxy.forward_http2_fields cimport request_fields
from lb.proxy.forward_http2_message cimport (
    awaits_model, awaits_weight, learn_cost, may_name_sequence, model_of, read_message,
)
from lb.proxy.mirror_stream cimport mirror_stream
from lb.proxy.refusal cimport SPEAKS_GRPC
from lb.proxy.retry cimport RETRY_5XX, RETRY_CONNECT, RETRY_RESET, is_retryable
from lb.proxy.session cimport learn_session
from lb.proxy.stream_sequences cimport StreamSequences, streams_inferences
from lb.proxy.tries cimport Hedge, TryingExchange
from lb.upstream.failure cimport FAIL_CONNECT, FAIL_PROTOCOL, FAIL_REFUSED, FAIL_RESET, FAIL_TOO_LARGE
from lb.upstream.grpc_text cimport GRPC_UNKNOWN, grpc_status, grpc_status_of_http, pushback_ms
from lb.upstream.http2 cimport Http2Channel
from lb.upstream.outlier cimport VERDICT_GATEWAY, VERDICT_NONE, verdict_of_grpc
from lb.upstream.pool cimport POOL_OIP

from lb.inference import management

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
            kind = RETRY_RESET | RETRY_5XX    # a model server that goes away: see lb.proxy.infer
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
