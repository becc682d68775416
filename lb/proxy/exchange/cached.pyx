"""The result cache before an inference, and the single flight: see cached.pxd.

    through_cache    a fresh answer is given; a stale one too, and one call in the background makes it anew; of those
                     who miss the first asks, and the others wait for its answer
    ask_tier         what the memory has not may be in the cache tier; if it is not, or too late, an endpoint is asked
    store, land      the answer is kept, and given to those who wait
    rescue           the endpoints have failed: an older answer is better than the failure, if there is one
"""

from cpython.object cimport PyTypeObject
from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from lb.cache import tags
from lb.cache.tiers import registry
from lb.cache.flight cimport Flights
from lb.cache.freshness cimport refresh_early
from lb.cache.layout cimport (
    TG_AWAITED, TG_EARLY, TG_FRESH, TG_NEGATIVE, TG_STALE, tg_fill, tg_found, tg_tag,
)
from lb.cache.rules cimport CacheRule, PoolRules, apply_rules
from lb.cache.shared_flights cimport (
    FLIGHT_FOLLOWS, FLIGHT_FULL, FLIGHT_GOES_ON, FLIGHT_LEADS, FLIGHT_UNSHARED, LOOK_NS, SharedFlights,
)
from lb.cache.store cimport ResultCache
from lb.failure cimport (
    FAIL_INTERNAL, FAIL_NO_MEMORY, VERDICT_GATEWAY, VERDICT_NONE, failure_of, http_of_grpc, verdict_of_failure,
    verdict_of_grpc,
)
from lb.http.head cimport Field, Scan, same_name
from lb.http.head_text cimport append_number, append_text
from lb.inference.request cimport InferRequest, digest_of
from lb.inference.response cimport is_sound, store_form
from lb.inference.rows cimport Rows
from lb.inference.template cimport Template
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.ending cimport tg_end_by
from lb.net.poller cimport NEVER, Poller, Source, monotonic_ns
from lb.net.stream cimport iovec
from lb.net.wakeups cimport Wakeups
from lb.proxy.exchange.cached_rows cimport keep_rows, look_up_rows, rows_to_look_up
from lb.proxy.exchange.exchange cimport (
    CACHE_BYPASS, CACHE_COLLAPSED, CACHE_HIT, CACHE_MISS, CACHE_NEGATIVE, CACHE_NONE, CACHE_STALE,
    CACHE_STALE_IF_ERROR, X_DONE, X_REQUEST, BodySource, Exchange, limit_of_attempt,
)
from lb.proxy.exchange.tiered cimport TierQuestion, WorkerTier, read_times
from lb.proxy.random cimport random64
from lb.proxy.routing.cache_key cimport CONTROL_NONE, CONTROL_NO_CACHE, CONTROL_NO_STORE, CacheKeyRule
from lb.proxy.routing.headers.fields cimport hide_named
from lb.shared.hashing cimport tg_digest, tg_digest_final, tg_digest_init, tg_digest_update
from lb.shared.segment cimport Segment, tg_add
from lb.shared.segment_words cimport (
    ROUTE_CACHE_REFRESHED, ROUTE_CACHE_REFRESH_FAILED, ROUTE_CACHE_STORED, ROUTE_CACHE_WHOLE_BATCHES_ANSWER,
)
from lb.endpoints.choice cimport Choice
from lb.upstream.attempt cimport A_SENDING, A_SENT, ENDED, STOPPED, release, step, take_slot, tg_outcome
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport TAKEN_NOBODY
from lb.upstream.tally cimport count_failure


cdef enum:
    GRPC_CANCELLED = 1
    GRPC_INVALID_ARGUMENT = 3
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_NOT_FOUND = 5
    GRPC_UNIMPLEMENTED = 12
    GRPC_UNAVAILABLE = 14
    MOST_TAGGED = 4096                # models whose tags are kept
    MOST_CLIENT_TAGS = 4
    MOST_ERROR = 4096                 # bytes of an error's message that are kept
    MOST_REFRESHING = 64              # calls of a worker, and bytes of their requests: more stay stale for longer
    MOST_REFRESHING_BYTES = 16 * 1024 * 1024
    SECOND_NS = 1_000_000_000
    SHORTEST_PAUSE = 1                # s before an answer that could not be made anew is asked for again,
    LONGEST_PAUSE = 30                # and as long as it has been stale between them

