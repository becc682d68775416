"""The first message of a gRPC call as a body source: see first_message.pxd."""

import logging

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp
from lb.net.buffer cimport tg_buffer, tg_buffer_head, tg_buffer_size
from lb.shared.hashing cimport hash64
from lb.http.head cimport Scan, has_body
from lb.net.stream cimport iovec
from lb.inference.first_batch cimport first_batch, tg_batch
from lb.inference.first_timeout cimport TIMEOUT_FOUND, TIMEOUT_MORE, first_timeout, time_after
from lb.inference.first_model cimport MODEL_FOUND, MODEL_UNKNOWN, first_model
from lb.inference.sequence cimport (
    GRPC_FRAME, LOOK_FOUND, LOOK_MORE, LOOK_MOST, infers, look_for_sequence, looked, message_length, next_look,
    tg_sequence,
)
from lb.proxy.exchange.exchange cimport X_REQUEST, BodySource, Exchange
from lb.proxy.exchange.stream_sequences cimport StreamSequences, sequence_key, streams_inferences
from lb.upstream.attempt cimport A_OVER, Attempt
from lb.upstream.load.cost cimport UNIT_BATCH, UNIT_BYTES, PoolCosts
from lb.upstream.connections.http2_call cimport Http2Call
from lb.upstream.pool cimport KEY_MODEL, Pool


log = logging.getLogger("tidegate.proxy")

cdef enum:
    INFER_PATH_LENGTH = 42            # of /inference.GRPCInferenceService/ModelInfer

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t size, const void *needle, size_t needle_size)

cdef bytes LATEST = b""               # the model of the latest message: most often the next one's, too
cdef const char *SEQUENCE = b"sequence_id"
cdef size_t SEQUENCE_LENGTH = 11
cdef const char *MODEL_METHODS = b"/inference.GRPCInferenceService/Model"
cdef size_t MODEL_METHODS_LENGTH = 37


