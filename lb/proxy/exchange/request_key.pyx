"""Keys of a request as it came: see request_key.pxd."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.net.source_key cimport hash_source
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.keys cimport first_part
from lb.proxy.routing.text_key cimport TextKey
from lb.proxy.routing.values.format cimport tg_values
from lb.proxy.routing.values.gather cimport gather
from lb.shared.hashing cimport hash64
from lb.upstream.pool cimport KEY_TEXT, KEY_URI, Pool


cdef bint find_text(Exchange exchange, const Scan *scan, TextKey key, const char **text, size_t *n) noexcept:
    cdef tg_values values
    gather(&values, exchange, scan, key.wanted)
    return key.find(&values, text, n)


cdef void find_request_key(Exchange exchange, const Scan *scan) noexcept:
    cdef Pool pool = exchange.pool
    cdef const char *text = scan.target
    cdef size_t n = scan.target_length
    if pool.key_kind != KEY_TEXT:
        n = first_part(text, n, pool.key_kind == KEY_URI, pool.key_depth, pool.key_length)
    elif not find_text(exchange, scan, <TextKey>pool.key_text, &text, &n):
        n = 0
    if n:
        exchange.key = hash64(text, n)
        return
    text = exchange.source_address(&n)
    exchange.key = hash_source(text, n, &pool.prefixes)


cdef size_t find_rate_text(Exchange exchange, const Scan *scan, const char **text) noexcept:
    cdef TextKey key = exchange.route.rate.key.text
    cdef size_t n = 0
    return n if key is not None and find_text(exchange, scan, key, text, &n) else 0


cdef bint within_rate(Exchange exchange, Scan *scan) noexcept:
    cdef const char *text = NULL
    cdef size_t n = find_rate_text(exchange, scan, &text)
    return exchange.admit(scan, text, n)


cdef uint64_t rate_bucket(Exchange exchange, const Scan *scan) noexcept:
    cdef const char *text = NULL
    cdef size_t source_length, n = find_rate_text(exchange, scan, &text)
    cdef const char *source = exchange.source_address(&source_length)
    return exchange.route.rate.bucket_of(scan, text, n, source, source_length)