cdef uint64_t LONGEST_NS = 60 * <uint64_t>SECOND_NS     # of a refresh in a pool without response_timeout
# Kinds of texts that a key is made of, besides the question.
cdef bytes VARIANT = b""
cdef bytes TAGS = b"\0tags\0"
cdef const char *INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"
cdef size_t INFER_PATH_LENGTH = 42


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
        self.tags_header = b""

    def __dealloc__(self):
        tg_buffer_free(&self.message)

    def prepare(self, plan):
        """`plan` is that of the cache, or None. Whatever of it can fail is done here, before anything is changed."""
        self.next_tier = self.tier
        if plan is None:
            self.next_tier = None
            return
        self.prepare_tier(plan.tier)
        if self.store is not None:
            return
        store = ResultCache(self.segment, plan.max_object)
        if self.wakeups.count > 1:
            self.shared = SharedFlights(store, self.wakeups)
            self.wakeups.wakes.add(self)
        self.store = store

    def prepare_tier(self, plan):
        if plan is None:
            self.next_tier = None
        elif self.tier is None or self.tier.plan != plan:
            self.next_tier = WorkerTier(plan, registry.build(plan, quiet=True))

    def commit(self, plan):
        header = plan.tags_header if plan is not None else ""
        self.on = plan is not None
        if self.tier is not self.next_tier:
            self.close()
            self.tier = self.next_tier
            if self.tier is not None:
                self.tier.servers.start()
        self.next_tier = None
        self.tags_header = f"{header}: ".encode() if header else b""
        self.separator = b" " if header == "Surrogate-Key" else b","
        self.tags.clear()                     # they have the field

    def close(self):
        """Asks the tier no more. Who waits for it is told that nothing was found."""
        if self.tier is not None:
            self.tier.servers.halt()          # at once, as a worker may be about to end
            self.poller.loop.create_task(self.tier.servers.stop())
        self.tier = None

    def tier_status(self):
        """TierStatus, or None."""
        return None if self.tier is None else self.tier.servers.status()

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

    cdef bint copy_request(self, Exchange exchange, tg_buffer *into) noexcept:
        return False

    cdef int digest_under(self, Exchange exchange, const unsigned char *secret, unsigned char *key) noexcept:
        return -1

    cdef void refuse(self, Exchange exchange, int grpc_status, str message) noexcept:
        pass

    cdef void append_fields(self, Exchange exchange, tg_buffer *head) noexcept:
        if exchange.cache == CACHE_NEGATIVE:
            append_cache_status(self, exchange, head)

    cdef bint rescue(self, Exchange exchange, int kind, int status) noexcept:
        """stale-if-error (RFC 5861, 4), for those who wait, too. From then on nobody waits for the endpoints: refreshes
        in the background find out when they are back."""
        cdef AnswerCache answers = self.answers
        cdef tg_buffer message
        cdef tg_found found
        cdef Py_ssize_t size
        cdef uint64_t now = exchange.client.poller.now
        if (self.digest is None or self.failed or self.refills or answers.store is None
                or kind in (FAIL_INTERNAL, FAIL_NO_MEMORY)
                or status == http_of_grpc(GRPC_UNIMPLEMENTED)):
            return False
        self.failed = True
        memset(&message, 0, sizeof(message))
        size = answers.store.get(<const unsigned char *><const char *>self.digest, now, True, &message, &found)
        if size < 0 or found.flags & TG_NEGATIVE:
            tg_buffer_free(&message)
            return False
        answers.store.settle(<const unsigned char *><const char *>self.digest, now, pause_after(found.late_ns), True)
        give_up(exchange, kind, status)
        stop_following(self, exchange)
        note_found(self, exchange, &found)
        exchange.cache = CACHE_STALE_IF_ERROR
        share_stale(self, &message, &found)
        self.deliver(exchange, tg_buffer_head(&message), <size_t>size)
        tg_buffer_free(&message)
        return True


cdef void give_up(Exchange exchange, int kind, int status) noexcept:
    """As when the exchange fails: its place in the queue and its endpoint are free, and the endpoint is judged."""
    exchange.leave_queue(False)
    if exchange.attempt is not None:
        exchange.attempt.stop()
    exchange.reason = failure_of(kind).reason
    exchange.status = <short>status
    exchange.let_go(False)
    exchange.reason = NULL
    exchange.grpc_status = -1


cdef void share_stale(CachedBody body, const tg_buffer *message, const tg_found *found) noexcept:
    """To those who wait for an answer that does not come."""
    cdef object follower
    cdef CachedBody of_follower
    if not body.leading:
        return
    body.leading = False
    if body.answers.shared is not None:
        body.answers.shared.end(body.flight, True)
    for follower in body.answers.flights.finish(body.flight):
        of_follower = <CachedBody>(<Exchange>follower).source
        of_follower.following = False
        note_found(of_follower, <Exchange>follower, found)
        (<Exchange>follower).cache = CACHE_STALE_IF_ERROR
        of_follower.deliver(<Exchange>follower, tg_buffer_head(message), tg_buffer_size(message))


cdef void read_cache_fields(CachedBody body, Exchange exchange, const Scan *scan) noexcept:
    cdef const Field *field
    cdef int i
    if exchange.route.cache_key is not None:
        read_cache_key(body, exchange.route.cache_key, scan)
    if not exchange.route.client_tags:
        return
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 9 and same_name(field.name, 9, b"cache-tag"):
            given = field.value[:field.value_length]
            body.client_tags = given if body.client_tags is None else body.client_tags + b"," + given


cdef void read_cache_key(CachedBody body, CacheKeyRule rule, const Scan *scan) noexcept:
    body.control = CONTROL_NO_STORE           # until it is known whose answer it would be
    hide_named(<Scan *>scan)
    try:
        body.variant = rule.variant(scan) or None
        body.tenant = rule.tenant(scan)
    except MemoryError:
        return
    if not rule.tenant_kind or body.tenant is not None:
        body.control = <unsigned char>rule.control_of(scan)


