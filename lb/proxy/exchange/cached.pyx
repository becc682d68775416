"""The result cache before an inference, and the single flight: see cached.pxd."""

from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.string cimport memset
from lb.cache import tags
from lb.cache.flight cimport Flights
from lb.cache.layout cimport TG_AWAITED, tg_found, tg_tag
from lb.cache.shared_flights cimport (
    FLIGHT_FOLLOWS, FLIGHT_FULL, FLIGHT_GOES_ON, FLIGHT_LEADS, FLIGHT_UNSHARED, LOOK_NS, SharedFlights,
)
from lb.cache.store cimport ResultCache
from lb.http.head_text cimport append_text
from lb.inference.request cimport InferRequest, digest_of
from lb.inference.response cimport store_form
from lb.inference.rows cimport Rows
from lb.inference.template cimport Template
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.poller cimport NEVER, Poller, Source
from lb.net.stream cimport iovec
from lb.net.wakeups cimport Wakeups
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


cdef class AnswerCache(Source):
    """The cache of a worker, and the flights that collapse identical misses, its own and those of all workers."""

    def __init__(self, Poller poller not None, Segment segment not None, Wakeups wakeups not None):
        self.poller = poller
        self.segment = segment
        self.wakeups = wakeups
        self.flights = Flights()
        self.tags = {}

    def __dealloc__(self):
        tg_buffer_free(&self.message)

    def prepare(self, plan):
        """`plan` is that of the cache, or None. Whatever of it can fail is done here, before anything is changed."""
        if plan is None or self.store is not None:
            return
        store = ResultCache(self.segment, plan.max_object)
        if self.wakeups.count > 1:
            self.shared = SharedFlights(store, self.wakeups)
            self.wakeups.wakes.add(self)
        self.store = store

    def commit(self, plan):
        self.on = plan is not None

    cdef void on_flush(self) noexcept:
        """A wakeup has come: a flight that this worker follows may be over."""
        look_at_flights(self)

    cdef void on_timer(self) noexcept:
        if self.shared.led:
            self.shared.renew(self.poller.now)
        look_at_flights(self)
        if self.shared.led or self.shared.followed:
            watch(self)


cdef class CachedBody(BodySource):

    cdef void deliver(self, Exchange exchange, const char *message, size_t size) noexcept:
        pass

    cdef bint send(self, Exchange exchange, InferRequest request) noexcept:
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
    if make_key(body, exchange, request.template, request.tensors, key) < 0:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    body.digest = (<char *>key)[:32]
    body.asked_model = request.model
    body.asked_version = request.version
    through_cache_by_digest(body, exchange)


cdef void through_cache_by_digest(CachedBody body, Exchange exchange) noexcept:
    if not answer_from_cache(body, exchange):
        fly(body, exchange, False)


cdef int make_key(CachedBody body, Exchange exchange, Template template, const iovec *tensors,
                  unsigned char *key) noexcept:
    cdef const unsigned char *secret = <const unsigned char *><const char *>exchange.pool.cache_key
    return digest_of(template, tensors, secret, key) if body.rows is None else body.rows.digest(secret, key)


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
    exchange.cache = found_as(exchange)
    body.deliver(exchange, tg_buffer_head(&answers.message), <size_t>size)
    return True


cdef unsigned char found_as(Exchange exchange) noexcept:
    """Who has waited for another's answer has no hit, although he finds it in the cache at last."""
    return CACHE_COLLAPSED if exchange.cache == CACHE_COLLAPSED else CACHE_HIT


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
    exchange.cache = found_as(exchange)
    body.deliver(exchange, tg_buffer_head(&rows.answer), tg_buffer_size(&rows.answer))
    return True


cdef void ask_for_rows(CachedBody body, Exchange exchange) noexcept:
    """Of the rows, the model server is asked for those that are missing."""
    cdef Rows rows = body.rows
    cdef InferRequest request = rows.ask() if rows.asked_count else None
    if request is None or not body.send(exchange, request):
        body.partial = False
        body.send(exchange, rows.ask_whole())


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
    body.send(exchange, rows.ask_whole())
    exchange.drop_hedge()                     # which asks for the rows
    exchange.last_endpoint = -1               # the endpoint has not failed
    exchange.grpc_status = -1
    exchange.client.poller.arm(exchange, exchange.expires)
    exchange.pick()
    return NULL


