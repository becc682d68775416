"""An attempt at a model server for a request of HTTP: see inference_attempt.pxd.

A retry is this attempt, launched again; a hedge is another with the same message, which stays with the body source.
"""

cimport cython
from cpython.object cimport PyTypeObject
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from lb.failure cimport (
    CLIENT_GONE, FAIL_CONNECT, FAIL_MODEL_ERROR, FAIL_NO_MEMORY, FAIL_NO_SOCKET, FAIL_PROTOCOL, FAIL_REFUSED,
    FAIL_RESET, FAIL_TIMEOUT, FAIL_TOO_LARGE,
    RETRY_5XX, RETRY_RESET, RETRY_TIMEOUT, failure_of, http_of_grpc, verdict_of_grpc,
)
from lb.http.http2.head cimport FieldList
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NO_INDEX
from lb.http.trace cimport TRACEPARENT_SIZE, trace_write
from lb.net.buffer cimport tg_buffer, tg_buffer_head, tg_buffer_size
from lb.net.reuse cimport tg_reuse
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport ENDPOINT_RESPONSE_ERRORS
from lb.inference.response cimport InferResponse
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.cached cimport combined, is_own_fault, land, release_followers, store, store_error
from lb.proxy.exchange.exchange cimport (
    X_ANSWERING, X_DONE, Exchange, goes_on, learn_session, limit_of_attempt, may_leave, verdict_by_status,
)
from lb.proxy.exchange.inference_body cimport (
    InferenceBody, answer_error, end_streamed, forget_description, management_answered, rendered, respond, send_error,
    take_streamed,
)
from lb.proxy.exchange.mirror.inference cimport mirror_inference
from lb.proxy.routing.headers.forwarded cimport tg_ids
from lb.upstream.attempt cimport A_ANSWERING, A_OVER, A_SENDING, A_SENT, Attempt, step, tg_outcome
from lb.upstream.connect_failure cimport NO_SOCKET
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.load.load_report cimport REPORT_BINARY, REPORT_NAMED, read_report, tg_load


cdef enum:
    GRPC_CANCELLED = 1
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_UNAVAILABLE = 14
    HIGH_WATER = 64 * 1024            # bytes of a stream's answer that wait for the client, before no more may come

cdef const char *INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"
cdef size_t INFER_PATH_LENGTH = 42
cdef const char *STREAM_PATH = b"/inference.GRPCInferenceService/ModelStreamInfer"
cdef size_t STREAM_PATH_LENGTH = 48