cdef void through_cache(CachedBody body, Exchange exchange, InferRequest request) noexcept:
    cdef unsigned char key[32]
    if not body.answers.on:
        exchange.pick()
        return
    if not exchange.route.cache or not request.cacheable:
        exchange.cache = CACHE_BYPASS
        exchange.pick()
        return
    if looks_up_rows(body):
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
    if (body.control == CONTROL_NO_STORE or rule_of(exchange.pool, body.asked_model) is None
            or (body.variant is not None and extend_digest(body, exchange, VARIANT, body.variant) < 0)
            or (body.client_tags is not None and add_client_tags(body, exchange) < 0)):
        pass_by(body, exchange)
    elif body.control == CONTROL_NO_CACHE:
        refill(body, exchange)
    elif not answer_from_cache(body, exchange):
        fly(body, exchange, False)


cdef bint looks_up_rows(CachedBody body) noexcept:
    return body.variant is None and body.client_tags is None and body.control == CONTROL_NONE


cdef void pass_by(CachedBody body, Exchange exchange) noexcept:
    body.digest = None
    body.rows = None
    exchange.cache = CACHE_BYPASS
    exchange.pick()


cdef CacheRule rule_of(Pool pool, bytes model):
    if pool.cache_rules is None:
        return None
    return (<PoolRules>pool.cache_rules).of_model(model)


cdef int make_key(CachedBody body, Exchange exchange, Template template, const iovec *tensors,
                  unsigned char *key) noexcept:
    cdef const unsigned char *secret = <const unsigned char *><const char *>exchange.pool.cache_key
    return digest_of(template, tensors, secret, key) if body.rows is None else body.rows.digest(secret, key)


cdef bint answer_from_cache(CachedBody body, Exchange exchange) noexcept:
    cdef AnswerCache answers = body.answers
    cdef const unsigned char *key = <const unsigned char *><const char *>body.digest
    cdef tg_found found
    cdef Py_ssize_t size
    if body.rows is not None:
        return answer_from_rows(body, exchange)
    tg_buffer_clear(&answers.message)
    size = answers.store.get(key, exchange.client.poller.now, False, &answers.message, &found)
    if size < 0 and answers.store.failing(key):
        # Its endpoints fail, as far as that is known: a request that asked them would wait for a failure.
        size = answers.store.get(key, exchange.client.poller.now, True, &answers.message, &found)
    # A call in the background has the request's message alone, not the headers that the answer depends on.
    if size < 0 or (body.variant is not None and found.state == TG_STALE):
        return False
    note_found(body, exchange, &found)
    if found.flags & TG_NEGATIVE:
        exchange.cache = CACHE_NEGATIVE
        refuse_by(body, exchange, tg_buffer_head(&answers.message), <size_t>size)
        return True
    if found.state == TG_FRESH:
        exchange.cache = found_as(exchange)
        if (found.flags & TG_EARLY and body.variant is None
                and refresh_early(found.fresh_ns, found.cost_us, random_fraction())):
            refresh(body, exchange, &found)
    else:
        exchange.cache = CACHE_STALE if found.state == TG_STALE else CACHE_STALE_IF_ERROR
        if body.variant is None:
            refresh(body, exchange, &found)
    body.deliver(exchange, tg_buffer_head(&answers.message), <size_t>size)
    if exchange.reason != NULL and exchange.state == X_DONE:
        answers.store.invalidate(key, exchange.client.poller.now)     # no answer can be made of it
    return True


cdef unsigned char found_as(Exchange exchange) noexcept:
    """Who has waited for another's answer has no hit, although he finds it in the cache at last."""
    return CACHE_COLLAPSED if exchange.cache == CACHE_COLLAPSED else CACHE_HIT


cdef bint answer_from_rows(CachedBody body, Exchange exchange) noexcept:
    cdef Rows rows = body.rows
    cdef ResultCache store = body.answers.store
    cdef AnswerTags its = tags_of(body, exchange.pool)
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


cdef double random_fraction() noexcept:
    """In (0, 1]."""
    return <double>((random64() >> 11) + 1) / 9007199254740992.0


