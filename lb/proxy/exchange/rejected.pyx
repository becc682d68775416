"""Records of requests that were rejected: see rejected.pxd."""

from libc.stdint cimport uint16_t
from libc.stdlib cimport free
from lb.failure cimport failure_of, tg_failure
from lb.http.authority cimport read_authority
from lb.http.head cimport H_HOST, M_OTHER, Field, Scan
from lb.http.methods cimport method_text
from lb.net.tls.version cimport tls_version
from lb.proxy.client.client cimport Client
from lb.proxy.routing.headers.fields cimport find_agent
from lb.proxy.routing.headers.forwarded cimport tg_ids
from lb.telemetry.accesslog cimport (
    A_CLIENT, A_HOST, A_LISTENER, A_METHOD, A_REASON, A_TARGET, A_USER_AGENT, set_object, set_text, tg_access, wall_ns,
)


cdef void log_rejected(Client client, const Scan *scan, int version, int kind, bint grpc) noexcept:
    cdef const tg_failure *failure = failure_of(kind)
    cdef tg_access *record
    cdef const Field *host
    cdef const Field *agent
    cdef const char *text
    cdef tg_ids *ids = NULL
    cdef size_t n
    if not client.listener.access.writing:
        return
    record = client.listener.access.begin()
    if record == NULL:
        return
    record.wall_ns = wall_ns()
    record.status = <uint16_t>(200 if grpc else failure.status)     # as the client was told
    record.grpc_status = <short>(failure.grpc_status if grpc else -1)
    record.version = <uint16_t>version
    record.port = client.port
    if client.tls is not None:
        record.tls = <uint16_t>tls_version(client.tls)
    if scan != NULL and client.listener.hop.trusted.count:
        ids = client.listener.hop.identify(scan, client.ip, client.ip_length)
    if ids != NULL and ids.source_length:
        set_text(record, A_CLIENT, ids.source, ids.source_length)
    else:
        set_text(record, A_CLIENT, client.ip, client.ip_length)
    free(ids)
    set_object(record, A_LISTENER, client.listener.name)
    set_text(record, A_REASON, failure.reason, <size_t>failure.reason_length)
    if scan != NULL:
        if 0 <= scan.method <= M_OTHER:
            text = method_text(scan, scan.method, &n)
            set_text(record, A_METHOD, text, n)
        set_text(record, A_TARGET, scan.target, client.listener.access.shown(scan.target, scan.target_length))
        agent = find_agent(scan)
        if agent != NULL:
            set_text(record, A_USER_AGENT, agent.value, agent.value_length)
        if scan.first[H_HOST] >= 0:
            host = &scan.fields[scan.first[H_HOST]]
            if not read_authority(host.value, host.value_length, &n):
                n = host.value_length             # what was no host stands there as it came
            set_text(record, A_HOST, host.value, n)
    client.listener.access.commit()
