"""The fields of a request that goes on over HTTP/2: see forward_http2_fields.pxd."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memset
from lb.core.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.core.head cimport H_EXPECT, H_GRPC_TIMEOUT, H_HOST, H_TE, Field, Scan, has_token, mark_hop_by_hop
from lb.core.http2_block cimport block_add, block_add_lower
from lb.core.methods cimport method_text
from lb.proxy.client_certificate cimport append_client_certificate
from lb.proxy.fields cimport OMIT_CERTIFICATE, replace_host
from lb.proxy.forward_http2 cimport Http2Exchange
from lb.proxy.forwarded cimport tg_hop, tg_hop_cache
from lb.upstream.grpc_text cimport grpc_timeout_ns

cdef enum:
    CERTIFICATE_FIELD = 23            # length of "X-Forwarded-Client-Cert"

# What the hop adds to a request, until it is in the request's block.
cdef tg_buffer hop_lines


cdef int add_client_certificate(Http2Exchange exchange, Scan *scan) noexcept:
    cdef tg_buffer line
    cdef int failed
    memset(&line, 0, sizeof(line))
    failed = append_client_certificate(&line, exchange.client, scan)
    if tg_buffer_size(&line) > CERTIFICATE_FIELD + 4:
        failed |= block_add_lower(&exchange.call.fields, tg_buffer_head(&line), CERTIFICATE_FIELD,
                                  tg_buffer_head(&line) + CERTIFICATE_FIELD + 2,
                                  tg_buffer_size(&line) - CERTIFICATE_FIELD - 4)
    tg_buffer_free(&line)
    return failed


cdef int request_fields(Http2Exchange exchange, Scan *scan) noexcept:
    cdef tg_buffer *block = &exchange.call.fields
    cdef size_t method_length
    cdef const char *method = method_text(scan, exchange.method, &method_length)
    cdef tg_hop hop
    cdef tg_hop_cache *cache = NULL
    cdef uint64_t skip = <uint64_t>1 << H_EXPECT | <uint64_t>1 << H_HOST, allowed
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
        failed |= add_client_certificate(exchange, scan)
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.hop or (field.id and (skip >> field.id) & 1):
            continue
        if field.id == H_GRPC_TIMEOUT and exchange.grpc:
            # What is left of it is said when the stream is opened.
            allowed = grpc_timeout_ns(field.value, field.value_length)
            if allowed and exchange.started + allowed < exchange.expires:
                exchange.expires = exchange.started + allowed
            continue
        failed |= block_add_lower(block, field.name, field.name_length, field.value, field.value_length)
    if scan.first[H_TE] >= 0:
        field = &scan.fields[scan.first[H_TE]]
        # What gRPC's clients say, and what others may say among more.
        if field.value_length == 8 and memcmp(field.value, b"trailers", 8) == 0 or has_token(field, b"trailers"):
            failed |= block_add(block, b"te", 2, b"trailers", 8)
            exchange.chunks_trailers = scan.version == 11 and not exchange.head_method
    return failed
