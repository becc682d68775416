"""The record of a TCP session: see tunnel_record.pxd."""

from libc.stdint cimport int64_t, uint16_t, uint64_t
from lb.core.poller cimport monotonic_ns
from lb.core.segment cimport (
    TG_S_BYTES_IN, TG_S_BYTES_OUT, TG_S_CODE_OTHER, TG_S_DURATION_SUM_NS, TG_S_HISTOGRAM, tg_add, tg_bucket,
)
from lb.core.tls_version cimport tls_version
from lb.proxy.tunnel cimport Tunnel
from lb.telemetry.accesslog cimport (
    A_CLIENT, A_ENDPOINT, A_HOST, A_LISTENER, A_METHOD, A_POOL, A_REASON, set_object, set_text, tg_access, wall_ns,
)


cdef void record_session(Tunnel tunnel) noexcept:
    cdef uint64_t *words = tunnel.listener.series
    cdef uint64_t took = monotonic_ns() - tunnel.started
    tg_add(&words[TG_S_CODE_OTHER], 1)
    tg_add(&words[TG_S_DURATION_SUM_NS], took)
    tg_add(&words[TG_S_HISTOGRAM + tg_bucket(took)], 1)
    tg_add(&words[TG_S_BYTES_IN], tunnel.client.bytes_read)
    if tunnel.endpoint is not None:
        tg_add(&words[TG_S_BYTES_OUT], tunnel.endpoint.bytes_read)
    if tunnel.listener.access.enabled:
        log_access(tunnel, took)


cdef void log_access(Tunnel tunnel, uint64_t took) noexcept:
    cdef tg_access *record = tunnel.listener.access.begin()
    if record == NULL:
        return
    record.wall_ns = wall_ns() - <int64_t>took
    record.total_ns = took
    record.wait_ns = min(tunnel.picked_at - tunnel.started, took) if tunnel.picked_at else took
    record.transfer_ns = took - record.wait_ns
    record.tries = <uint16_t>tunnel.tries
    record.port = <uint16_t>tunnel.port
    if tunnel.client.tls is not None:
        record.tls = <uint16_t>tls_version(tunnel.client.tls)
    record.bytes_in = tunnel.client.bytes_read
    if tunnel.endpoint is not None:
        record.bytes_out = tunnel.endpoint.bytes_read
    set_text(record, A_CLIENT, tunnel.ip, <size_t>tunnel.ip_length)
    if tunnel.listener.passthrough:
        set_text(record, A_METHOD, b"TLS", 3)
    else:
        set_text(record, A_METHOD, b"TCP", 3)
    if tunnel.greeting is not None:
        set_text(record, A_HOST, tunnel.greeting.sni, tunnel.greeting.sni_length)
    set_object(record, A_LISTENER, tunnel.listener.name)
    set_object(record, A_POOL, tunnel.pool.name)
    if tunnel.last >= 0:
        set_object(record, A_ENDPOINT, tunnel.pool.endpoints.addresses[tunnel.last])
    if tunnel.reason:
        set_object(record, A_REASON, tunnel.reason)
    tunnel.listener.access.commit()
