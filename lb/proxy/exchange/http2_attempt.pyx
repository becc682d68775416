"""An attempt at an endpoint that speaks HTTP/2: see http2_attempt.pxd.

Both bodies stream, and flow control is tied from end to end: the endpoint is given window as the client takes what
came, the client as the endpoint does. The request's fields are kept, and its body while it fits the listener's
`retry_buffer` and the answer has not begun, so that it can be sent on another stream, or to another endpoint. A retry
is this attempt, launched again; a hedge is another with a copy of the request.
"""

from lb.inference import management
from urllib.parse import unquote

cimport cython
from cpython.object cimport PyTypeObject
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memcmp, memset, strlen
from lb.failure cimport (
    CLIENT_GONE, FAIL_CONNECT, FAIL_GRPC_UNAVAILABLE, FAIL_MODEL_ERROR, FAIL_NO_MEMORY, FAIL_NO_SOCKET, FAIL_PROTOCOL,
    FAIL_REFUSED, FAIL_RESET, FAIL_TIMEOUT, FAIL_TOO_LARGE, RETRY_5XX, RETRY_RESET, VERDICT_GATEWAY, VERDICT_NONE,
    failure_of, grpc_code, http_of_grpc, is_good, is_retryable, verdict_of_grpc,
)
from lb.net.arena cimport View
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport (
    H_CONTENT_LENGTH, H_EXPECT, H_GRPC_STATUS, H_GRPC_TIMEOUT, H_HOST, H_TE, H_TRAILER, Field, Scan, classify,
    has_token, mark_hop_by_hop, scan_field, worker_scan,
)
from lb.http.head_text cimport append_number, append_trailers
from lb.http.http2.session cimport Http2Session, h2_rewind, h2_waiting, h2_whole
from lb.http.http2.block cimport block_add, block_add_lower, block_field, block_next
from lb.http.http2.head cimport HEAD_OK, FieldList, read_response, read_trailers
from lb.http.methods cimport method_text
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NONE, NGHTTP2_NV_FLAG_NO_INDEX
from lb.net.reuse cimport tg_reuse
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport ENDPOINT_RESPONSE_ERRORS
from lb.net.stream cimport iovec
from lb.inference.first_timeout cimport TIMEOUT_MORE
from lb.inference.sequence cimport LOOK_MOST, infers, next_look
from lb.inference.stream_messages cimport (
    MESSAGES_ERROR, MESSAGES_NO_MEMORY, MESSAGES_SAME, new_stream_messages,
)
from lb.proxy.client.client cimport Client
from lb.proxy.routing.headers.client_certificate cimport append_client_certificate
from lb.proxy.routing.cors cimport drop_cors
from lb.proxy.exchange.cached_call cimport CachedCall
from lb.proxy.exchange.exchange cimport (
    X_ANSWERING, X_BACKOFF, X_DONE, X_QUEUED, X_REQUEST, Exchange, goes_on, learn_session, may_leave, verdict_by_status,
)
from lb.proxy.routing.headers.fields cimport OMIT_CERTIFICATE, replace_host
from lb.proxy.exchange.first_message cimport FirstMessage, awaits_message, look_for_timeout, may_name_sequence
from lb.proxy.routing.headers.forwarded cimport tg_hop, tg_hop_cache
from lb.proxy.exchange.intercepted cimport intercept
from lb.proxy.exchange.grpc_web_codec cimport WebCodec
from lb.proxy.exchange.mirror.stream cimport mirror_stream
from lb.proxy.exchange.stream_sequences cimport streams_inferences
from lb.proxy.exchange.retried_answer cimport retry_answer
from lb.proxy.exchange.refusal cimport SPEAKS_GRPC, SPEAKS_WEB, SPEAKS_WEB_TEXT, grpc_message
from lb.upstream.attempt cimport A_ANSWERING, A_OVER, A_SENDING, A_SENT, Attempt, step, tg_outcome
from lb.http.grpc.text cimport (
    GRPC_UNKNOWN, grpc_status, grpc_status_of_http, grpc_timeout, pushback_ms,
)
from lb.upstream.connect_failure cimport NO_SOCKET
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.connections.http2_call cimport Http2Call
from lb.upstream.pool cimport POOL_OIP