@cython.final
cdef class InferenceAttempt(GrpcCall):

    cdef InferenceBody body(self, Exchange exchange):
        return <InferenceBody>exchange.source

    # The endpoint.

    cdef void launch(self) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef InferenceBody body = self.body(exchange)
        cdef uint64_t now = exchange.client.poller.now
        cdef uint64_t limit = limit_of_attempt(exchange)
        cdef bint own = self is exchange.attempt
        if not self.prepare(body):
            if own:
                exchange.fail(FAIL_NO_MEMORY, "out of memory")
            else:
                exchange.attempt_failed(self, FAIL_CONNECT)
            return
        self.due = exchange.due()
        if limit and now + limit < self.due:
            self.due = now + limit
        self.held = 0
        step(self, A_SENDING)
        step(self, A_SENT)
        (<Http2Channel>self.pool.channels[self.endpoint]).start(self, self.due)
        if not own:
            return
        exchange.grpc_status = -1
        if self.streams:
            return
        if (body.request is not None and exchange.route.mirror is not None and exchange.attempts == 1
                and exchange.route.mirror.pool is not exchange.pool):
            self.comparison = mirror_inference(exchange.route.mirror, exchange.client.poller, self.parts,
                                               self.part_count, self.message_size, INFER_PATH, INFER_PATH_LENGTH,
                                               exchange.key)
        if exchange.route.hedge is not None:
            exchange.watch()
            exchange.arm_look()

    cdef bint prepare(self, InferenceBody body) noexcept:
        cdef bytes path
        if body.request is not None:
            self.parts = body.request.parts
            self.part_count = body.request.part_count
            self.message_size = body.request.message_size
            self.streams = body.streams
            if self.streams:
                return self.call_path(STREAM_PATH, STREAM_PATH_LENGTH) >= 0
            return self.call_path(INFER_PATH, INFER_PATH_LENGTH) >= 0
        self.single.iov_base = <char *><bytes>body.management.request
        self.single.iov_len = <size_t>len(<bytes>body.management.request)
        self.parts = &self.single
        self.part_count = 1
        self.message_size = self.single.iov_len
        path = <bytes>body.management.grpc_path
        return self.call_path(<const char *>path, <size_t>len(path)) >= 0

    cdef int build(self, FieldList fields, uint64_t now) noexcept:
        cdef const tg_ids *ids = (<Exchange>self.owner).ids
        cdef int rc = GrpcCall.build(self, fields, now)
        cdef uint64_t span = 0                    # stays so where the listener has no tracing
        if ids != NULL:
            memcpy(&span, ids.trace.span_id, sizeof(span))
        if rc == 0 and span:
            trace_write(&ids.trace, self.traceparent)
            fields.add_held(b"traceparent", 11, self.traceparent, TRACEPARENT_SIZE, NGHTTP2_NV_FLAG_NO_INDEX)
        return rc

    cdef void stop(self) noexcept:
        if self.dispatcher is not None:
            (<Http2Channel>self.dispatcher).cancel(self)

    cdef bint repeatable(self) noexcept:
        return self.body(<Exchange>self.owner).repeatable()

    cdef Attempt twin(self):
        return InferenceAttempt.__new__(InferenceAttempt)

    cdef bint may_retry(self, int kind) noexcept:
        """Whatever became of the first: see InferenceBody.repeatable. What was not processed may go elsewhere in any
        case, but for later requests of a sequence."""
        cdef Exchange exchange = <Exchange>self.owner
        cdef InferenceBody body = self.body(exchange)
        cdef int rule = failure_of(kind).retry
        cdef bint processed = kind != FAIL_CONNECT and kind != FAIL_NO_SOCKET and kind != FAIL_REFUSED
        if not (body.repeatable() if processed else may_leave(exchange)):
            return False
        if kind == FAIL_RESET:
            rule = RETRY_RESET | RETRY_5XX            # a server that goes away says UNAVAILABLE, or nothing
        elif (kind == FAIL_TIMEOUT and exchange.route.retry is not None
                and exchange.client.poller.now < exchange.expires and not body.has_timeout()):
            rule = RETRY_TIMEOUT
        elif processed:
            return False
        return exchange.retry_granted(rule, -1)

    # A stream of generated answers.

    cdef int on_message(self) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        if exchange is None:
            return 0
        if self.state == A_SENT:
            step(self, A_ANSWERING)
        take_streamed(self.body(exchange), exchange, tg_buffer_head(&self.reply), tg_buffer_size(&self.reply))
        return 0

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        cdef int rc = GrpcCall.take_data(self, data, size, held)
        cdef Exchange exchange = <Exchange>self.owner
        if rc == 0 and self.streams and exchange is not None and exchange.client.backlog() > HIGH_WATER:
            held[0] = size
            self.held += size
        return rc

    cdef void client_drained(self) noexcept:
        cdef size_t held = self.held
        if held and self.dispatcher is not None:
            self.held = 0
            (<Http2Channel>self.dispatcher).consume(self, held)

    cdef bint end_answer(self, int kind, str message) noexcept:
        """A last event says why there is no more."""
        cdef Exchange exchange = <Exchange>self.owner
        cdef Client client = exchange.client
        if not self.streams:
            return False
        self.stop()
        send_error(exchange, message)
        if exchange.state == X_DONE:              # the client has left meanwhile
            return True
        exchange.note_failure(kind)
        exchange.cut = <short>failure_of(kind).status
        exchange.let_go(failure_of(kind).status < 500)     # a client's fault is not held against the endpoint
        exchange.record()
        client.respond_end()
        return True

    # Its end.

    cdef void sent_again(self) noexcept:
        if self.owner is not None:
            (<Exchange>self.owner).sent_again(self)

    cdef void on_failed(self, int kind) noexcept:
        if self.owner is not None:
            self.failed(<Exchange>self.owner, kind)

    cdef void failed(self, Exchange exchange, int kind) noexcept:
        if self is exchange.attempt:
            exchange.grpc_status = -1
        if exchange.state == X_ANSWERING:
            tg_add(&self.pool.series[self.endpoint][ENDPOINT_RESPONSE_ERRORS], 1)
            exchange.fail(kind, "the model server did not answer in time" if kind == FAIL_TIMEOUT
                          else "the model server broke its answer off")
            return
        if exchange.attempt_failed(self, kind):
            return
        if exchange.affinity.sequence_at >= 0 and kind == FAIL_CONNECT and not exchange.affinity.starts:
            if not goes_on(exchange):
                exchange.fail_lost()
            return
        if kind == FAIL_TIMEOUT:
            exchange.fail(FAIL_TIMEOUT, "the model server did not answer in time")
        elif kind == FAIL_CONNECT:
            exchange.fail(FAIL_CONNECT, "could not connect to a model server")
        elif kind == FAIL_NO_SOCKET:
            exchange.fail(FAIL_NO_SOCKET, NO_SOCKET)
        elif kind == FAIL_PROTOCOL:
            exchange.fail(FAIL_PROTOCOL, "the model server's answer is not valid gRPC")
        elif kind == FAIL_TOO_LARGE:
            exchange.fail(FAIL_TOO_LARGE, "the model server's answer is over the limit")
        else:
            exchange.fail(FAIL_RESET, "the model server closed the connection without an answer")

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        if exchange is None:
            return
        if self is exchange.hedge and not exchange.hedge_answers(
                status == 0, http_of_grpc(status) if status else 200, status):
            return
        self.answered(exchange, status, message, n)

    cdef void answered(self, Exchange exchange, int status, const char *message, size_t n) noexcept:
        cdef InferenceBody body = self.body(exchange)
        cdef InferResponse response
        cdef const tg_buffer *reply
        cdef bint going
        if self.pool.policy.reads_reports and tg_buffer_size(&self.report):
            self.take_report(exchange)
        exchange.grpc_status = <short>status
        if exchange.state == X_ANSWERING and status:
            if status == GRPC_DEADLINE_EXCEEDED and exchange.is_late(self.due):
                self.failed(exchange, FAIL_TIMEOUT)
                return
            text = message[:n].decode("utf-8", "replace")
            exchange.fail(FAIL_MODEL_ERROR, text or "the model server gave no reason")
            return
        if self.streams and status == 0:
            end_streamed(body, exchange)
            return
        if status == 0:
            if exchange.route.hedge is not None:
                exchange.own_answer()
            exchange.status = 200
            if self.comparison is not None:
                self.comparison.take_original(tg_buffer_head(&self.reply), tg_buffer_size(&self.reply))
                self.comparison.original_ended(0)
            if exchange.pool.sessions is not None:
                learn_session(exchange, 200, NULL, 0)
            exchange.let_go(True)
            if body.management is not None:
                management_answered(body, exchange, 0, "", tg_buffer_head(&self.reply)[:tg_buffer_size(&self.reply)])
                return
            reply = combined(body, exchange, &self.reply)
            if reply == NULL:
                return
            response = rendered(body, exchange, tg_buffer_head(reply), tg_buffer_size(reply))
            if response is None:              # nothing to keep, and nothing for those who wait
                tg_add(&self.pool.series[self.endpoint][ENDPOINT_RESPONSE_ERRORS], 1)
                return
            if body.digest is not None:
                store(body, exchange, reply)
                land(body, tg_buffer_head(reply), tg_buffer_size(reply))
            respond(body, exchange, response)
            return
        if status == GRPC_DEADLINE_EXCEEDED and exchange.is_late(self.due):
            self.failed(exchange, FAIL_TIMEOUT)    # as servers say themselves that know it
            return
        exchange.status = http_of_grpc(status)
        # A server that is going away says UNAVAILABLE before it is out of the pool, and CANCELLED, which we did not ask
        # for, of what it had taken just before (grpcio does).
        going = status == GRPC_UNAVAILABLE or status == GRPC_CANCELLED
        exchange.let_go(not going)
        if (going or exchange.route.retry is not None and exchange.route.retry.names_code(status)) and (
                exchange.promote_hedge()):
            return
        exchange.pushback = self.pushback
        if body.repeatable() and exchange.retry_granted(RETRY_RESET | RETRY_5XX if going else 0, status):
            exchange.next_attempt()
            return
        if self.comparison is not None:
            self.comparison.original_ended(status)
        text = message[:n].decode("utf-8", "replace")
        if is_own_fault(status):
            store_error(body, exchange, status, message, n)
            release_followers(body, status, text)
        if body.management is not None:
            management_answered(body, exchange, status, text, b"")
            return
        forget_description(body, exchange, status)
        answer_error(exchange, status, text)

    cdef void take_report(self, Exchange exchange) noexcept:
        cdef tg_load load
        if self.state != A_OVER and read_report(REPORT_BINARY if self.report_binary else REPORT_NAMED,
                                                tg_buffer_head(&self.report), tg_buffer_size(&self.report),
                                                &load) and load.utilization > 0.0:
            self.pool.endpoints.set_report(self.endpoint, load.utilization, load.qps, load.eps,
                                           exchange.client.poller.now)

    cdef void judge_outcome(self, tg_outcome *outcome) noexcept:
        cdef Exchange exchange = <Exchange>self.owner
        cdef int status = exchange.grpc_status
        if outcome.ok and status >= 0 and exchange.status != CLIENT_GONE:
            outcome.verdict = verdict_of_grpc(status)
        else:
            outcome.verdict = verdict_by_status(exchange, outcome.ok)
        if exchange.status == CLIENT_GONE:
            outcome.code = GRPC_CANCELLED
        elif status >= 0:
            outcome.code = status
        elif exchange.status == failure_of(FAIL_TIMEOUT).status:
            outcome.code = GRPC_DEADLINE_EXCEEDED
        else:
            outcome.code = GRPC_UNAVAILABLE


tg_reuse(<PyTypeObject *>InferenceAttempt)