cdef class FirstMessage(BodySource):

    cdef void begin(self, Exchange exchange, Scan *scan) noexcept:
        pass                                  # the attempt has begun, and made this source

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        cdef Attempt attempt = exchange.attempt
        attempt.take_body(spans, count, size, last)
        if exchange.state == X_REQUEST:
            self.read(exchange, <Http2Call>attempt)

    cdef void passed(self, Exchange exchange, const char *data, size_t size) noexcept:
        cdef tg_batch found
        if self.streams:
            self.passed_at = exchange.client.poller.now
        if not self.seen and size:
            self.seen = True
            if self.counting:
                first_batch(data, size, &found)
                self.rows = found.size
            if self.infers or self.inference and exchange.recorded():
                self.log_model = model_of(data, size)
        if self.messages is not None and exchange.attempt.state != A_OVER:
            self.messages.take(exchange, data, size)

    cdef void picked(self, Exchange exchange) noexcept:
        if self.messages is not None:
            self.messages.begin(exchange, &(<Http2Call>exchange.attempt).stream.queue)

    cdef void answer_begins(self, Exchange exchange, bint last) noexcept:
        if self.messages is not None and not last:
            # The stream was taken: what ends it later does not undo what began.
            exchange.affinity.starts = False

    cdef bint on_time(self, Exchange exchange) noexcept:
        """The peer of a stream may have to speak first: its message is not waited for."""
        if not self.weighing or exchange.client.poller.now >= exchange.expires:
            return False
        self.weighing = False
        exchange.client.poller.arm(exchange, exchange.expires)
        if not self.naming and not self.looking and not self.timing:
            exchange.pick()
        return True

    cdef int price(self, Exchange exchange, uint64_t now) noexcept:
        return exchange.pool.costs.price(self.units, self.cost_key, now) if self.units else 0

    cdef bytes model(self):
        return self.log_model

    cdef bytes counted(self, Exchange exchange, int64_t *rows):
        cdef tg_buffer *body
        if not self.infers:
            return None
        rows[0] = 0 if self.answers else max(self.rows, 1)
        if not self.seen:                     # it is refused, and its message still waits to be passed on
            body = &(<Http2Call>exchange.attempt).stream.queue
            self.log_model = model_of(tg_buffer_head(body), tg_buffer_size(body))
        return b"" if self.log_model is None else self.log_model

    cdef void answered(self, Exchange exchange, size_t answers) noexcept:
        cdef uint64_t now = exchange.client.poller.now
        cdef object counts = exchange.pool.counts
        if counts is None or self.log_model is None or not self.streams:
            return
        try:
            while self.answers < answers:
                counts.add(self.log_model, True, now - min(self.passed_at, now), 0, max(self.rows, 1), "")
                self.answers += 1
        except Exception:
            log.exception("an inference was not counted")

    cdef bint awaits_weight(self, Exchange exchange, Scan *scan) noexcept:
        """Whether what it costs is in its first message; finds it out where it is not."""
        cdef PoolCosts costs = exchange.pool.costs
        if costs.unit == UNIT_BYTES and scan.has_length:
            self.units = costs.units_of_bytes(scan.content_length)
        if not has_body(scan) or not (exchange.pool.endpoints.size or exchange.pool.awaits_start):
            return False
        if self.inference and infers(scan.target, scan.target_length):
            # A stream's time says nothing of one request.
            self.learning = costs.learns and scan.target_length == INFER_PATH_LENGTH
            return costs.learns or costs.unit == UNIT_BATCH or self.units == 0
        return exchange.grpc and costs.unit == UNIT_BYTES and self.units == 0

    cdef void read(self, Exchange exchange, Http2Call call) noexcept:
        if self.find(exchange, call) and exchange.state == X_REQUEST:
            exchange.pick()

    cdef bint find(self, Exchange exchange, Http2Call call) noexcept:
        cdef const tg_buffer *body = &call.stream.queue
        cdef size_t size = tg_buffer_size(body)
        if size < self.enough and not exchange.request_complete:
            return False
        if size < LOOK_MOST:
            self.enough = next_look(tg_buffer_head(body), size)
        if self.timing and (look_for_timeout(exchange, tg_buffer_head(body), size) != TIMEOUT_MORE
                            or size >= LOOK_MOST or exchange.request_complete):
            self.timing = False
        if self.naming and (self.find_model(exchange, call) or exchange.request_complete):
            self.naming = False
        if self.looking:
            self.look(exchange, call)
        if self.weighing and (self.find_weight(exchange, call) or exchange.request_complete):
            self.weighing = False
        return not self.naming and not self.looking and not self.weighing and not self.timing

    cdef bint find_model(self, Exchange exchange, Http2Call call) noexcept:
        """Looks for its name in what has come; True: the endpoint can be chosen now."""
        cdef const char *name
        cdef size_t size
        cdef const tg_buffer *body = &call.stream.queue
        cdef int found = first_model(tg_buffer_head(body), tg_buffer_size(body), &name, &size)
        if found == MODEL_FOUND:
            exchange.want_model(name[:size])
            if exchange.pool.key_kind == KEY_MODEL:
                exchange.key = hash64(name, size)
        return found != MODEL_UNKNOWN or tg_buffer_size(body) > LOOK_MOST

    cdef void look(self, Exchange exchange, Http2Call call) noexcept:
        """Looks for the sequence that the inference belongs to."""
        cdef tg_sequence found
        cdef tg_buffer *body = &call.stream.queue
        # What exceeds the buffer is told by what is here: encoders write the tensors last.
        cdef looked verdict = look_for_sequence(
            tg_buffer_head(body), tg_buffer_size(body),
            exchange.request_complete or tg_buffer_size(body) >= LOOK_MOST, &found)
        if verdict == LOOK_MORE:
            return
        self.looking = False
        if verdict == LOOK_FOUND:
            exchange.join_sequence(sequence_key(exchange.pool.sequences, &found), found.start,
                                   found.end and self.messages is None)

    cdef bint find_weight(self, Exchange exchange, Http2Call call) noexcept:
        """True: what it costs is known, as far as it can be."""
        cdef PoolCosts costs = exchange.pool.costs
        cdef const char *data = tg_buffer_head(&call.stream.queue)
        cdef size_t size = tg_buffer_size(&call.stream.queue)
        cdef tg_batch found
        if size < GRPC_FRAME:
            return False
        if costs.unit == UNIT_BYTES and self.units == 0:
            self.units = costs.units_of_bytes(message_length(data))
        if not self.inference or not (costs.learns or costs.unit == UNIT_BATCH):
            return True
        if not first_batch(data, size, &found) and size <= LOOK_MOST and not exchange.request_complete:
            return False
        if costs.unit == UNIT_BATCH:
            self.units = <double>found.size
        if found.model.size:
            self.cost_key = costs.model_key(found.model.data, found.model.size)
            if self.cost_key and self.learning and not costs.known(self.cost_key, exchange.client.poller.now):
                self.cost_model = found.model.data[:found.model.size]
        return True

    cdef void ended_well(self, Exchange exchange) noexcept:
        """How long the endpoint took says what such a call costs."""
        cdef Attempt attempt = exchange.attempt
        cdef PoolCosts costs = exchange.pool.costs
        cdef const char *name = NULL
        cdef size_t n = 0
        if not self.learning or not self.cost_key or exchange.grpc_status != 0 or costs is None:
            return
        if attempt.sent_at == 0 or exchange.first_byte_at <= attempt.sent_at:
            return
        if self.cost_model is not None:
            name = <const char *>self.cost_model
            n = <size_t>len(self.cost_model)
        costs.learn(self.cost_key, name, n, self.units, exchange.first_byte_at - attempt.sent_at, attempt.charged,
                    attempt.load, exchange.client.poller.now)