cdef enum:
    HIGH_WATER = 64 * 1024            # bytes waiting on one side before the other is given no more window
    CANCELLED = 1                     # of gRPC
    DEADLINE_EXCEEDED = 4
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14                  # the server says that it cannot take requests


cdef const char *INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"
cdef size_t INFER_PATH_LENGTH = 42


@cython.final
cdef class Http2Attempt(Http2Call):

    # The request, on its way in.

    cdef bint begin(self, Scan *scan) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        if exchange.pool.protocol == POOL_OIP:
            self.inference = True
            if scan.target_length == INFER_PATH_LENGTH and memcmp(scan.target, INFER_PATH, INFER_PATH_LENGTH) == 0:
                exchange.idempotent = True
                self.unary_inference = True
                self.timing = True
            elif streams_inferences(scan.target, scan.target_length):
                self.messages = new_stream_messages(exchange.route.bare_streams)
            elif not infers(scan.target, scan.target_length):
                refused = management.refused_call(scan.target[:scan.target_length])
                if refused is not None:
                    # As UNIMPLEMENTED, and 404 where REST asks for the same.
                    exchange.request_complete = scan.complete
                    exchange.fail(refused[0], refused[1])
                    return False
        self.stream.finished = scan.complete
        self.stream.keep = exchange.listener.retry_buffer
        if exchange.grpc >= SPEAKS_WEB:
            self.web = WebCodec.__new__(WebCodec)
            self.web.text = exchange.grpc == SPEAKS_WEB_TEXT
        if (self.web is not None and self.web.rewrite_request(scan) < 0 or request_fields(self, exchange, scan)
                or self.web is not None and block_add(&self.fields, b"te", 2, b"trailers", 8)):
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
            return False
        if exchange.expires != UINT64_MAX:
            exchange.client.poller.arm(exchange, exchange.expires)
        return not awaits_message(exchange, self.inference, scan)

    cdef void take_body(self, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef int i
        if exchange.state == X_DONE or (self.state == A_OVER and exchange.state != X_QUEUED
                                        and exchange.state != X_REQUEST and exchange.state != X_BACKOFF):
            return
        if self.web is not None and self.web.text:
            if not self.web.decode(exchange, spans, count, last):
                return
            self.send_body(exchange, tg_buffer_head(&self.web.piece), tg_buffer_size(&self.web.piece))
        else:
            for i in range(count):
                self.send_body(exchange, <const char *>spans[i].iov_base, spans[i].iov_len)
        if exchange.state == X_DONE:
            return
        if self.timing:
            self.find_timeout(exchange, last)
        if last:
            exchange.request_complete = True
            if self.state == A_OVER:
                self.stream.finished = True
            else:
                (<Http2Channel>self.pool.channels[self.endpoint]).finish(self)
                self.mirror(exchange)
                if self.state == A_SENDING:
                    self.sent(exchange)
        elif h2_waiting(&self.stream) > HIGH_WATER:
            self.stream.wants_room = True
            exchange.wants_body = False
            if not exchange.grpc and exchange.state > X_QUEUED:
                exchange.arm_wait()           # nobody else watches an endpoint that takes no more of it

    cdef void send_body(self, Exchange exchange, const char *data, size_t size) noexcept:
        if exchange.state == X_DONE:
            return
        if (tg_buffer_append(&self.stream.queue, data, size) if self.state == A_OVER
                else (<Http2Channel>self.pool.channels[self.endpoint]).write(self, data, size)) < 0:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
        elif exchange.source is not None:
            exchange.source.passed(exchange, data, size)

    cdef void find_timeout(self, Exchange exchange, bint whole) noexcept:
        cdef const tg_buffer *body = &self.stream.queue
        cdef size_t size = tg_buffer_size(body)
        if not h2_whole(&self.stream):
            self.timing = False
            return
        if size < self.enough and not whole:
            return
        if (look_for_timeout(exchange, tg_buffer_head(body), size) == TIMEOUT_MORE and size < LOOK_MOST
                and not whole):
            self.enough = next_look(tg_buffer_head(body), size)
        else:
            self.timing = False

    cdef void sent(self, Exchange exchange) noexcept:
        step(self, A_SENT)
        self.sent_at = exchange.client.poller.now
        if self is exchange.attempt:
            if exchange.route.hedge is not None:
                exchange.watch()
            exchange.arm_wait()

    cdef void take_trailers(self, Scan *scan) noexcept:
        if append_trailers(&self.stream.trailers, scan) < 0:
            (<Exchange>self.owner).fail(FAIL_NO_MEMORY, "out of memory")

    cdef void mirror(self, Exchange exchange) noexcept:
        """The request is complete and with its first endpoint. Of a pool of models only inferences are copied."""
        if exchange.route.mirror is None or exchange.attempts != 1 or (self.inference and not self.unary_inference):
            return
        if exchange.route.mirror.pool is exchange.pool:       # a canary that answers for clients already
            return
        self.comparison = mirror_stream(exchange.route.mirror, exchange.client.poller, self, exchange.key,
                                        exchange.grpc != 0)

    # The endpoint.

    cdef void launch(self) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        self.sent_at = 0
        step(self, A_SENDING)
        (<Http2Channel>self.pool.channels[self.endpoint]).start(self, exchange.expires)
        if exchange.request_complete:
            if self is exchange.attempt:
                self.mirror(exchange)
            self.sent(exchange)

    cdef void stop(self) noexcept:
        if self.dispatcher is not None:
            (<Http2Channel>self.dispatcher).cancel(self)

    cdef Attempt twin(self):
        cdef Http2Attempt attempt = Http2Attempt.__new__(Http2Attempt)
        if (tg_buffer_append(&attempt.fields, tg_buffer_head(&self.fields), tg_buffer_size(&self.fields)) < 0
                or tg_buffer_append(&attempt.stream.queue, tg_buffer_head(&self.stream.queue),
                                    tg_buffer_size(&self.stream.queue)) < 0
                or tg_buffer_append(&attempt.stream.trailers, tg_buffer_head(&self.stream.trailers),
                                    tg_buffer_size(&self.stream.trailers)) < 0):
            return None
        attempt.stream.finished = True
        attempt.stream.keep = (<Exchange>self.owner).listener.retry_buffer
        attempt.web = self.web
        attempt.chunks_trailers = self.chunks_trailers
        attempt.inference = self.inference
        if self.messages is not None:
            attempt.messages = new_stream_messages(self.messages.bare)
        attempt.unary_inference = self.unary_inference
        return attempt

    # What its connection says (lb.upstream.connections.http2_call).

    cdef int build(self, FieldList fields, uint64_t now) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef int n
        cdef bint round
        fields.add_held(b":scheme", 7, b"https", 4 if self.dispatcher.address.tls is None else 5, NGHTTP2_NV_FLAG_NONE)
        fields.add_block(&self.fields)
        if exchange.grpc and exchange.expires != UINT64_MAX:
            n = grpc_timeout(self.timeout, exchange.expires - now if exchange.expires > now else 1, &round)
            fields.add_held(b"grpc-timeout", 12, self.timeout, <size_t>n,
                            NGHTTP2_NV_FLAG_NONE if round else NGHTTP2_NV_FLAG_NO_INDEX)
        self.stream.streaming = True
        self.stream.messages = exchange.grpc != 0
        h2_rewind(&self.stream)
        self.head_seen = False
        self.cached = None
        self.held = 0
        if self.messages is not None:
            self.messages.begin()
        return 0

    cdef bint replayable(self) noexcept:
        return h2_whole(&self.stream)

    cdef int take_fields(self, Http2Session session, bint last, bint *over) noexcept:
        cdef Scan *scan = worker_scan()
        cdef Exchange exchange = <Exchange>self.owner
        if session.blocks.over:
            return FAIL_TOO_LARGE
        scan.max_fields = <int>session.options.max_fields
        if self.head_seen:
            if read_trailers(scan, &session.blocks.fields) != HEAD_OK:
                return FAIL_PROTOCOL
            self.answer_trailers(exchange, scan)
            return 0
        if read_response(scan, &session.blocks.fields, last) != HEAD_OK or scan.status == 101:
            return FAIL_PROTOCOL
        if scan.status < 200:
            self.begun = False
            if self is exchange.attempt and scan.status != 100 and not exchange.http10:   # 100 was sent by ourselves
                exchange.client.respond(scan, NULL, False)
            return 0
        if self is exchange.hedge and not exchange.hedge_answers(is_well(exchange, scan, last), scan.status,
                                                                 code_of_head(exchange, scan, last)):
            return 0
        self.head_seen = True
        self.answer_head(exchange, scan, last)
        return 0

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef iovec part
        if not self.head_seen:
            return FAIL_PROTOCOL
        part.iov_base = <void *>data
        part.iov_len = size
        if self.comparison is not None:
            self.comparison.take_original(data, size)
        if self.messages is not None and not self.translate(exchange, &part):
            return 0
        if self.cached is not None:
            self.cached.take_answer(exchange, data, size)
            if self.cached.combining:
                return 0
        if self.web is not None and self.web.text:
            if not self.web.encode(exchange, &part):
                return 0
        exchange.bytes_out += part.iov_len
        if not exchange.grpc:
            exchange.arm_wait()
        exchange.client.respond_body(&part, 1)
        self.hold(exchange, size, held)
        return 0

    cdef int take_view(self, View view, size_t *held) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        # The messages of a stream may have to be in another form, and an answer may be kept.
        if (not self.head_seen or self.web is not None or self.messages is not None or self.cached is not None
                or self.comparison is not None or not exchange.client.respond_view(view)):
            return self.take_data(view.data, view.size, held)
        exchange.bytes_out += view.size
        self.hold(exchange, view.size, held)
        return 0

    cdef void hold(self, Exchange exchange, size_t size, size_t *held) noexcept:
        if exchange.state != X_DONE and exchange.client.backlog() > HIGH_WATER:
            held[0] = size                    # what the endpoint sent, whatever became of it
            self.held += size
            self.client_slow = True

    cdef bint translate(self, Exchange exchange, iovec *part) noexcept:
        cdef int found = self.messages.take(<const char *>part.iov_base, part.iov_len)
        if exchange.pool.counts is not None and type(exchange.source) is FirstMessage:
            (<FirstMessage>exchange.source).answered(exchange, self.messages.count)
        if found == MESSAGES_SAME:
            return True
        if found == MESSAGES_NO_MEMORY:
            exchange.fail(FAIL_NO_MEMORY, "out of memory")
            return False
        part.iov_base = tg_buffer_head(&self.messages.out)
        part.iov_len = tg_buffer_size(&self.messages.out)
        if found == MESSAGES_ERROR:
            if part.iov_len:
                exchange.bytes_out += part.iov_len
                exchange.client.respond_body(part, 1)
            if exchange.state != X_DONE:
                end_in_trailers(self, exchange, FAIL_MODEL_ERROR, self.messages.error.decode("utf-8", "replace"))
            return False
        return part.iov_len != 0

    cdef void judge(self) noexcept:
        if not self.head_seen:
            self.fail = FAIL_PROTOCOL

    cdef void sent_again(self) noexcept:
        if self.owner is not None:
            (<Exchange>self.owner).sent_again(self)

    cdef void room(self) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        if exchange is not None and self is exchange.attempt and exchange.state != X_DONE and not exchange.wants_body:
            exchange.wants_body = True
            if not exchange.grpc and exchange.state < X_ANSWERING:
                exchange.client.poller.arm(exchange, exchange.expires)
            exchange.client.resume_request()

    cdef void over(self) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef int kind = self.fail
        if exchange is None:
            return
        if self.again:
            self.forget_answer(exchange)
        elif kind == 0:
            if self.comparison is not None and exchange.grpc_status >= 0:
                self.comparison.original_ended(exchange.grpc_status)
            if self.cached is not None and self.cached.combining:
                self.cached.combine(exchange)
                return
            if self.cached is not None:
                self.cached.answered(exchange)
            exchange.end()
        elif exchange.state == X_ANSWERING:
            tg_add(&self.pool.series[self.endpoint][ENDPOINT_RESPONSE_ERRORS], 1)
            exchange.fail(FAIL_RESET, "the endpoint ended the stream within its answer")
        elif kind == FAIL_TIMEOUT and self is exchange.attempt:
            exchange.on_timer()               # the exchange's deadline, met while the call waited for a stream
        elif not exchange.attempt_failed(self, kind):
            self.give_up(exchange, kind)

    cdef void give_up(self, Exchange exchange, int kind) noexcept:
        if exchange.affinity.sequence_at >= 0 and kind == FAIL_CONNECT and not exchange.affinity.starts:
            if not h2_whole(&self.stream) or not goes_on(exchange):
                exchange.fail_lost()
        elif kind == FAIL_CONNECT:
            exchange.fail(FAIL_CONNECT, "could not connect to the endpoint")
        elif kind == FAIL_NO_SOCKET:
            exchange.fail(FAIL_NO_SOCKET, NO_SOCKET)
        elif kind == FAIL_PROTOCOL:
            exchange.fail(FAIL_PROTOCOL, "the endpoint's answer is not valid HTTP/2")
        elif kind == FAIL_TOO_LARGE:
            exchange.fail(FAIL_TOO_LARGE, "the head of the endpoint's answer is over the limit")
        else:
            exchange.fail(FAIL_RESET, "the endpoint ended the stream without an answer")

    cdef bint may_retry(self, int kind) noexcept:
        """Safe when the endpoint did not process the request, or repeating it does no harm; possible while all of it is
        still here."""
        cdef Exchange exchange = <Exchange>self.owner
        if kind == FAIL_CONNECT or kind == FAIL_NO_SOCKET or kind == FAIL_REFUSED:
            return h2_whole(&self.stream) and may_leave(exchange) and exchange.retry_granted(failure_of(kind).retry, -1)
        if kind != FAIL_RESET or self.begun or not exchange.idempotent or not self.whole():
            return False
        return exchange.retry_granted(failure_of(kind).retry, -1)

    cdef bint whole(self) noexcept:
        """The request can be sent once more, as far as it has come."""
        return h2_whole(&self.stream) and not (self.inference and may_name_sequence(self))

    cdef bint repeatable(self) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        return exchange.request_complete and exchange.idempotent and self.whole()

    # The answer.

    cdef void answer_head(self, Exchange exchange, Scan *scan, bint last) noexcept:
        cdef tg_buffer extra
        if type(exchange.source) is CachedCall and (<CachedCall>exchange.source).combining:
            self.rows_head(exchange, scan, last)
            return
        if self.web is not None and not self.web.rewrite_answer(exchange, scan, last):
            return
        if (exchange.route.retry is not None or self.inference) and self.failed_head(exchange, scan, last):
            return
        if exchange.source is not None and self.rescued(exchange, scan, last):
            return
        if exchange.route.hedge is not None:
            exchange.own_answer()
        self.stream.keep = 0                  # what is kept goes with the next part of the body
        exchange.status = scan.status
        self.sized = scan.has_length
        if exchange.source is not None:
            exchange.source.answer_begins(exchange, last)
            if type(exchange.source) is CachedCall:
                self.cached = <CachedCall>exchange.source
        exchange.first_byte_at = exchange.client.poller.now
        step(self, A_ANSWERING)
        exchange.move(X_ANSWERING)
        if exchange.grpc:
            exchange.client.poller.arm(exchange, exchange.expires)     # a stream of messages may be silent for long
        else:
            exchange.arm_wait()
        if self.pool.policy.reads_reports:
            exchange.find_report(scan.fields, scan.field_count)
        if exchange.pool.sessions is not None:
            learn_session(exchange, scan.status if is_well(exchange, scan, last) else 500, scan.fields,
                          scan.field_count)
        mark_hop_by_hop(scan)
        if self.messages is not None and scan.first[H_CONTENT_LENGTH] >= 0 and not last:
            scan.fields[scan.first[H_CONTENT_LENGTH]].hop = True      # of the form that the endpoint gives
            scan.has_length = False
        if self.chunks_trailers and not last and scan.first[H_TRAILER] >= 0 and scan.first[H_CONTENT_LENGTH] >= 0:
            scan.fields[scan.first[H_CONTENT_LENGTH]].hop = True
            scan.has_length = False
        if exchange.route.cors is not None:
            drop_cors(scan)
        exchange.change_answer(scan)     # where it has no room left for ours, it goes on without
        if scan.status >= 400 and not exchange.grpc:
            intercept(exchange, scan)
        if last:
            self.find_grpc_status(exchange, scan.fields, scan.field_count)
            if self.inference and exchange.grpc_status == UNIMPLEMENTED:
                name_method(self, scan)
        if not exchange.request_complete and (last or scan.status >= 300):
            exchange.client.answered_early()
        memset(&extra, 0, sizeof(extra))
        if self.cached is not None:
            self.cached.take_head(exchange, scan, &extra)
        exchange.append_endpoint(&extra)
        exchange.client.respond(scan, &extra, last)
        tg_buffer_free(&extra)

    cdef void rows_head(self, Exchange exchange, Scan *scan, bint last) noexcept:
        """Of an answer to rows of a request: the client gets none of it until it is complete."""
        if self.failed_head(exchange, scan, last):
            return
        if exchange.route.hedge is not None:
            exchange.own_answer()
        exchange.status = scan.status
        self.cached = <CachedCall>exchange.source
        self.cached.take_rows_head(scan)
        if self.pool.policy.reads_reports:
            exchange.find_report(scan.fields, scan.field_count)
        if last:
            self.find_grpc_status(exchange, scan.fields, scan.field_count)

    cdef bint failed_head(self, Exchange exchange, Scan *scan, bint last) noexcept:
        """Whether the answer is one of those that the route does not take while another attempt may do better."""
        cdef Field *field
        cdef int i, kind = 0, code = -1
        if not exchange.grpc:
            return scan.status >= 429 and retry_answer(exchange, scan)
        if not last and scan.status == 200:
            return False
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.id == H_GRPC_STATUS:
                code = grpc_status(field.value, field.value_length)
            elif field.name_length == 22 and memcmp(field.name, b"grpc-retry-pushback-ms", 22) == 0:
                exchange.pushback = pushback_ms(field.value, field.value_length)
        if code < 0 and scan.status != 200:
            code = grpc_status_of_http(scan.status)        # not the server's, but of a proxy before it
            if exchange.idempotent and is_retryable(scan.status):
                kind = RETRY_5XX
        if self.inference and exchange.idempotent and (code == UNAVAILABLE or code == CANCELLED):
            kind = RETRY_RESET | RETRY_5XX    # a model server that goes away: see inference_attempt.pyx
        if code <= 0 or not exchange.retry_named(kind, code) or not exchange.request_complete or not self.whole():
            return False
        if exchange.hedge is None and not exchange.retry_granted(kind, code):
            return False
        exchange.status = scan.status
        exchange.grpc_status = code           # of the attempt: `forget_answer` lets go of it
        if last:
            self.again = True
        else:
            self.stop()
            self.forget_answer(exchange)
        return True

    cdef bint rescued(self, Exchange exchange, Scan *scan, bint last) noexcept:
        """Whether an answer that is a failure of the endpoint's has given way to one of the cache."""
        cdef int code = code_of_head(exchange, scan, last)
        if type(exchange.source) is not CachedCall or code <= 0 or http_of_grpc(code) < 500:
            return False
        exchange.grpc_status = <short>code    # of the attempt
        if exchange.source.rescue(exchange, FAIL_GRPC_UNAVAILABLE, http_of_grpc(code)):
            return True
        exchange.grpc_status = -1
        return False

    cdef void forget_answer(self, Exchange exchange) noexcept:
        self.again = False
        exchange.let_go(False)
        exchange.grpc_status = -1
        if not exchange.promote_hedge():
            exchange.next_attempt()

    cdef void answer_trailers(self, Exchange exchange, Scan *scan) noexcept:
        self.find_grpc_status(exchange, scan.trailers, scan.trailer_count)
        if self.cached is not None and self.cached.combining:
            if self.pool.policy.reads_reports:
                exchange.find_report(scan.trailers, scan.trailer_count)
            return
        if self.web is not None:
            self.web.send_trailers(exchange, scan)         # in the body: browsers do not show others to pages
            return
        if self.pool.policy.reads_reports:
            exchange.find_report(scan.trailers, scan.trailer_count)
        exchange.client.respond_trailers(scan)

    cdef void find_grpc_status(self, Exchange exchange, const Field *fields, int count) noexcept:
        cdef int i
        if exchange.grpc:
            for i in range(count):
                if fields[i].id == H_GRPC_STATUS:
                    exchange.grpc_status = <short>grpc_status(fields[i].value, fields[i].value_length)
            if exchange.grpc_status == UNAVAILABLE:
                exchange.reason = failure_of(FAIL_GRPC_UNAVAILABLE).reason
            if self.cached is not None and exchange.grpc_status:
                self.cached.take_error(fields, count)

    cdef bint end_answer(self, int kind, str message) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        # gRPC-Web has its trailers in the body, where they would be read as the rest of a message that was cut.
        if exchange.grpc != SPEAKS_GRPC or exchange.grpc_status >= 0 or self.sized or exchange.http10:
            return False
        end_in_trailers(self, exchange, kind, message)
        return True

    cdef void judge_outcome(self, tg_outcome *outcome) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef int status = exchange.grpc_status
        outcome.code = code_of_attempt(exchange, outcome.ok)
        if exchange.grpc == 0 or exchange.status != 200 or status < 0 and not outcome.ok:
            outcome.verdict = verdict_by_status(exchange, outcome.ok)
        elif outcome.ok and exchange.reason != NULL and status != UNAVAILABLE:
            outcome.verdict = VERDICT_NONE    # an end of our own, for a client's fault
        elif self.inference and status == CANCELLED:
            outcome.verdict = VERDICT_GATEWAY     # which nobody asked for: a model server that goes away
        else:
            outcome.verdict = verdict_of_grpc(outcome.code)

    cdef void client_drained(self) noexcept:
        cdef size_t held = self.held
        if held and self.dispatcher is not None:
            self.held = 0
            (<Http2Channel>self.dispatcher).consume(self, held)


tg_reuse(<PyTypeObject *>Http2Attempt)


cdef int code_of_attempt(Exchange exchange, bint ok) noexcept:
    """The gRPC status of the attempt that ends, or what stands for it where the endpoint said none; -1 = it was no
    call."""
    if exchange.grpc == 0:
        return -1
    if exchange.status == CLIENT_GONE:
        return CANCELLED
    if exchange.grpc_status >= 0:
        return exchange.grpc_status
    if exchange.reason != NULL and exchange.first_byte_at == 0:
        return -1 if exchange.status == 200 else grpc_code(exchange.status)      # ours
    if exchange.status == 200:
        return GRPC_UNKNOWN if ok else UNAVAILABLE         # it ended without a status, or broke off
    if exchange.status == failure_of(FAIL_TIMEOUT).status and exchange.state != X_ANSWERING:
        return DEADLINE_EXCEEDED              # of an attempt: it has not answered in time
    return grpc_status_of_http(exchange.status)


cdef enum:
    CERTIFICATE_FIELD = 23            # length of "X-Forwarded-Client-Cert"

# What the hop adds to a request, until it is in the request's block.
cdef tg_buffer hop_lines


cdef int add_client_certificate(Http2Attempt attempt, Exchange exchange, Scan *scan) noexcept:
    cdef tg_buffer line
    cdef int failed
    memset(&line, 0, sizeof(line))
    failed = append_client_certificate(&line, exchange.client, scan)
    if tg_buffer_size(&line) > CERTIFICATE_FIELD + 4:
        failed |= block_add_lower(&attempt.fields, tg_buffer_head(&line), CERTIFICATE_FIELD,
                                  tg_buffer_head(&line) + CERTIFICATE_FIELD + 2,
                                  tg_buffer_size(&line) - CERTIFICATE_FIELD - 4)
    tg_buffer_free(&line)
    return failed


cdef int request_fields(Http2Attempt attempt, Exchange exchange, Scan *scan) noexcept:
    cdef tg_buffer *block = &attempt.fields
    cdef size_t method_length
    cdef const char *method = method_text(scan, exchange.method, &method_length)
    cdef tg_hop hop
    cdef tg_hop_cache *cache = NULL
    cdef uint64_t skip = <uint64_t>1 << H_EXPECT | <uint64_t>1 << H_HOST
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
        failed |= add_client_certificate(attempt, exchange, scan)
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.hop or (field.id and (skip >> field.id) & 1):
            continue
        if field.id == H_GRPC_TIMEOUT and exchange.grpc:
            continue                          # what is left of it is said when the stream is opened
        failed |= block_add_lower(block, field.name, field.name_length, field.value, field.value_length)
    if scan.first[H_TE] >= 0:
        field = &scan.fields[scan.first[H_TE]]
        # What gRPC's clients say, and what others may say among more.
        if field.value_length == 8 and memcmp(field.value, b"trailers", 8) == 0 or has_token(field, b"trailers"):
            failed |= block_add(block, b"te", 2, b"trailers", 8)
            attempt.chunks_trailers = scan.version == 11 and not exchange.head_method
    return failed


# Of the answer that is being passed on, as the scan points to it.
cdef bytes method_message = b""


cdef void name_method(Http2Attempt attempt, Scan *scan) noexcept:
    """The endpoint has no such method: where its message does not say which, ours does."""
    global method_message
    cdef const char *at = tg_buffer_head(&attempt.fields)
    cdef const char *end = at + tg_buffer_size(&attempt.fields)
    cdef block_field path
    cdef Field *field
    cdef bytes found = b""
    cdef int i
    while block_next(&at, end, &path):
        if path.name_size == 5 and memcmp(path.name, b":path", 5) == 0:
            found = path.value[:path.value_size]
            break
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 12 and memcmp(field.name, b"grpc-message", 12) == 0:
            said = unquote(field.value[:field.value_length].decode("utf-8", "replace"))
            method_message = grpc_message(management.clearer(found, said))
            field.value = method_message
            field.value_length = <uint32_t>len(method_message)
            return
    method_message = grpc_message(management.clearer(found, ""))
    scan_field(scan, b"grpc-message", 12, method_message, <size_t>len(method_message))


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


cdef void put_field(Field *field, const char *name, const char *value, size_t n) noexcept nogil:
    field.name = name
    field.name_length = <uint32_t>strlen(name)
    field.value = value
    field.value_length = <uint32_t>n
    classify(field)


cdef void end_in_trailers(Http2Attempt attempt, Exchange exchange, int kind, str message) noexcept:
    """Ends an answer that has begun by a gRPC status: a stream that is reset says INTERNAL, whatever the reason was
    (gRPC over HTTP2, "Errors")."""
    cdef Client client = exchange.client
    cdef Scan scan
    cdef tg_buffer code
    cdef bytes text = grpc_message(message)
    attempt.stop()
    if attempt.cached is not None:
        attempt.cached.leave(exchange)
    memset(&code, 0, sizeof(code))
    append_number(&code, <uint64_t>failure_of(kind).grpc_status)
    scan.trailer_count = 2
    put_field(&scan.trailers[0], b"grpc-status", tg_buffer_head(&code), tg_buffer_size(&code))
    put_field(&scan.trailers[1], b"grpc-message", <const char *>text, <size_t>len(text))
    attempt.answer_trailers(exchange, &scan)
    tg_buffer_free(&code)
    exchange.note_failure(kind)
    exchange.let_go(failure_of(kind).status < 500)     # a client's fault is not held against the endpoint
    exchange.record()
    client.respond_end()
