"""What a CDN needs to keep answers of inferences: see cached_result.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from lb.cache import tags
from lb.cache.layout cimport TG_FRESH, TG_NEGATIVE, tg_found
from lb.cache.store cimport ResultCache
from lb.http.caching.conditions cimport tag_listed
from lb.http.head cimport Field, Scan, same_name
from lb.http.head_text cimport append_number, append_text
from lb.http.token cimport TOKEN, TOKEN_TEXT, read_token, write_token
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
)
from lb.proxy.exchange.cached cimport OWN_TAGS, AnswerTags, CachedBody, rule_of, tags_of
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.access.guard cimport Guard
from lb.proxy.routing.cache_key cimport CacheKeyRule
from lb.shared.hashing cimport hash64, tg_digest, tg_digest_final, tg_digest_init, tg_digest_update
from lb.upstream.pool cimport KEY_NONE, POOL_OIP, Pool

cdef bytes PURPOSE = b"tidegate result\0"  # no digest of a request begins like this under the same secret


cdef class ResultQuery:
    pass


cdef ResultQuery read_query(const Scan *scan):
    cdef ResultQuery query
    cdef const Field *field
    cdef int i
    try:
        query = ResultQuery.__new__(ResultQuery)
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.name_length != 13:
                continue
            if same_name(field.name, 13, b"if-none-match"):
                text = field.value[:field.value_length]
                query.known = text if query.known is None else query.known + b"," + text
            elif same_name(field.name, 13, b"authorization"):
                query.authorized = True
    except MemoryError:
        return None
    return query


cdef int add_text(tg_digest *state, bytes text) noexcept:
    cdef uint32_t size = <uint32_t>len(text)
    if tg_digest_update(state, &size, sizeof(size)) < 0:
        return -1
    return tg_digest_update(state, <const char *>text, size)


cdef int hide(CachedBody body, Pool pool, const unsigned char *from_, unsigned char *to) noexcept:
    """A key as a token, or a token as a key. -1: hashing failed."""
    cdef tg_digest state
    cdef unsigned char pad[TOKEN]
    cdef int i
    if (tg_digest_init(&state, <const unsigned char *><const char *>pool.cache_key) < 0
            or tg_digest_update(&state, <const char *>PURPOSE, <size_t>len(PURPOSE)) < 0
            or add_text(&state, body.asked_model) < 0 or add_text(&state, body.asked_version) < 0
            or add_text(&state, body.variant if body.variant is not None else b"") < 0
            or tg_digest_final(&state, pad) < 0):
        return -1
    for i in range(TOKEN):
        to[i] = from_[i] ^ pad[i]
    return 0


cdef bint is_nobodys(CachedBody body, Exchange exchange) noexcept:
    """Whether the request has to name a tenant, and does not."""
    cdef CacheKeyRule rule = exchange.route.cache_key
    return rule is not None and rule.tenant_kind != KEY_NONE and body.tenant is None


cdef tuple pools_of(Exchange exchange):
    """Whose answers the route gives: the token says from which of them its answer came."""
    return (exchange.pool,) if exchange.route.split is None else exchange.route.split.pools


cdef bint find_result(CachedBody body, Exchange exchange, ResultQuery query, tg_buffer *message,
                      tg_found *found) noexcept:
    cdef ResultCache store = body.answers.store
    cdef uint64_t now = exchange.client.poller.now
    cdef unsigned char token[TOKEN]
    cdef unsigned char key[TOKEN]
    cdef Pool pool
    if (len(body.token) != TOKEN_TEXT or not read_token(<const char *>body.token, token) or store is None
            or not body.answers.on or is_nobodys(body, exchange)):
        return False
    for each in pools_of(exchange):
        pool = <Pool>each
        if (pool.protocol != POOL_OIP or rule_of(pool, body.asked_model) is None or hide(body, pool, token, key) < 0
                or not store.contains(key, now)):
            continue
        tg_buffer_clear(message)
        if (store.get(key, now, False, message, found) >= 0 and found.state == TG_FRESH
                and not found.flags & TG_NEGATIVE):
            query.pool = pool
            query.more_tags = found.tags > <uint32_t>(OWN_TAGS + (body.tenant is not None))
            write_etag(query, message)
            return True
    return False


cdef void write_etag(ResultQuery query, const tg_buffer *message) noexcept:
    """Weak: a body may be compressed or not. By what the endpoint said, which is the same after a refresh that has
    changed nothing."""
    cdef uint64_t hashed = hash64(tg_buffer_head(message), tg_buffer_size(message))
    cdef const char *digits = b"0123456789abcdef"
    cdef int i
    memcpy(query.etag, b'W/"', 3)
    for i in range(16):
        query.etag[3 + i] = digits[hashed >> (60 - 4 * i) & 15]
    query.etag[ETAG - 1] = 34


cdef bint is_known(ResultQuery query) noexcept:
    return query.known is not None and tag_listed(
        <const char *>query.known, <size_t>len(query.known), query.etag, ETAG, False)


cdef void append_result_fields(CachedBody body, Exchange exchange, ResultQuery query, tg_buffer *head) noexcept:
    cdef CacheKeyRule rule = exchange.route.cache_key
    cdef Guard guard = exchange.route.guard
    cdef bint own = (query.authorized or query.more_tags or body.tenant is not None       # not for CDNs
                     or guard is not None and guard.asks)
    append_text(head, b"Cache-Control: private, max-age=" if own else b"Cache-Control: public, max-age=")
    append_number(head, <uint64_t>body.ttl)
    append_text(head, b"\r\nETag: ")
    tg_buffer_append(head, query.etag, ETAG)
    append_text(head, b"\r\n")
    if rule is not None:
        tg_buffer_append(head, <const char *>rule.varies, <size_t>len(rule.varies))
    append_tags(body, query.pool, head)


cdef void append_location(CachedBody body, Exchange exchange, tg_buffer *head) noexcept:
    cdef const unsigned char *key
    cdef unsigned char token[TOKEN]
    cdef char text[TOKEN_TEXT]
    if (not exchange.route.results_by_get or body.digest is None or body.rows is not None
            or body.answers.store is None):
        return
    key = <const unsigned char *><const char *>body.digest
    if not body.answers.store.contains(key, exchange.client.poller.now) or hide(body, exchange.pool, key, token) < 0:
        return
    write_token(token, text)
    if tg_buffer_reserve(head, TOKEN_TEXT + 28) < 0:      # all of it, or nothing
        return
    append_text(head, b"Content-Location: results/")
    tg_buffer_append(head, text, TOKEN_TEXT)
    append_text(head, b"\r\n")


cdef void append_tags(CachedBody body, Pool pool, tg_buffer *head) noexcept:
    cdef AnswerTags its
    cdef bytes line
    if not body.answers.tags_header or body.answers.store is None or body.asked_model is None:
        return
    its = tags_of(body, pool)
    if its is None:
        return
    try:
        line = body.answers.tags_header + its.line
        if body.tenant is not None:
            tenant = tags.of_tenant(body.tenant.decode("utf-8", "replace")).encode()
            if len(tenant) <= tags.LONGEST:
                line += body.answers.separator + tenant
        line += b"\r\n"
    except MemoryError:
        return
    tg_buffer_append(head, <const char *>line, <size_t>len(line))
