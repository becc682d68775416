"""The record of an exchange: see exchange_record.pxd."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, strlen
from lb.core.buffer cimport tg_buffer_head, tg_buffer_size, tg_buffer_tail
from lb.core.head cimport M_OTHER
from lb.core.methods cimport method_name
from lb.core.segment cimport (
    TG_S_BYTES_IN, TG_S_BYTES_OUT, TG_S_CACHE_BYPASS, TG_S_CACHE_COLLAPSED, TG_S_CACHE_HIT, TG_S_CACHE_MISS,
    TG_S_FAULTS, TG_S_FINISHED, tg_add,
)
from lb.core.tls_version cimport tls_version
from lb.proxy.exchange cimport CACHE_BYPASS, CACHE_COLLAPSED, CACHE_HIT, CACHE_MISS, Exchange
from lb.proxy.explained cimport explain_record
from lb.proxy.refusal cimport SPEAKS_HTTP
from lb.proxy.tally cimport count_answer, count_code
from lb.upstream.outlier cimport is_fault
from lb.telemetry.accesslog cimport (
    A_CLIENT, A_ENDPOINT, A_HOST, A_LISTENER, A_METHOD, A_MODEL, A_POOL, A_REASON, A_REQUEST_ID, A_ROUTE, A_TARGET,
    A_USER_AGENT, set_object, set_text, tg_access, wall_ns,
)


cdef const char *MODELS = b"/v2/models/"
cdef size_t MODELS_LENGTH = 11


cdef int told_status(Exchange exchange) noexcept:
    """The HTTP status that the client was told: an answer of our own to one that speaks gRPC is a gRPC status, and
    `status` what it stands for."""
    if exchange.grpc == SPEAKS_HTTP or exchange.reason == NULL or exchange.first_byte_at or exchange.status == 499:
        return exchange.status
    return 200


cdef void count_exchange(Exchange exchange, uint64_t duration) noexcept:
    cdef uint64_t *words = exchange.route.series
    cdef int code = exchange.counted_grpc_status()
    # The status of an answer that was cut off said that it would be whole.
    cdef int status = exchange.cut if exchange.cut else told_status(exchange)
    count_answer(words, 0 if status == 499 else status, duration)
    count_code(words, code)
    if status >= 500 or is_fault(code):
        tg_add(&words[TG_S_FAULTS], 1)
    tg_add(&words[TG_S_FINISHED], 1)
    tg_add(&words[TG_S_BYTES_IN], exchange.bytes_in)
    tg_add(&words[TG_S_BYTES_OUT], exchange.bytes_out)
    if exchange.cache == CACHE_HIT:
        tg_add(&words[TG_S_CACHE_HIT], 1)
    elif exchange.cache == CACHE_MISS:
        tg_add(&words[TG_S_CACHE_MISS], 1)
    elif exchange.cache == CACHE_COLLAPSED:
        tg_add(&words[TG_S_CACHE_COLLAPSED], 1)
    elif exchange.cache == CACHE_BYPASS:
        tg_add(&words[TG_S_CACHE_BYPASS], 1)


cdef void log_exchange(Exchange exchange, uint64_t duration) noexcept:
    cdef tg_access *record = exchange.listener.access.begin()
    if record == NULL:
        return
    record.wall_ns = wall_ns() - <int64_t>duration
    record.total_ns = duration
    log_times(exchange, record, duration)
    record.bytes_in = exchange.bytes_in
    record.bytes_out = exchange.bytes_out
    record.status = <unsigned short>told_status(exchange)
    record.grpc_status = <short>exchange.final_grpc_status()
    record.tries = <unsigned short>exchange.tries
    record.port = exchange.client.port
    record.cache = <unsigned short>exchange.cache
    record.hedge = <unsigned short>exchange.hedged
    record.version = <unsigned short>exchange.version
    if exchange.client.tls is not None:
        record.tls = <unsigned short>tls_version(exchange.client.tls)
    log_request(exchange, record)
    set_object(record, A_LISTENER, exchange.listener.name)
    set_object(record, A_ROUTE, exchange.route.name)
    if exchange.pool is not None:             # the route's own answer has none
        set_object(record, A_POOL, exchange.pool.name)
    if exchange.last_endpoint >= 0:
        set_object(record, A_ENDPOINT, exchange.pool.endpoints.addresses[exchange.last_endpoint])
    if exchange.reason != NULL:
        set_text(record, A_REASON, exchange.reason, strlen(exchange.reason))
    if exchange.explained and exchange.pool is not None:
        explain_record(exchange, record)
    exchange.listener.access.commit()


cdef void log_times(Exchange exchange, tg_access *record, uint64_t duration) noexcept:
    """How its time divides into waiting, connecting, the endpoint's own, and the transfer of its answer."""
    cdef uint64_t first
    if not exchange.picked_at:
        record.wait_ns = duration
        return
    first = exchange.first_byte_at if exchange.first_byte_at else exchange.started + duration
    record.wait_ns = exchange.picked_at - exchange.started
    record.upstream_ns = first - exchange.picked_at
    if exchange.connected_at > exchange.picked_at:
        record.connect_ns = exchange.connected_at - exchange.picked_at
    record.transfer_ns = exchange.started + duration - first


cdef void log_request(Exchange exchange, tg_access *record) noexcept:
    """Who asked for what, and as part of which trace."""
    cdef const char *text
    cdef const char *target = tg_buffer_head(&exchange.target) + exchange.host_length
    cdef size_t n
    cdef size_t length = (tg_buffer_size(&exchange.target) - exchange.host_length - exchange.agent_length
                          - exchange.method_length - exchange.origin_length)
    if exchange.ids != NULL:
        memcpy(record.trace_id, exchange.ids.trace.trace_id, sizeof(record.trace_id))
        memcpy(record.span_id, exchange.ids.trace.span_id, sizeof(record.span_id))
        memcpy(record.parent_id, exchange.ids.trace.parent_id, sizeof(record.parent_id))
        record.trace_flags = exchange.ids.trace.flags
        set_text(record, A_REQUEST_ID, exchange.ids.request_id, exchange.ids.request_id_length)
    if exchange.method == M_OTHER:
        text = tg_buffer_tail(&exchange.target) - exchange.origin_length - exchange.method_length
        set_text(record, A_METHOD, text, exchange.method_length)
    else:
        text = method_name(exchange.method)
        set_text(record, A_METHOD, text, strlen(text))
    text = exchange.source(&n)
    set_text(record, A_CLIENT, text, n)
    set_text(record, A_HOST, tg_buffer_head(&exchange.target), exchange.host_length)
    set_text(record, A_TARGET, target, length)
    set_text(record, A_USER_AGENT, target + length, exchange.agent_length)
    log_model(exchange, record, target, length)


cdef void log_model(Exchange exchange, tg_access *record, const char *target, size_t length) noexcept:
    """By the message, or else by the path, which is that of the protocol whatever the pool speaks."""
    cdef bytes model = exchange.named_model()
    cdef size_t n = 0
    if model is not None:
        set_text(record, A_MODEL, <const char *>model, <size_t>len(model))
    elif length > MODELS_LENGTH and memcmp(target, MODELS, MODELS_LENGTH) == 0:
        target += MODELS_LENGTH
        length -= MODELS_LENGTH
        while n < length and target[n] != c'/' and target[n] != c'?':
            n += 1
        set_text(record, A_MODEL, target, n)
