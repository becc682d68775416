"""The result cache before an inference, and the single flight: see cached.pxd."""

from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from lb.cache import tags
from lb.cache.flight cimport Flights
from lb.cache.layout cimport tg_found, tg_tag
from lb.cache.store cimport ResultCache
from lb.http.head_text cimport append_text
from lb.inference.request cimport InferRequest
from lb.inference.response cimport store_form
from lb.inference.rows cimport Rows
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.proxy.exchange.cached_rows cimport keep_rows, look_up_rows, rows_to_look_up
from lb.proxy.exchange.exchange cimport (
    CACHE_BYPASS, CACHE_COLLAPSED, CACHE_HIT, CACHE_MISS, X_REQUEST, BodySource, Exchange,
)
from lb.shared.segment cimport Segment, tg_add
from lb.shared.segment_words cimport ROUTE_CACHE_STORED, ROUTE_CACHE_WHOLE_BATCHES_ANSWER


cdef enum:
    GRPC_INVALID_ARGUMENT = 3
    GRPC_NOT_FOUND = 5
    GRPC_UNIMPLEMENTED = 12
    GRPC_UNAVAILABLE = 14
    MOST_TAGGED = 4096                # models whose tags are kept


cdef class AnswerTags:
    pass


cdef class AnswerCache:
    """The cache of a worker, and the flights that collapse identical misses."""

    def __init__(self, Segment segment):
        self.segment = segment
        self.flights = Flights()
        self.tags = {}

    def __dealloc__(self):
        tg_buffer_free(&self.message)

    def prepare(self, plan):
        """`plan` is that of the cache, or None. Whatever of it can fail is done here, before anything is changed."""
        if plan is not None and self.store is None:
            self.store = ResultCache(self.segment, plan.max_object)

    def commit(self, plan):
        self.on = plan is not None


cdef class CachedBody(BodySource):

    cdef void deliver(self, Exchange exchange, const char *message, size_t size) noexcept:
        pass

    cdef bint send(self, InferRequest request) noexcept:
        return False

    cdef void refuse(self, Exchange exchange, int grpc_status, str message) noexcept:
        pass


cdef void through_cache(CachedBody body, Exchange exchange, InferRequest request) noexcept:
    cdef unsigned char key[32]
    if not body.answers.on:
        exchange.pick()
        return
    if not exchange.route.cache or not request.cacheable:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    body.rows = rows_to_look_up(exchange, request)
    if make_key(body, exchange, request, key) < 0:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    body.digest = (<char *>key)[:32]
    body.asked_model = request.model
    body.asked_version = request.version
    through_cache_by_digest(body, exchange)


cdef void through_cache_by_digest(CachedBody body, Exchange exchange) noexcept:
    if not answer_from_cache(body, exchange):
        fly(body, exchange)


cdef int make_key(CachedBody body, Exchange exchange, InferRequest request, unsigned char *key) noexcept:
    cdef const unsigned char *secret = <const unsigned char *><const char *>exchange.pool.cache_key
    return request.digest(secret, key) if body.rows is None else body.rows.digest(secret, key)


cdef bint answer_from_cache(CachedBody body, Exchange exchange) noexcept:
    cdef AnswerCache answers = body.answers
    cdef tg_found found
    cdef Py_ssize_t size
    if body.rows is not None:
        return answer_from_rows(body, exchange)
    tg_buffer_clear(&answers.message)
    size = answers.store.get(<const unsigned char *><const char *>body.digest, exchange.client.poller.now, False,
                             &answers.message, &found)
    if size < 0:
        return False
    exchange.cache = CACHE_HIT
    body.deliver(exchange, tg_buffer_head(&answers.message), <size_t>size)
    return True


