"""What the first message of a call says: see forward_http2_message.pxd."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp
from lb.core.buffer cimport tg_buffer, tg_buffer_head, tg_buffer_size
from lb.core.head cimport Scan
from lb.core.hashing cimport hash64
from lb.inference.first_batch cimport first_batch, tg_batch
from lb.inference.first_model cimport MODEL_FOUND, MODEL_UNKNOWN, first_model
from lb.inference.sequence cimport (
    GRPC_FRAME, LOOK_FOUND, LOOK_MORE, LOOK_MOST, infers, look_for_sequence, looked, message_length, next_look,
    tg_sequence,
)
from lb.proxy.exchange cimport X_REQUEST
from lb.proxy.forward_http2 cimport Http2Exchange
from lb.proxy.stream_sequences cimport sequence_key
from lb.upstream.cost cimport UNIT_BATCH, UNIT_BYTES, PoolCosts
from lb.upstream.pool cimport KEY_MODEL, POOL_OIP

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t size, const void *needle, size_t needle_size)

cdef const char *SEQUENCE = b"sequence_id"
cdef size_t SEQUENCE_LENGTH = 11
cdef const char *MODEL_METHODS = b"/inference.GRPCInferenceService/Model"
cdef size_t MODEL_METHODS_LENGTH = 37
cdef size_t INFER_PATH_LENGTH = 42


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