cdef void note_found(CachedBody body, Exchange exchange, const tg_found *found) noexcept:
    body.age = found.age_ns // SECOND_NS
    body.ttl = <int64_t>(found.fresh_ns // SECOND_NS)
    if found.fresh_ns == 0:
        body.ttl = -<int64_t>((found.late_ns + SECOND_NS - 1) // SECOND_NS)


cdef void watch(AnswerCache answers) noexcept:
    if answers.deadline == NEVER:
        answers.poller.arm(answers, answers.poller.now + LOOK_NS)


cdef void fly(CachedBody body, Exchange exchange, bint alone) noexcept:
    """The first of identical misses asks; the others wait for its answer, in this worker and, if not `alone`, in all.

    Its generations are those from before an endpoint is asked, so that a purge that comes meanwhile wins: the answer is
    not kept, and later misses ask anew.
    """
    cdef AnswerCache answers = body.answers
    cdef int part
    cdef bint looked = False
    body.following = False
    if not begin_fill(body, exchange, &body.fill):
        if body.rows is not None:
            body.partial = False
            body.send(exchange, body.rows.ask_whole())
        pass_by(body, exchange)
        return
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
        elif answers.tier is not None and ask_tier(body, exchange):
            return
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


cdef bint begin_fill(CachedBody body, Exchange exchange, tg_fill *fill) noexcept:
    """False: the answer cannot be kept, for want of memory."""
    cdef AnswerTags its = None
    cdef uint32_t slots[OWN_TAGS + 1 + MOST_CLIENT_TAGS]
    cdef uint32_t count = OWN_TAGS
    cdef bytes tag
    if body.answers.store is not None:        # a reload may have taken it away while this one waited
        its = tags_of(body, exchange.pool)
    if its is None:
        return False
    memcpy(slots, its.slots, sizeof(its.slots))
    if body.tenant is not None:
        tag = tags.of_tenant(body.tenant.decode("utf-8", "replace")).encode()
        slots[count] = body.answers.store.slot(<const char *>tag, <size_t>len(tag))
        count += 1
    if body.client_tags is not None:
        for tag in body.client_tags.split():
            slots[count] = body.answers.store.slot(<const char *>tag, <size_t>len(tag))
            count += 1
    return body.answers.store.begin(fill, slots, count) == 0


cdef void refill(CachedBody body, Exchange exchange) noexcept:
    """The client wants no answer that was made before: it takes part in no flight, whose answer may be older."""
    if not begin_fill(body, exchange, &body.fill):
        pass_by(body, exchange)
        return
    body.refills = True
    exchange.cache = CACHE_MISS
    if body.answers.tier is None or not ask_tier(body, exchange):     # for the generations of its tags alone
        exchange.pick()


cdef int add_client_tags(CachedBody body, Exchange exchange) noexcept:
    """An answer that was asked for with other tags would outlive a purge of these. -1: there are too many."""
    try:
        given = sorted(set(body.client_tags.replace(b",", b" ").split()))
        body.client_tags = b" ".join(given) if given else None
    except MemoryError:
        return -1
    if not given:
        return 0
    return -1 if len(given) > MOST_CLIENT_TAGS else extend_digest(body, exchange, TAGS, body.client_tags)


cdef int extend_digest(CachedBody body, Exchange exchange, bytes kind, bytes text) noexcept:
    """Under the secret of the pool's keys: no client can choose another's key."""
    cdef unsigned char key[32]
    memcpy(key, <const char *>body.digest, sizeof(key))
    if add_to_key(<const unsigned char *><const char *>exchange.pool.cache_key, kind, text, key) < 0:
        return -1
    try:
        body.digest = (<char *>key)[:32]
    except MemoryError:
        return -1
    return 0


cdef int add_to_key(const unsigned char *secret, bytes kind, bytes text, unsigned char *key) noexcept:
    """`key` becomes that of the question with `text`. `kind` tells texts of one kind from those of another; none has
    zero bytes where another kind begins. 0, or -1 when hashing failed."""
    cdef tg_digest state
    if (tg_digest_init(&state, secret) < 0
            or tg_digest_update(&state, key, 32) < 0
            or tg_digest_update(&state, <const char *>kind, <size_t>len(kind)) < 0
            or tg_digest_update(&state, <const char *>text, <size_t>len(text)) < 0
            or tg_digest_final(&state, key) < 0):
        return -1
    return 0


cdef AnswerTags tags_of(CachedBody body, Pool pool):
    """Once for each model. None where memory is short."""
    cdef dict known = body.answers.tags
    cdef tuple key = (pool.name, body.asked_model, body.asked_version)
    cdef AnswerTags found = known.get(key)
    cdef int i
    if found is not None:
        return found
    found = AnswerTags.__new__(AnswerTags)
    try:
        model, version = [text.decode("utf-8", "replace") for text in key[1:]]
        found.names = tuple([tag.encode() for tag in tags.of_answer(pool.name, model, version)])
        for i, name in enumerate(found.names):
            found.slots[i] = body.answers.store.slot(<const char *><bytes>name, <size_t>len(name))
        found.line = b""
        if body.answers.tags_header:
            found.line = body.answers.separator.join([name for name in found.names if len(name) <= tags.LONGEST])
        if len(known) >= MOST_TAGGED:
            known.clear()
        known[key] = found
    except MemoryError:
        return None
    return found


# The cache tier.

cdef bint ask_tier(CachedBody body, Exchange exchange) noexcept:
    """The tier is asked before an endpoint is, and the exchange waits. False: it is not, and has to go on."""
    cdef AnswerQuestion question
    if not body.answers.tier.available() or body.answers.store.tier_is_behind(&body.fill):
        return False
    try:
        question = AnswerQuestion.__new__(AnswerQuestion)
    except MemoryError:
        return False
    question.tier = body.answers.tier
    if not put_question(question, body, exchange):
        return False
    question.exchange = exchange
    body.question_of_tier = question
    wait_for_leader(exchange)
    return True


cdef bint put_question(TierQuestion question, CachedBody body, Exchange exchange) noexcept:
    """The key is that of all daemons with the tier's secret."""
    cdef unsigned char key[32]
    cdef bytes secret_of_pool = question.tier.key_of(exchange.pool.name)
    cdef const unsigned char *secret
    if secret_of_pool is None:
        return False
    secret = <const unsigned char *><const char *>secret_of_pool
    if (body.digest_under(exchange, secret, key) < 0
            or (body.variant is not None and add_to_key(secret, VARIANT, body.variant, key) < 0)
            or (body.client_tags is not None and add_to_key(secret, TAGS, body.client_tags, key) < 0)):
        return False
    try:
        question.key = (<char *>key)[:32]
        return question.ask(tag_names(body, exchange))
    except MemoryError:
        return False


cdef list tag_names(CachedBody body, Exchange exchange):
    """Those that `begin_fill` finds the slots of."""
    cdef AnswerTags its = tags_of(body, exchange.pool)
    if its is None:
        raise MemoryError
    names = list(its.names)
    if body.tenant is not None:
        names.append(tags.of_tenant(body.tenant.decode("utf-8", "replace")).encode())
    if body.client_tags is not None:
        names.extend(body.client_tags.split())
    return names


cdef class AnswerQuestion(TierQuestion):

    cdef void found(self, object entry) noexcept:
        cdef Exchange exchange = self.exchange
        cdef CachedBody body
        self.exchange = None
        if exchange is None or exchange.state != X_REQUEST:
            return
        body = <CachedBody>exchange.source
        exchange.client.poller.now = monotonic_ns()
        exchange.client.poller.arm(exchange, exchange.expires)
        if entry is None or body.refills or not answer_from_tier(body, exchange, entry):
            exchange.pick()


cdef bint answer_from_tier(CachedBody body, Exchange exchange, object entry) noexcept:
    cdef bytes value = entry.value
    cdef tg_found found
    cdef int kept
    if body.leading and body.answers.shared is not None and body.answers.shared.awaited(body.flight):
        body.fill.flags |= TG_AWAITED
    kept = keep_from_tier(body.answers, body.digest, rule_of(exchange.pool, body.asked_model), exchange.route, entry,
                          &body.fill, &found)
    if kept < 0:
        return False
    body.kept = kept == 1
    body.from_tier = True
    exchange.cache = CACHE_HIT
    note_found(body, exchange, &found)
    land(body, value, <size_t>len(value))
    body.deliver(exchange, value, <size_t>len(value))
    if exchange.reason != NULL and exchange.state == X_DONE and body.answers.store is not None:
        # No answer can be made of it.
        body.answers.store.invalidate(<const unsigned char *><const char *>body.digest, exchange.client.poller.now)
    return True


cdef int keep_from_tier(AnswerCache answers, bytes digest, CacheRule rule, Route route, object entry, tg_fill *fill,
                        tg_found *found) noexcept:
    """Into memory, for as long as it is fresh by the daemon that made it, and by our rules. 1 = kept, 0 = not kept;
    -1: it is no answer for us."""
    cdef bytes value = entry.value
    cdef uint64_t now = answers.poller.now
    cdef unsigned short awaited = fill.flags & TG_AWAITED
    cdef uint64_t since
    memset(found, 0, sizeof(tg_found))
    if (rule is None or answers.store is None or not is_sound(value, <size_t>len(value))
            or not apply_rules(fill, rule, route.freshness, False)):
        return -1
    read_times(entry, &found.age_ns, &found.fresh_ns)
    if found.age_ns >= fill.fresh_ns or found.fresh_ns == 0:
        return -1
    found.fresh_ns = min(found.fresh_ns, fill.fresh_ns - found.age_ns)
    since = min(found.age_ns, now)
    fill.fresh_ns = since + found.fresh_ns
    fill.cost_us = <uint32_t>min(<uint64_t>entry.cost_us, <uint64_t>UINT32_MAX)
    fill.flags |= awaited
    return answers.store.put(<const unsigned char *><const char *>digest, value, <size_t>len(value), now - since,
                             fill) == 1


cdef void resume(CachedBody body, Exchange exchange, bint alone) noexcept:
    """There is no answer of the leader's: this follower takes part in a new flight."""
    body.following = False
    body.again = True
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
    cdef bint own_fault = is_own_fault(grpc_status)
    if not body.leading:
        return
    if body.again and not own_fault:
        scatter(body)
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
    # The worker goes on leading if one of these took over. Else another worker may, once: it has waited, too.
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
    cdef const unsigned char *key = <const unsigned char *><const char *>flight
    cdef tg_found found
    cdef Py_ssize_t size
    cdef object follower
    cdef CachedBody body
    cdef Exchange exchange
    memset(&message, 0, sizeof(message))
    answers.shared.forget(flight)
    size = answers.store.get(key, answers.poller.now, False, &message, &found)
    if size < 0 and answers.store.failing(key):
        size = answers.store.get(key, answers.poller.now, True, &message, &found)
    for follower in answers.flights.finish(flight):
        exchange = <Exchange>follower
        body = <CachedBody>exchange.source
        body.following = False
        if size >= 0:
            note_found(body, exchange, &found)
            if found.flags & TG_NEGATIVE:
                refuse_by(body, exchange, tg_buffer_head(&message), <size_t>size)
                continue
            if found.state != TG_FRESH:
                exchange.cache = CACHE_STALE if found.state == TG_STALE else CACHE_STALE_IF_ERROR
            body.deliver(exchange, tg_buffer_head(&message), <size_t>size)
        elif exchange.state == X_REQUEST and (body.rows is None or not answer_from_cache(body, exchange)):
            resume(body, exchange, unshared)
    tg_buffer_free(&message)


cdef bint is_own_fault(int grpc_status) noexcept:
    return grpc_status in (GRPC_INVALID_ARGUMENT, GRPC_NOT_FOUND, GRPC_UNIMPLEMENTED)


# What is kept.

cdef uint32_t cost_since(uint64_t picked_at, uint64_t now) noexcept:
    return <uint32_t>min((now - min(picked_at, now)) // 1000, <uint64_t>UINT32_MAX)


cdef void store(CachedBody body, Exchange exchange, const tg_buffer *reply) noexcept:
    cdef uint64_t now = exchange.client.poller.now
    cdef CacheRule rule = rule_of(exchange.pool, body.asked_model)
    if rule is None or body.answers.store is None or not apply_rules(&body.fill, rule, exchange.route.freshness, False):
        return
    body.fill.cost_us = cost_since(exchange.attempt.picked_at, now)
    if body.leading and body.answers.shared is not None and body.answers.shared.awaited(body.flight):
        body.fill.flags |= TG_AWAITED
    if body.rows is not None:
        body.fill.cost_us //= <uint32_t>max(body.rows.asked_count, 1)
        body.kept = keep_rows(body.rows, body.answers.store, &body.answers.message, now, &body.fill) > 0
        if body.kept:
            tg_add(&exchange.route.series[ROUTE_CACHE_STORED], 1)
        return
    if keep(body.answers, body.digest, reply, now, &body.fill, body.question_of_tier):
        tg_add(&exchange.route.series[ROUTE_CACHE_STORED], 1)
        body.kept = True


cdef bint keep(AnswerCache answers, bytes digest, const tg_buffer *reply, uint64_t now, const tg_fill *fill,
               TierQuestion question) noexcept:
    """The answer without the id of the request; and the endpoints fail no more. `question`: what the tier was asked
    before it was made, or None."""
    cdef tg_buffer *message = &answers.message
    cdef const unsigned char *key = <const unsigned char *><const char *>digest
    tg_buffer_clear(message)
    if store_form(tg_buffer_head(reply), tg_buffer_size(reply), message) < 0:
        return False
    answers.store.settle(key, now, 0, False)
    if question is not None and tg_buffer_size(message) <= answers.store.max_object and answers.store.holds(fill):
        question.put(tg_buffer_head(message), tg_buffer_size(message), fill.fresh_ns, fill.cost_us)
    return answers.store.put(key, tg_buffer_head(message), tg_buffer_size(message), now, fill) == 1


cdef void store_error(CachedBody body, Exchange exchange, int grpc_status, const char *message, size_t n) noexcept:
    cdef uint64_t now = exchange.client.poller.now
    cdef CacheRule rule
    if (body.digest is None or body.rows is not None or not body.leading
            or grpc_status not in (GRPC_INVALID_ARGUMENT, GRPC_NOT_FOUND)):
        return
    rule = rule_of(exchange.pool, body.asked_model)
    if rule is None or body.answers.store is None or not apply_rules(&body.fill, rule, exchange.route.freshness, True):
        return
    body.fill.cost_us = cost_since(exchange.attempt.picked_at, now)
    keep_error(body.answers, body.digest, grpc_status, message, n, now, &body.fill)


cdef void keep_error(AnswerCache answers, bytes digest, int grpc_status, const char *message, size_t n, uint64_t now,
                     const tg_fill *fill) noexcept:
    """As its status and its message."""
    cdef char status = <char>grpc_status
    tg_buffer_clear(&answers.message)
    if (tg_buffer_append(&answers.message, &status, 1) < 0
            or tg_buffer_append(&answers.message, message, min(n, <size_t>MOST_ERROR)) < 0):
        return
    answers.store.put(<const unsigned char *><const char *>digest, tg_buffer_head(&answers.message),
                      tg_buffer_size(&answers.message), now, fill)


cdef void refuse_by(CachedBody body, Exchange exchange, const char *kept, size_t size) noexcept:
    cdef str text = kept[1:size].decode("utf-8", "replace") if size > 1 else ""
    body.refuse(exchange, kept[0] if size else GRPC_INVALID_ARGUMENT, text)


cdef void stop_following(CachedBody body, Exchange exchange) noexcept:
    cdef AnswerCache answers = body.answers
    cdef object others
    if not body.following:
        return
    body.following = False
    answers.flights.leave(body.flight, exchange)
    if answers.shared is not None and body.flight in answers.shared.followed:
        others = answers.flights.followers_of(body.flight)
        if others is not None and not others:
            # It was the last here that waited for another worker.
            answers.flights.finish(body.flight)
            answers.shared.forget(body.flight)


cdef void leave_flight(CachedBody body, Exchange exchange) noexcept:
    if body.question_of_tier is not None:
        body.question_of_tier.exchange = None
    stop_following(body, exchange)
    release_followers(body, GRPC_UNAVAILABLE, "")


# Refreshes. Who finds a stale answer has it at once; one process at a time asks an endpoint that has room for it.

cdef uint64_t pause_after(uint64_t late) noexcept:
    """The time for which an answer has been stale, so that pauses double."""
    return min(max(late, <uint64_t>SHORTEST_PAUSE * SECOND_NS), <uint64_t>LONGEST_PAUSE * SECOND_NS)


cdef void refresh(CachedBody body, Exchange exchange, const tg_found *found) noexcept:
    cdef AnswerCache answers = body.answers
    cdef const unsigned char *key = <const unsigned char *><const char *>body.digest
    cdef uint64_t now = exchange.client.poller.now
    cdef uint64_t limit = limit_of_attempt(exchange)
    cdef RefreshCall call
    if (answers.refreshing >= MOST_REFRESHING or answers.refreshing_bytes >= <size_t>MOST_REFRESHING_BYTES
            or exchange.pool.newer is not None):
        return
    if limit == 0:
        limit = LONGEST_NS
    if not answers.store.claim(key, now, limit + SECOND_NS):
        return
    call = new_refresh(body, exchange)
    if call is None:
        answers.store.settle(key, now, pause_after(0), False)
        return
    call.late = found.late_ns
    call.left = found.fresh_ns
    call.asked_pool = exchange.pool
    call.key = exchange.key
    call.limit = limit
    if exchange.pool.costs is not None:
        call.price = exchange.price(now)
    answers.refreshing += 1
    answers.refreshing_bytes += call.part.iov_len
    if answers.tier is None or not ask_tier_again(call, body, exchange):
        start_refresh(call, now)


cdef bint ask_tier_again(RefreshCall call, CachedBody body, Exchange exchange) noexcept:
    cdef RefreshQuestion question
    if not call.answers.tier.available() or call.answers.store.tier_is_behind(&call.fill):
        return False
    try:
        question = RefreshQuestion.__new__(RefreshQuestion)
    except MemoryError:
        return False
    question.tier = call.answers.tier
    if not put_question(question, body, exchange):
        return False
    question.call = call
    call.question = question
    return True


cdef class RefreshQuestion(TierQuestion):

    cdef void found(self, object entry) noexcept:
        cdef RefreshCall call = self.call
        self.call = None
        if call is None:
            return
        call.answers.poller.now = monotonic_ns()
        if entry is None or not refreshed_elsewhere(call, entry):
            start_refresh(call, call.answers.poller.now)


cdef bint refreshed_elsewhere(RefreshCall call, object entry) noexcept:
    """Whether the tier has a fresher answer than the one that is to be made anew, which is not that one by other
    clocks."""
    cdef AnswerCache answers = call.answers
    cdef tg_found found
    cdef uint64_t age, left
    read_times(entry, &age, &left)
    if left < call.left + SECOND_NS or keep_from_tier(
            answers, call.digest, call.rule, call.route, entry, &call.fill, &found) != 1:
        return False
    call.leave()
    answers.store.settle(<const unsigned char *><const char *>call.digest, answers.poller.now, 0, False)
    return True


cdef void start_refresh(RefreshCall call, uint64_t now) noexcept:
    cdef Pool pool = call.asked_pool
    cdef Choice choice
    cdef int endpoint
    if pool.newer is not None:                # a reload has come meanwhile
        call.leave()
        call.put_off(False)
        return
    choice = pool.new_choice(now, call.key)
    if pool.models is not None:
        choice.need(pool.model_bit(call.model))
    if pool.costs is not None:
        choice.cost = call.price
    endpoint = pool.acquire(choice)
    if endpoint < 0:
        # A pool that sleeps has not failed. What wakes it is a request that needs an answer.
        call.leave()
        call.put_off(endpoint == TAKEN_NOBODY and not pool.on_demand)
        return
    take_slot(call, pool, endpoint, choice.charged, now)
    step(call, A_SENDING)
    step(call, A_SENT)
    (<Http2Channel>pool.channels[endpoint]).start(call, now + call.limit)


cdef RefreshCall new_refresh(CachedBody body, Exchange exchange):
    """With a copy of the request, whose own memory ends with its exchange. None: no memory, or it could not be kept."""
    cdef RefreshCall call = RefreshCall.__new__(RefreshCall)
    call.answers = body.answers
    call.route = exchange.route
    call.digest = body.digest
    call.model = body.asked_model
    call.rule = rule_of(exchange.pool, body.asked_model)
    if (call.rule is None or not begin_fill(body, exchange, &call.fill)
            or not body.copy_request(exchange, &call.request)
            or call.call_path(INFER_PATH, INFER_PATH_LENGTH) < 0):
        return None
    call.part.iov_base = tg_buffer_head(&call.request)
    call.part.iov_len = tg_buffer_size(&call.request)
    call.parts = &call.part
    call.part_count = 1
    call.message_size = call.part.iov_len
    return call


cdef class RefreshCall(GrpcCall):

    cdef void on_done(self, int status, const char *message, size_t n) noexcept:
        cdef AnswerCache answers = self.answers
        cdef uint64_t now = monotonic_ns()
        cdef bint going = status == GRPC_UNAVAILABLE or status == GRPC_CANCELLED
        self.fill.cost_us = cost_since(self.picked_at, now)
        self.ended(http_of_grpc(status) if status else 200, status, status != GRPC_DEADLINE_EXCEEDED and not going,
                   VERDICT_GATEWAY if status == GRPC_CANCELLED else verdict_of_grpc(status))
        if answers.store is None:
            return
        if status == 0:
            if (is_sound(tg_buffer_head(&self.reply), tg_buffer_size(&self.reply))
                    and apply_rules(&self.fill, self.rule, self.route.freshness, False)
                    and keep(answers, self.digest, &self.reply, now, &self.fill, self.question)):
                tg_add(&self.route.series[ROUTE_CACHE_REFRESHED], 1)
            else:
                self.put_off(False)
        elif is_own_fault(status):
            # The model takes the request no more: what it said before is no answer any longer.
            answers.store.settle(<const unsigned char *><const char *>self.digest, now, 0, False)
            answers.store.invalidate(<const unsigned char *><const char *>self.digest, now)
            if status != GRPC_UNIMPLEMENTED and apply_rules(&self.fill, self.rule, self.route.freshness, True):
                keep_error(answers, self.digest, status, message, n, now, &self.fill)
        else:
            self.put_off(True)

    cdef void on_failed(self, int kind) noexcept:
        count_failure(self.pool.series[self.endpoint], kind)
        self.ended(failure_of(kind).status, failure_of(kind).grpc_status, False, verdict_of_failure(kind))
        self.put_off(True)

    cdef void ended(self, int status, int code, bint answered, int verdict) noexcept:
        cdef tg_outcome outcome
        self.leave()
        memset(&outcome, 0, sizeof(outcome))
        outcome.how = ENDED
        if verdict == VERDICT_NONE and not answered:           # nothing went out
            outcome.how = STOPPED
            status, code = 0, -1
        outcome.ok = answered
        outcome.answered = answered
        outcome.status = status
        outcome.code = code
        outcome.verdict = verdict
        outcome.bytes_in = tg_buffer_size(&self.reply)
        outcome.bytes_out = self.part.iov_len
        release(self, &outcome, monotonic_ns())

    cdef void leave(self) noexcept:
        self.answers.refreshing -= 1
        self.answers.refreshing_bytes -= self.part.iov_len

    cdef void put_off(self, bint failed) noexcept:
        if failed:
            tg_add(&self.route.series[ROUTE_CACHE_REFRESH_FAILED], 1)
        if self.answers.store is not None:
            self.answers.store.settle(<const unsigned char *><const char *>self.digest, monotonic_ns(),
                                      pause_after(self.late), failed)


cdef void end_refresh(void *call) noexcept:
    tg_buffer_free(&(<RefreshCall>call).request)


tg_end_by(<PyTypeObject *>RefreshCall, end_refresh)


# What the client is told.

cdef int append_cache_status(CachedBody body, Exchange exchange, tg_buffer *head) noexcept:
    cdef bint found = False           # in the cache, so that it has an age
    if exchange.cache == CACHE_NONE:
        return 0
    append_text(head, b"Cache-Status: tidegate; ")
    if exchange.cache == CACHE_MISS:
        append_text(head, b"fwd=request" if body.refills else b"fwd=partial" if body.partial else b"fwd=miss")
        if body.kept:
            append_text(head, b"; stored")
    elif exchange.cache == CACHE_COLLAPSED:
        append_text(head, b"fwd=miss; collapsed")
    elif exchange.cache == CACHE_BYPASS:
        append_text(head, b"fwd=bypass")
    elif body.rows is not None:
        append_text(head, b"hit")             # its rows have times of their own
    else:
        found = True
        append_text(head, b"fwd=stale; ttl=" if body.failed else b"hit; ttl=")
        if body.ttl < 0:
            append_text(head, b"-")
        append_number(head, <uint64_t>(body.ttl if body.ttl >= 0 else -body.ttl))
        if exchange.cache == CACHE_STALE:
            append_text(head, b"; detail=stale-while-revalidate")
        elif exchange.cache == CACHE_STALE_IF_ERROR:
            append_text(head, b"; detail=stale-if-error")
        elif exchange.cache == CACHE_NEGATIVE:
            append_text(head, b"; detail=negative")
        elif body.from_tier:
            append_text(head, b"; detail=tier")
    if exchange.route.expose_endpoint and body.digest is not None:
        append_text(head, b'; key="')
        append_digest(head, body.digest)
        append_text(head, b'"')
    if found and body.token is None:          # a result has the time that it has left, whoever may not know of Age
        append_text(head, b"\r\nAge: ")
        append_number(head, body.age)
    return append_text(head, b"\r\n")


cdef void append_digest(tg_buffer *head, bytes digest) noexcept:
    """Its first 8 bytes, which tell answers apart and find none."""
    cdef const char *digits = b"0123456789abcdef"
    cdef unsigned char each
    cdef char pair[2]
    for each in digest[:8]:
        pair[0], pair[1] = digits[each >> 4], digits[each & 15]
        tg_buffer_append(head, pair, 2)