cdef bint answer_from_rows(CachedBody body, Exchange exchange) noexcept:
    cdef Rows rows = body.rows
    cdef ResultCache store = body.answers.store
    cdef AnswerTags its = tags_of(body, exchange)
    cdef int missing
    if its is None:
        body.rows = None
        return False
    store.begin(&body.looked_up, its.slots, OWN_TAGS)
    missing = look_up_rows(rows, store, exchange)
    body.partial = missing < rows.distinct
    if missing or not store.holds(&body.looked_up) or rows.combine(NULL, 0) < 0:
        return False
    exchange.cache = CACHE_HIT
    body.deliver(exchange, tg_buffer_head(&rows.answer), tg_buffer_size(&rows.answer))
    return True


cdef void ask_for_rows(CachedBody body) noexcept:
    """Of the rows, the model server is asked for those that are missing."""
    cdef Rows rows = body.rows
    cdef InferRequest request = rows.ask() if rows.asked_count else None
    if request is None or not body.send(request):
        body.partial = False
        body.send(rows.ask_whole())


cdef const tg_buffer *combined(CachedBody body, Exchange exchange, const tg_buffer *reply) noexcept:
    cdef Rows rows = body.rows
    if rows is None:
        return reply
    # What was found before a purge does not go with what was made after it.
    if ((not body.partial or body.answers.store.holds(&body.looked_up))
            and rows.combine(tg_buffer_head(reply), tg_buffer_size(reply)) == 0):
        return &rows.answer
    tg_add(&exchange.route.series[ROUTE_CACHE_WHOLE_BATCHES_ANSWER], 1)
    if rows.whole:
        rows.forget()                         # nothing to keep, but the answer to what the client asked
        return reply
    # The answer to the client's own request is right, whatever became of the model meanwhile.
    body.partial = False
    body.send(rows.ask_whole())
    exchange.drop_hedge()                     # which asks for the rows
    exchange.last_endpoint = -1               # the endpoint has not failed
    exchange.client.poller.arm(exchange, exchange.expires)
    exchange.pick()
    return NULL


cdef void fly(CachedBody body, Exchange exchange) noexcept:
    """The first of identical misses asks; the others wait for its answer. Its generations are those from before an
    endpoint is asked, so that a purge that comes meanwhile wins: the answer is not kept, and later misses ask anew."""
    cdef AnswerTags its = None
    if body.answers.store is not None:        # a reload may have taken it away while this one waited
        its = tags_of(body, exchange)
    if its is None:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    body.answers.store.begin(&body.fill, its.slots, OWN_TAGS)
    body.flight = body.digest + (<char *>body.fill.tags)[:body.fill.count * sizeof(tg_tag)]
    if body.answers.flights.join(body.flight, exchange):
        body.following = True
        exchange.cache = CACHE_COLLAPSED
        exchange.arm_wait()
        return
    body.following = False
    body.leading = True
    exchange.cache = CACHE_MISS
    if body.rows is not None:
        ask_for_rows(body)
    exchange.pick()


cdef AnswerTags tags_of(CachedBody body, Exchange exchange):
    """Once for each model. None where memory is short."""
    cdef dict known = body.answers.tags
    cdef tuple key = (exchange.pool.name, body.asked_model, body.asked_version)
    cdef AnswerTags found = known.get(key)
    cdef int i
    if found is not None:
        return found
    found = AnswerTags.__new__(AnswerTags)
    try:
        model, version = [text.decode("utf-8", "replace") for text in key[1:]]
        for i, tag in enumerate(tags.of_answer(exchange.pool.name, model, version)):
            name = tag.encode()
            found.slots[i] = body.answers.store.slot(<const char *><bytes>name, <size_t>len(name))
        if len(known) >= MOST_TAGGED:
            known.clear()
        known[key] = found
    except MemoryError:
        return None
    return found


cdef void resume(CachedBody body, Exchange exchange) noexcept:
    """The leader failed, or left: this follower takes part in a new flight."""
    body.following = False
    if exchange.state == X_REQUEST:
        exchange.client.poller.arm(exchange, exchange.expires)
        fly(body, exchange)