cdef void watch(AnswerCache answers) noexcept:
    if answers.deadline == NEVER:
        answers.poller.arm(answers, answers.poller.now + LOOK_NS)


cdef void fly(CachedBody body, Exchange exchange, bint alone) noexcept:
    """The first of identical misses asks; the others wait for its answer, in this worker and, if not `alone`, in all.

    Its generations are those from before an endpoint is asked, so that a purge that comes meanwhile wins: the answer is
    not kept, and later misses ask anew.
    """
    cdef AnswerCache answers = body.answers
    cdef AnswerTags its = None
    cdef int part
    cdef bint looked = False
    body.following = False
    if answers.store is not None:             # a reload may have taken it away while this one waited
        its = tags_of(body, exchange)
    if its is None:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    answers.store.begin(&body.fill, its.slots, OWN_TAGS)
    body.flight = body.digest + (<char *>body.fill.tags)[:body.fill.count * sizeof(tg_tag)]
    while not answers.flights.join(body.flight, exchange):
        part = FLIGHT_FULL
        if answers.shared is not None and not alone:
            part = answers.shared.join(body.flight, answers.poller.now)
            watch(answers)
        if part == FLIGHT_FOLLOWS:
            continue                          # and joins those who follow
        if part == FLIGHT_LEADS and not looked and came_meanwhile(body):
            looked = True
            answers.flights.finish(body.flight)
            answers.shared.end(body.flight, True)
            if answer_from_cache(body, exchange):
                return
            continue
        body.leading = True
        exchange.cache = CACHE_MISS
        if body.rows is not None:
            ask_for_rows(body, exchange)
        exchange.pick()
        return
    body.following = True
    exchange.cache = CACHE_COLLAPSED
    wait_for_leader(exchange)


cdef bint came_meanwhile(CachedBody body) noexcept:
    """Whether the store has now what it had not when the exchange looked, before its worker claimed the flight."""
    cdef const unsigned char *key = <const unsigned char *><const char *>body.digest
    if body.rows is not None:
        if body.rows.asked_count == 0:
            return False
        key = body.rows.rows[body.rows.asked[0]].key
    return body.answers.store.contains(key, body.answers.poller.now)


cdef void wait_for_leader(Exchange exchange) noexcept:
    """As long as for an endpoint, and not past the follower's own deadline."""
    exchange.arm_wait()
    if exchange.due() < exchange.deadline:
        exchange.client.poller.arm(exchange, exchange.due())


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


cdef void resume(CachedBody body, Exchange exchange, bint alone) noexcept:
    """There is no answer of the leader's: this follower takes part in a new flight."""
    body.following = False
    if exchange.state == X_REQUEST:
        exchange.client.poller.arm(exchange, exchange.expires)
        fly(body, exchange, alone)


cdef void deliver_to(list followers, const char *message, size_t size) noexcept:
    cdef object follower
    cdef CachedBody of_follower
    for follower in followers:
        of_follower = <CachedBody>(<Exchange>follower).source
        of_follower.following = False
        of_follower.deliver(<Exchange>follower, message, size)


cdef void land(CachedBody body, const char *message, size_t size) noexcept:
    cdef AnswerCache answers = body.answers
    if not body.leading:
        return
    body.leading = False
    if answers.shared is not None:
        answers.shared.end(body.flight, body.kept)
    deliver_to(answers.flights.finish(body.flight), message, size)


