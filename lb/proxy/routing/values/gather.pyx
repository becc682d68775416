"""What an exchange offers to the texts of its route: see gather.pxd. What no text asks for is not looked for."""

from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memset
from lb.http.head cimport H_HOST, Scan
from lb.http.methods cimport method_text
from lb.net.tls.certificate cimport CertificateInfo
from lb.net.tls.facts cimport alpn_text, cipher_text, server_name, version_text
from lb.net.tls.session cimport Tls
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.keys cimport find_value
from lb.proxy.routing.values.format cimport (
    V_CAPTURE, V_CLIENT_ADDRESS, V_CLIENT_PORT, V_HOST, V_IDENTITY, V_LISTENER, V_METHOD, V_PATH, V_POOL, V_PROTOCOL,
    V_QUERY_STRING, V_REQUEST_ID, V_ROUTE, V_SCHEME, V_TLS_ALPN, V_TLS_CIPHER, V_TLS_COMMON_NAME, V_TLS_FINGERPRINT,
    V_TLS_ISSUER, V_TLS_SNI, V_TLS_SUBJECT, V_TLS_VERSION, V_URI, RequestValues, protocol_name, set_name, set_value,
    tg_text, tg_values,
)
from lb.upstream.pool cimport KEY_HEADER

from lb.config.plan.access import IDENTITY

cdef bytes IDENTITY_NAME = IDENTITY.encode()

cdef enum:
    OF_TARGET = 1 << V_PATH | 1 << V_QUERY_STRING | 1 << V_URI
    OF_TLS = 1 << V_TLS_VERSION | 1 << V_TLS_CIPHER | 1 << V_TLS_SNI | 1 << V_TLS_ALPN
    OF_CERTIFICATE = 1 << V_TLS_SUBJECT | 1 << V_TLS_ISSUER | 1 << V_TLS_COMMON_NAME | 1 << V_TLS_FINGERPRINT
    OF_PLAN = 1 << V_LISTENER | 1 << V_ROUTE | 1 << V_POOL


cdef void gather(tg_values *values, Exchange exchange, const Scan *scan, RequestValues wanted) noexcept:
    cdef uint64_t kinds = wanted.kinds
    cdef const char *path_end
    cdef tg_text *known = values.known
    cdef size_t n = scan.target_length
    values.scan = scan
    memset(known, 0, sizeof(values.known))
    if kinds & (OF_TARGET | <uint64_t>1 << V_CAPTURE):
        path_end = <const char *>memchr(scan.target, 63, n)
        known[V_URI].at = known[V_PATH].at = scan.target
        known[V_URI].n = n
        known[V_PATH].n = n if path_end == NULL else <size_t>(path_end - scan.target)
        if path_end != NULL:
            known[V_QUERY_STRING].at = path_end + 1
            known[V_QUERY_STRING].n = n - known[V_PATH].n - 1
        wanted.capture(values, scan.target, known[V_PATH].n)
    if kinds >> V_CLIENT_ADDRESS & 1:
        known[V_CLIENT_ADDRESS].at = exchange.source_address(&known[V_CLIENT_ADDRESS].n)
    if kinds >> V_CLIENT_PORT & 1 and exchange.client.port:
        known[V_CLIENT_PORT].n = <size_t>snprintf(values.port, sizeof(values.port), b"%d", <int>exchange.client.port)
        known[V_CLIENT_PORT].at = values.port
    if kinds >> V_METHOD & 1:
        known[V_METHOD].at = method_text(scan, exchange.method, &known[V_METHOD].n)
    if kinds >> V_SCHEME & 1:
        set_value(&known[V_SCHEME], exchange.client.scheme())
    if kinds >> V_HOST & 1 and scan.first[H_HOST] >= 0:
        known[V_HOST].at = scan.fields[scan.first[H_HOST]].value
        known[V_HOST].n = without_port(known[V_HOST].at, scan.fields[scan.first[H_HOST]].value_length)
    if kinds >> V_PROTOCOL & 1:
        set_value(&known[V_PROTOCOL], protocol_name(exchange.version))
    if kinds >> V_REQUEST_ID & 1 and exchange.ids != NULL:
        known[V_REQUEST_ID].at = exchange.ids.request_id
        known[V_REQUEST_ID].n = exchange.ids.request_id_length
    if kinds >> V_IDENTITY & 1 and exchange.route.guard is not None:
        find_value(scan, KEY_HEADER, <const char *>IDENTITY_NAME, <size_t>len(IDENTITY_NAME), &known[V_IDENTITY].at,
                   &known[V_IDENTITY].n)
    if kinds & OF_PLAN:
        set_name(&known[V_LISTENER], exchange.listener.name)
        set_name(&known[V_ROUTE], exchange.route.name)
        if exchange.pool is not None:
            set_name(&known[V_POOL], exchange.pool.name)
    if kinds & (OF_TLS | OF_CERTIFICATE) and exchange.client.tls is not None:
        gather_tls(known, exchange.client.tls, kinds)


cdef void gather_tls(tg_text *known, Tls tls, uint64_t kinds) noexcept:
    cdef CertificateInfo info
    if kinds & OF_TLS:
        set_value(&known[V_TLS_VERSION], version_text(tls))
        set_value(&known[V_TLS_CIPHER], cipher_text(tls))
        set_value(&known[V_TLS_SNI], server_name(tls))
        known[V_TLS_ALPN].at = alpn_text(tls, &known[V_TLS_ALPN].n)
    if kinds & OF_CERTIFICATE:
        try:
            info = tls.client_info()
        except (MemoryError, ValueError):
            return                            # as of a client without a certificate
        if info is not None:
            set_name(&known[V_TLS_SUBJECT], info.subject)
            set_name(&known[V_TLS_ISSUER], info.issuer)
            set_name(&known[V_TLS_COMMON_NAME], info.common_name)
            set_name(&known[V_TLS_FINGERPRINT], info.fingerprint)


cdef size_t without_port(const char *host, size_t n) noexcept nogil:
    cdef size_t i = n
    while i and 48 <= host[i - 1] <= 57:
        i -= 1
    return i - 1 if i and host[i - 1] == 58 else n