cdef void land(CachedBody body, const char *message, size_t size) noexcept:
    cdef object follower
    cdef CachedBody of_follower
    if not body.leading:
        return
    body.leading = False
    for follower in body.answers.flights.finish(body.flight):
        of_follower = <CachedBody>(<Exchange>follower).source
        of_follower.following = False
        of_follower.deliver(<Exchange>follower, message, size)


cdef void scatter(CachedBody body) noexcept:
    cdef object follower
    cdef Exchange waiting
    if not body.leading:
        return
    body.leading = False
    for follower in body.answers.flights.finish(body.flight):
        waiting = <Exchange>follower
        (<CachedBody>waiting.source).following = False
        if waiting.state == X_REQUEST:
            if (<CachedBody>waiting.source).rows is not None:
                ask_for_rows(<CachedBody>waiting.source)
            waiting.cache = CACHE_MISS
            waiting.client.poller.arm(waiting, waiting.expires)
            waiting.pick()


cdef void release_followers(CachedBody body, int grpc_status, str message) noexcept:
    cdef object follower
    cdef CachedBody of_follower
    if not body.leading:
        return
    body.leading = False
    for follower in body.answers.flights.finish(body.flight):
        of_follower = <CachedBody>(<Exchange>follower).source
        of_follower.following = False
        if grpc_status in (GRPC_INVALID_ARGUMENT, GRPC_NOT_FOUND, GRPC_UNIMPLEMENTED):
            of_follower.refuse(<Exchange>follower, grpc_status, message)
        else:
            resume(of_follower, <Exchange>follower)


cdef void store(CachedBody body, Exchange exchange, const tg_buffer *reply) noexcept:
    cdef tg_buffer *message = &body.answers.message
    cdef uint64_t now = exchange.client.poller.now
    if body.answers.store is None:            # a reload took it away meanwhile
        return
    body.fill.fresh_ns = exchange.route.cache_ttl
    body.fill.cost_us = <uint32_t>min((now - min(exchange.attempt.picked_at, now)) // 1000, <uint64_t>UINT32_MAX)
    if body.rows is not None:
        body.fill.cost_us //= <uint32_t>max(body.rows.asked_count, 1)
        body.kept = keep_rows(body.rows, body.answers.store, message, now, &body.fill) > 0
        if body.kept:
            tg_add(&exchange.route.series[ROUTE_CACHE_STORED], 1)
        return
    tg_buffer_clear(message)
    if store_form(tg_buffer_head(reply), tg_buffer_size(reply), message) < 0:
        return
    if body.answers.store.put(<const unsigned char *><const char *>body.digest, tg_buffer_head(message),
                              tg_buffer_size(message), now, &body.fill) == 1:
        tg_add(&exchange.route.series[ROUTE_CACHE_STORED], 1)
        body.kept = True


cdef void leave_flight(CachedBody body, Exchange exchange) noexcept:
    if body.following:
        body.following = False
        body.answers.flights.leave(body.flight, exchange)
    release_followers(body, GRPC_UNAVAILABLE, "")


cdef int append_cache_status(CachedBody body, Exchange exchange, tg_buffer *head) noexcept:
    if exchange.cache == CACHE_HIT:
        return append_text(head, b"Cache-Status: tidegate; hit\r\n")
    if exchange.cache == CACHE_MISS:
        if append_text(head, b"Cache-Status: tidegate; fwd=partial" if body.partial
                       else b"Cache-Status: tidegate; fwd=miss") < 0:
            return -1
        return append_text(head, b"; stored\r\n" if body.kept else b"\r\n")
    if exchange.cache == CACHE_COLLAPSED:
        return append_text(head, b"Cache-Status: tidegate; fwd=miss; collapsed\r\n")
    if exchange.cache == CACHE_BYPASS:
        return append_text(head, b"Cache-Status: tidegate; fwd=bypass\r\n")
    return 0