cdef void scatter(CachedBody body) noexcept:
    cdef object follower
    cdef Exchange waiting
    if not body.leading:
        return
    body.leading = False
    if body.answers.shared is not None:
        body.answers.shared.end(body.flight, False)
    for follower in body.answers.flights.finish(body.flight):
        waiting = <Exchange>follower
        (<CachedBody>waiting.source).following = False
        if waiting.state == X_REQUEST:
            if (<CachedBody>waiting.source).rows is not None:
                ask_for_rows(<CachedBody>waiting.source, waiting)
            waiting.cache = CACHE_MISS
            waiting.client.poller.arm(waiting, waiting.expires)
            waiting.pick()


cdef void release_followers(CachedBody body, int grpc_status, str message) noexcept:
    cdef AnswerCache answers = body.answers
    cdef object follower
    cdef CachedBody of_follower
    cdef bytes flight = body.flight
    cdef bint own_fault = grpc_status in (GRPC_INVALID_ARGUMENT, GRPC_NOT_FOUND, GRPC_UNIMPLEMENTED)
    if not body.leading:
        return
    body.leading = False
    if own_fault and answers.shared is not None:
        answers.shared.end(flight, False)
    for follower in answers.flights.finish(flight):
        of_follower = <CachedBody>(<Exchange>follower).source
        of_follower.following = False
        if own_fault:
            of_follower.refuse(<Exchange>follower, grpc_status, message)
        else:
            resume(of_follower, <Exchange>follower, False)
    # The worker goes on leading if one of these took over. Else another worker may.
    if answers.shared is not None and answers.flights.followers_of(flight) is None:
        answers.shared.end(flight, True)


cdef void look_at_flights(AnswerCache answers) noexcept:
    """What has become of the flights that this worker follows."""
    cdef SharedFlights shared = answers.shared
    cdef bytes flight
    cdef int state
    if not shared.followed:
        return
    for flight in list(shared.followed):
        if flight not in shared.followed:     # what became of another has ended it, too
            continue
        state = shared.look(flight, answers.poller.now)
        if state != FLIGHT_GOES_ON:
            landed_elsewhere(answers, flight, state == FLIGHT_UNSHARED)


cdef void landed_elsewhere(AnswerCache answers, bytes flight, bint unshared) noexcept:
    """A flight that this worker followed is over: the answer is in the store, or else there is another flight. Where
    the answer cannot be shared the first follower asks for this worker alone: in a flight with others it might have to
    wait for each of them in turn."""
    cdef tg_buffer message                    # not the worker's: a client that is answered may ask for the next thing
    cdef tg_found found
    cdef Py_ssize_t size
    cdef object follower
    cdef CachedBody body
    cdef Exchange exchange
    memset(&message, 0, sizeof(message))
    answers.shared.forget(flight)
    size = answers.store.get(<const unsigned char *><const char *>flight, answers.poller.now, False, &message, &found)
    for follower in answers.flights.finish(flight):
        exchange = <Exchange>follower
        body = <CachedBody>exchange.source
        body.following = False
        if size >= 0:
            body.deliver(exchange, tg_buffer_head(&message), <size_t>size)
        elif exchange.state == X_REQUEST and (body.rows is None or not answer_from_cache(body, exchange)):
            resume(body, exchange, unshared)
    tg_buffer_free(&message)


cdef void store(CachedBody body, Exchange exchange, const tg_buffer *reply) noexcept:
    cdef tg_buffer *message = &body.answers.message
    cdef uint64_t now = exchange.client.poller.now
    if body.answers.store is None:            # a reload took it away meanwhile
        return
    body.fill.fresh_ns = exchange.route.cache_ttl
    body.fill.cost_us = <uint32_t>min((now - min(exchange.attempt.picked_at, now)) // 1000, <uint64_t>UINT32_MAX)
    if body.answers.shared is not None and body.answers.shared.awaited(body.flight):
        body.fill.flags |= TG_AWAITED
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
    cdef AnswerCache answers = body.answers
    cdef object others
    if body.following:
        body.following = False
        answers.flights.leave(body.flight, exchange)
        if answers.shared is not None and body.flight in answers.shared.followed:
            others = answers.flights.followers_of(body.flight)
            if others is not None and not others:
                # It was the last here that waited for another worker.
                answers.flights.finish(body.flight)
                answers.shared.forget(body.flight)
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