cdef bytes model_of(const char *body, size_t n):
    """The model that a message names, of which `body` is the first piece; None: that is not in it."""
    global LATEST
    cdef const char *name
    cdef size_t size
    if first_model(body, n, &name, &size) != MODEL_FOUND:
        return None
    if <size_t>len(LATEST) != size or memcmp(<const char *>LATEST, name, size) != 0:
        LATEST = name[:size]
    return LATEST


cdef bint awaits_model(Exchange exchange, Scan *scan, bint *any_endpoint) noexcept:
    """Of the protocol's methods those about a model, whose requests all name it in their first field."""
    cdef size_t n = scan.target_length
    if exchange.pool.models is None and exchange.pool.key_kind != KEY_MODEL:
        return False
    if n <= MODEL_METHODS_LENGTH or memcmp(scan.target, MODEL_METHODS, MODEL_METHODS_LENGTH) != 0:
        return False
    any_endpoint[0] = memcmp(scan.target + n - 5, b"Infer", 5) != 0
    return True


cdef bint awaits_message(Exchange exchange, bint inference, Scan *scan) noexcept:
    cdef Pool pool = exchange.pool
    cdef FirstMessage source
    cdef bint is_infer = infers(scan.target, scan.target_length)
    cdef bint timing = (inference and pool.queue is not None and scan.target_length == INFER_PATH_LENGTH
                        and is_infer)
    if (pool.models is None and pool.key_kind != KEY_MODEL and pool.sequences is None and pool.costs is None
            and not is_infer and not (inference and exchange.recorded())):
        return False
    source = FirstMessage.__new__(FirstMessage)
    exchange.source = source
    source.inference = inference
    source.infers = is_infer
    source.counting = pool.counts is not None and is_infer
    source.streams = source.counting and streams_inferences(scan.target, scan.target_length)
    source.naming = awaits_model(exchange, scan, &source.any_endpoint)
    source.looking = (pool.sequences is not None and (pool.endpoints.size or pool.awaits_start) and has_body(scan)
                      and is_infer)
    if source.looking and streams_inferences(scan.target, scan.target_length):
        source.messages = StreamSequences.__new__(StreamSequences)
    if pool.costs is not None:
        source.weighing = source.awaits_weight(exchange, scan)
    source.timing = timing and has_body(scan)
    if not source.naming and not source.looking and not source.weighing and not source.timing:
        return False
    if source.weighing:
        exchange.client.poller.arm(exchange, min(exchange.expires, exchange.client.poller.now + WEIGHING_NS))
    exchange.move(X_REQUEST)
    return True


cdef int look_for_timeout(Exchange exchange, const char *data, size_t size) noexcept:
    cdef uint64_t us = 0, until
    cdef int found = first_timeout(data, size, &us)
    if found == TIMEOUT_FOUND:
        until = time_after(exchange.started, us)
        if until < exchange.expires:
            exchange.expires = until
            if until < exchange.deadline:
                exchange.client.poller.arm(exchange, until)
    return found


cdef bint may_name_sequence(Http2Call call) noexcept:
    cdef const char *body = tg_buffer_head(&call.stream.queue)
    cdef size_t n = tg_buffer_size(&call.stream.queue)
    return n > 0 and (body[0] != 0 or memmem(body, n, SEQUENCE, SEQUENCE_LENGTH) != NULL)
