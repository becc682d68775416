"""The result cache before an inference, and the single flight of identical misses: see infer_cache.pxd."""

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.core.segment cimport TG_S_CACHE_STORED, tg_add
from lb.inference.response cimport store_form
from lb.proxy.exchange cimport CACHE_BYPASS, CACHE_COLLAPSED, CACHE_HIT, CACHE_MISS, X_REQUEST
from lb.proxy.infer cimport InferExchange
from lb.proxy.infer_answer cimport answer, answer_error

cdef enum:
    GRPC_INVALID_ARGUMENT = 3
    GRPC_NOT_FOUND = 5
    GRPC_UNIMPLEMENTED = 12
    GRPC_UNAVAILABLE = 14


cdef void through_cache(InferExchange exchange) noexcept:
    cdef unsigned char key[32]
    if exchange.context.cache is None:
        exchange.pick()
        return
    if not exchange.route.cache or not exchange.request.cacheable:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    if exchange.request.digest(<const unsigned char *><const char *>exchange.pool.cache_key, key) < 0:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    exchange.digest = (<char *>key)[:32]
    if not answer_from_cache(exchange):
        fly(exchange)


cdef bint answer_from_cache(InferExchange exchange) noexcept:
    cdef uint64_t age = 0, ttl = 0
    cdef Py_ssize_t size
    tg_buffer_clear(&exchange.context.stored)
    size = exchange.context.cache.get(<const unsigned char *><const char *>exchange.digest, exchange.client.poller.now,
                                      &exchange.context.stored, &age, &ttl)
    if size < 0:
        return False
    exchange.cache = CACHE_HIT
    answer(exchange, tg_buffer_head(&exchange.context.stored), <size_t>size)
    return True


cdef void fly(InferExchange exchange) noexcept:
    """The first of identical misses asks; the others wait for its answer."""
    if exchange.context.flights.join(exchange.digest, exchange):
        exchange.following = True
        exchange.cache = CACHE_COLLAPSED
        exchange.arm_wait()
        return
    exchange.following = False
    exchange.leading = True
    exchange.cache = CACHE_MISS
    exchange.pick()


cdef void resume(InferExchange exchange) noexcept:
    """The leader failed, or left: this follower takes part in a new flight."""
    exchange.following = False
    if exchange.state == X_REQUEST:
        exchange.client.poller.arm(exchange, exchange.expires)
        fly(exchange)


cdef void land(InferExchange exchange, const char *message, size_t size) noexcept:
    cdef object follower
    if not exchange.leading:
        return
    exchange.leading = False
    for follower in exchange.context.flights.finish(exchange.digest):
        (<InferExchange>follower).following = False
        answer(<InferExchange>follower, message, size)


cdef void release_followers(InferExchange exchange, int grpc_status, str message) noexcept:
    cdef object follower
    if not exchange.leading:
        return
    exchange.leading = False
    for follower in exchange.context.flights.finish(exchange.digest):
        (<InferExchange>follower).following = False
        if grpc_status in (GRPC_INVALID_ARGUMENT, GRPC_NOT_FOUND, GRPC_UNIMPLEMENTED):
            answer_error(<InferExchange>follower, grpc_status, message)
        else:
            resume(<InferExchange>follower)


cdef void store(InferExchange exchange) noexcept:
    cdef tg_buffer *stored = &exchange.context.stored
    tg_buffer_clear(stored)
    if store_form(tg_buffer_head(&exchange.call.reply), tg_buffer_size(&exchange.call.reply), stored) < 0:
        return
    if exchange.context.cache.put(<const unsigned char *><const char *>exchange.digest, tg_buffer_head(stored),
                                  tg_buffer_size(stored), exchange.client.poller.now, exchange.route.cache_ttl) == 1:
        tg_add(&exchange.route.series[TG_S_CACHE_STORED], 1)
        exchange.stored = True


cdef void leave_flight(InferExchange exchange) noexcept:
    if exchange.following:
        exchange.following = False
        exchange.context.flights.leave(exchange.digest, exchange)
    release_followers(exchange, GRPC_UNAVAILABLE, "")
