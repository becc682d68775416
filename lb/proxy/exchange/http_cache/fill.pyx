"""An answer on its way into the cache: see fill.pxd.

    respond          the answer's head decides: store, pass on, update what is stored (304), or give that (an error)
    respond_body     to the client, to those who wait, and to the object that is being made
    respond_end      the object is kept; those who still wait get it
    outlives         the client left: others wait, or little is missing, and the answer is taken all the same
    covers           no endpoint answered: a stale answer is given, where that may be
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset
from lb.cache.layout cimport TG_AWAITED, TG_TAGS, tg_fill, tg_found
from lb.cache.store cimport ResultCache
from lb.failure cimport FAIL_RESET
from lb.http.caching.answers cimport (
    ANSWER_NO_CACHE, ANSWER_REVALIDATE, ANSWER_VARIES, ASKED_BY_GET, ASKED_NO_STORE, WHY_LIFETIME, WHY_REQUEST,
    WHY_STORED, answer_may_be_stored, answer_read, tg_answer,
)
from lb.http.caching.conditions cimport tg_part
from lb.http.caching.requests cimport error_use, tg_freshness
from lb.http.caching.variants cimport vary_names, vary_values
from lb.http.head cimport Field, Scan, same_name, scan_begin, scan_field
from lb.http.head_text cimport append_fields, append_number, append_text
from lb.net.arena cimport View
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.splice cimport PASS_NOT
from lb.net.stream cimport Stream, iovec
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport (
    CACHE_COLLAPSED, CACHE_MISS, CACHE_REFRESHED, CACHE_REVALIDATED, CACHE_STALE, X_ANSWERING, X_DONE, X_REQUEST,
    BodySource, Exchange,
)
from lb.proxy.exchange.http_cache.give cimport give_begin, give_head, give_whole, part_of, part_size
from lb.proxy.exchange.http_cache.stored cimport (
    STORED_ANSWER, STORED_PASS, STORED_VARIANTS, stored_begin, stored_body, stored_end, stored_freshness, stored_head,
    stored_note,
    stored_text, stored_updated, tg_stored,
)
from lb.proxy.exchange.inference_body cimport InferContext
from lb.proxy.random cimport random64
from lb.proxy.routing.headers.forwarded cimport tg_hop_cache
from lb.shared.atomics cimport tg_load64_relaxed
from lb.shared.hashing cimport tg_digest, tg_digest_final, tg_digest_init, tg_digest_update
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport ROUTE_CACHE_STORED, ROUTE_CLIENT_ABORTS
from lb.telemetry.accesslog cimport wall_ns

from lb.cache.tags import of_pool

cdef enum:
    SECOND_NS = 1_000_000_000
    MICROSECOND_NS = 1000
    FOR_NOBODY = 256 * 1024           # bytes that are still taken for the cache alone
    VALIDATED_S = 3600                # that a stale answer with a validator is kept, to be validated
    STALE_S = 600                     # that one without is kept, for who takes it (max-stale)
    OWN_TAGS = 2                      # of each answer: of its URL, and of its pool; the others are those that it names
    FOR_OTHERS = 1024 * 1024          # bytes of an answer; other workers do not wait for the end of a longer one
    MOST_MADE = 64 * 1024 * 1024      # bytes of a worker's objects on their way into the cache; further answers pass
    PASS_S = 10                       # that requests for what cannot be kept do not wait for each other

# Heads that are made of stored ones: a worker handles one at a time.
cdef Scan MERGED
MERGED.max_fields = 1000
cdef Scan ASKED
ASKED.max_fields = 1000
cdef tg_buffer EXTRA
cdef tg_buffer THEIRS


cdef class HttpCache:

    def __init__(self, InferContext context not None):
        self.context = context
        self.flights = {}
        self.pool_slots = {}
        self.parked = {}

    def __dealloc__(self):
        tg_buffer_free(&self.found)
        tg_buffer_free(&self.note)
        tg_buffer_free(&self.text)
        tg_buffer_free(&self.uri)

    cdef ResultCache store(self):
        return self.context.answers.store if self.context.answers.on else None

    def prepare(self, plan, loop):
        """`plan` is that of the cache, or None. A disk stays until the process ends."""
        cdef ResultCache store = self.context.answers.store
        if store is not None and self.elsewhere is None and self.context.answers.wakeups.count > 1:
            # Behind that of the inferences, and before either has a flight.
            self.elsewhere = Elsewhere(self.context.poller, store, self.context.answers.wakeups)
        if plan is None or plan.disk is None or self.disk is not None:
            return
        from lb.cache.disk.disk import Disk  # with its threads, which few have
        self.disk = Disk(plan.disk, store, store.segment.worker, store.segment.header.workers, loop)
        self.disk_object = plan.disk.max_object

    def close(self):
        if self.disk is not None:
            self.disk.close()

    cdef size_t max_object(self) noexcept:
        cdef ResultCache store = self.store()
        if store is None:
            return 0                          # a reload has taken it away
        return max(store.max_object, self.disk_object)

    cdef void write(self, const unsigned char *key, const tg_buffer *object, const tg_fill *fill,
                    uint64_t now) noexcept:
        if self.disk is not None:
            write_object(self, key, object, fill, now)

    cdef uint32_t pool_slot(self, Exchange exchange) noexcept:
        cdef object slot = self.pool_slots.get(exchange.pool.name)
        cdef bytes tag
        if slot is None:
            tag = of_pool(exchange.pool.name).encode()
            slot = self.store().slot(<const char *>tag, <size_t>len(tag))
            self.pool_slots[exchange.pool.name] = slot
        return slot

    def in_flight(self):
        """Flights; those of all workers that this one leads, and that it follows; bytes of what is being made."""
        led, followed = (0, 0) if self.elsewhere is None else self.elsewhere.in_flight()
        return len(self.flights), led, followed, self.made

    cdef int variant_key(self, unsigned char *key, Exchange exchange, const unsigned char *primary, uint64_t nonce,
                         const char *names, size_t n, const Scan *asked) noexcept:
        tg_buffer_clear(&self.text)
        if (append_text(&self.text, b"variant") < 0 or tg_buffer_append(&self.text, primary, 32) < 0
                or tg_buffer_append(&self.text, &nonce, sizeof(nonce)) < 0
                or tg_buffer_append(&self.text, names, n) < 0 or vary_values(&self.text, names, n, asked) < 0):
            return -1
        return digest(key, exchange, &self.text)

    cdef void invalidate(self, Exchange exchange, bytes primary) noexcept:
        cdef ResultCache store = self.store()
        if store is not None:
            store.change(<const unsigned char *><const char *>primary, exchange.client.poller.now)
        if self.disk is not None:
            self.disk.remove(primary)


cdef int write_object(HttpCache cache, const unsigned char *key, const tg_buffer *object,
                      const tg_fill *fill, uint64_t now) except -1:
    cdef const tg_stored *stored = <const tg_stored *>tg_buffer_head(object)
    cdef uint64_t since = now - stored.received if stored.kind == STORED_ANSWER and now > stored.received else 0
    cdef uint32_t i
    if tg_buffer_size(object) <= cache.disk_object:
        cache.disk.write(
            key[:32], tg_buffer_head(object)[:tg_buffer_size(object)],
            tuple([(fill.tags[i].slot, fill.tags[i].generation) for i in range(fill.count)]), since, fill.fresh_ns,
            fill.error_ns, fill.cost_us)
    return 0


cdef int digest(unsigned char *key, Exchange exchange, const tg_buffer *text) noexcept:
    """Keyed by the pool: no other pool's answers are found."""
    cdef tg_digest state
    if (tg_digest_init(&state, <const unsigned char *><const char *>exchange.pool.cache_key) < 0
            or tg_digest_update(&state, tg_buffer_head(text), tg_buffer_size(text)) < 0):
        return -1
    return tg_digest_final(&state, key)


cdef int uri_key(unsigned char *key, HttpCache cache, Exchange exchange, const char *uri, size_t n,
                 const Scan *asked) noexcept:
    cdef HttpCacheRules rules = exchange.route.http_cache
    cdef const char *query
    cdef bytes headers = rules.headers
    if not rules.query:
        query = <const char *>memchr(uri, 63, n)
        if query != NULL:
            n = <size_t>(query - uri)
    tg_buffer_clear(&cache.text)
    if append_text(&cache.text, b"uri") < 0 or tg_buffer_append(&cache.text, uri, n) < 0:
        return -1
    if len(headers):
        if (tg_buffer_append(&cache.text, b"\0", 1) < 0
                or vary_values(&cache.text, <const char *>headers, <size_t>len(headers), asked) < 0):
            return -1
    return digest(key, exchange, &cache.text)


cdef uint32_t url_slot(HttpCache cache, Exchange exchange) noexcept:
    cdef HttpCacheRules rules = exchange.route.http_cache
    cdef tg_buffer *uri = &cache.uri
    cdef const char *host = <const char *>memchr(tg_buffer_head(uri), 0, tg_buffer_size(uri))
    cdef const char *end = tg_buffer_head(uri) + tg_buffer_size(uri)
    cdef const char *target
    cdef const char *query
    cdef size_t n
    if host == NULL or cache.store() is None:
        return 0
    host += 1
    target = <const char *>memchr(host, 0, <size_t>(end - host))
    if target == NULL:
        return 0
    n = <size_t>(target - host)
    target += 1
    if n > 3 and memcmp(host + n - 3, b":80", 3) == 0:
        n -= 3
    elif n > 4 and memcmp(host + n - 4, b":443", 4) == 0:
        n -= 4
    if not rules.query:
        query = <const char *>memchr(target, 63, <size_t>(end - target))
        if query != NULL:
            end = query
    tg_buffer_clear(&cache.text)
    if (append_text(&cache.text, b"url:") < 0 or tg_buffer_append(&cache.text, host, n) < 0
            or tg_buffer_append(&cache.text, target, <size_t>(end - target)) < 0):
        return 0
    return cache.store().slot(tg_buffer_head(&cache.text), tg_buffer_size(&cache.text))


cdef void lines_scan(Scan *into, const tg_buffer *lines) noexcept nogil:
    cdef const char *at = tg_buffer_head(lines)
    cdef const char *end = at + tg_buffer_size(lines)
    cdef const char *stop
    cdef const char *colon
    scan_begin(into)
    while at < end:
        stop = <const char *>memchr(at, 13, <size_t>(end - at))
        colon = <const char *>memchr(at, 58, <size_t>(end - at))
        if stop == NULL or colon == NULL or colon > stop:
            return
        if scan_field(into, at, <size_t>(colon - at), colon + 2, <size_t>(stop - colon - 2)) < 0:
            return
        at = stop + 2


cdef uint64_t purges_of(ResultCache store) noexcept:
    cdef uint64_t count = 0
    cdef uint32_t i
    for i in range(store.segment.header.workers + 1):
        count += tg_load64_relaxed(&store.stripes[i].purges)
    return count


cdef class Waiting(BodySource):

    def __dealloc__(self):
        tg_buffer_free(&self.request)

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        exchange.attempt.take_body(spans, count, size, last)

    cdef void leave(self, Exchange exchange) noexcept:
        if self.fill is not None:
            self.fill.leave(exchange)


cdef Fill new_fill(HttpCache cache, Exchange exchange, bytes primary, uint32_t url, uint32_t asked, const char *why):
    cdef Client client = exchange.client
    cdef uint32_t slots[OWN_TAGS]
    cdef Fill fill = Fill.__new__(Fill)
    fill.cache = cache
    fill.rules = exchange.route.http_cache
    fill.exchange = exchange
    fill.real = fill.behind = client
    fill.listener = client.listener
    fill.poller = client.poller
    fill.tls = client.tls                     # what the access log and X-Forwarded-Client-Cert say
    memcpy(fill.ip, client.ip, sizeof(fill.ip))
    fill.ip_length = client.ip_length
    fill.port = client.port
    fill.primary = primary
    fill.url = url
    fill.asked = asked
    fill.why = why
    fill.asked_at = client.poller.now
    fill.expected = UINT64_MAX
    fill.waiting = {}
    if cache.store() is not None:
        fill.purges = purges_of(cache.store())
        fill.changes = cache.store().changes_of(<const unsigned char *><const char *>primary)
        slots[0] = url
        slots[1] = cache.pool_slot(exchange)
        cache.store().begin(&fill.fill, slots, OWN_TAGS)
    exchange.client = fill
    return fill


cdef void lead(Fill fill, bytes key, bytes name) noexcept:
    cdef Fill before = <Fill>fill.cache.flights.get(key)
    if before is not None:
        if before.holds():
            if name is not None:
                fill.cache.elsewhere.end(name, True)
            return
        before.flight = None                  # who waits for it already gets its answer
    fill.flight = key
    fill.name = name
    fill.cache.flights[key] = fill


cdef void follow(Fill leader, Exchange exchange, Scan *scan, uint32_t asked) noexcept:
    cdef Waiting waiting = Waiting.__new__(Waiting)
    waiting.cache = leader.cache
    waiting.url = leader.url
    waiting.asked = asked
    if append_fields(&waiting.request, scan, 0) < 0:
        exchange.begin(scan)
        return
    exchange.cache = CACHE_COLLAPSED
    exchange.idempotent = True                # a GET
    exchange.key = exchange.find_key(scan)
    if exchange.state != X_REQUEST:           # where it waited for the disk
        exchange.move(X_REQUEST)
    exchange.source = waiting
    exchange.arm_wait()
    exchange.attempt.begin(scan)              # which may fail
    if exchange.state == X_REQUEST:
        waiting.fill = leader
        leader.waiting[exchange] = waiting
        if leader.state == FILL_STORING:
            leader.stream_to(exchange)


cdef void go_alone(Exchange exchange, Waiting waiting, bytes primary, bytes flight, uint32_t asked) noexcept:
    """One that waited asks for itself; others wait for its answer where `flight` is a key."""
    cdef Fill fill, leader
    if exchange.state != X_REQUEST:
        return
    if flight is not None:
        leader = <Fill>waiting.cache.flights.get(flight)
        if leader is not None and leader.holds():
            waiting.fill = leader
            leader.waiting[exchange] = waiting
            exchange.arm_wait()
            if leader.state == FILL_STORING:
                leader.stream_to(exchange)
            return
    exchange.source = None
    exchange.cache = CACHE_MISS
    fill = new_fill(waiting.cache, exchange, primary, waiting.url, waiting.asked | asked, b"uri-miss")
    fill.request = waiting.request
    memset(&waiting.request, 0, sizeof(tg_buffer))
    fill.again = True
    if flight is not None:
        lead(fill, flight, None)
    fill.poller.arm(exchange, exchange.expires)
    exchange.pick()


cdef class Fill(Client):

    def __dealloc__(self):
        tg_buffer_free(&self.request)
        tg_buffer_free(&self.uri)
        tg_buffer_free(&self.old)
        tg_buffer_free(&self.object)
        tg_buffer_free(&self.vary)

    # What the attempt says to its client.

    cdef tg_hop_cache *hop_cache(self) noexcept:
        return NULL if self.real is None else self.real.hop_cache()

    cdef const char *scheme(self) noexcept:
        return Client.scheme(self) if self.real is None else self.real.scheme()

    cdef bint put_off(self) noexcept:
        return self.real is not None and self.real.put_off()

    cdef void resume_request(self) noexcept:
        if self.real is not None:
            self.real.resume_request()

    cdef void answered_early(self) noexcept:
        if self.real is not None:
            self.real.answered_early()

    cdef void send_continue(self) noexcept:
        if self.real is not None:
            self.real.send_continue()

    cdef size_t backlog(self) noexcept:
        # Who waits is not held up by a slow client: what is stored has a largest size.
        if self.real is None or (self.state == FILL_STORING and self.waiting):
            return 0
        return self.real.backlog()

    cdef void drained(self) noexcept:
        if self.behind is not None:
            self.behind.drained()

    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept:
        cdef int status = scan.status
        if status < 200:
            if self.real is not None:
                self.real.respond(scan, extra, last)
            return
        if self.exchange is not None:
            status = self.exchange.status     # the endpoint's: an error page may tell the client another
        if self.unsafe:
            self.state = FILL_PASSING
            if status < 400:
                forget_uris(self, scan)
            self.pass_head(scan, extra, last, False, status)
        elif self.ours and status == 304:
            self.validated(scan)
        elif status < 500 or not self.give_old(status):
            self.take_answer(scan, extra, last, status)

    cdef size_t limit(self) noexcept:
        cdef size_t most = self.cache.max_object()
        return min(most, self.rules.max_object) if self.rules.max_object else most

    cdef bint holds(self) noexcept:
        cdef ResultCache store = self.cache.store()
        return store is not None and store.holds(&self.fill) and not self.changed(store)

    cdef bint changed(self, ResultCache store) noexcept:
        return store.changes_of(<const unsigned char *><const char *>self.primary) != self.changes

    cdef void land(self, bint shared) noexcept:
        if self.name is not None:
            self.cache.elsewhere.end(self.name, shared)
            self.name = None

    cdef bint is_awaited(self) noexcept:
        """Whether other workers wait for it."""
        return self.name is not None and self.cache.elsewhere.awaited(self.name)

    cdef void take_answer(self, Scan *scan, const tg_buffer *extra, bint last, int status) noexcept:
        """`status` is the endpoint's: it says whether the answer may be kept."""
        cdef tg_answer answer
        cdef tg_part part
        cdef uint64_t now = self.poller.now
        cdef int64_t wall = wall_ns() // SECOND_NS
        cdef Exchange exchange
        cdef int why = WHY_REQUEST
        cdef int told = scan.status
        if self.cache.store() is not None and self.asked & ASKED_BY_GET:
            scan.status = status
            answer_read(&answer, scan, self.rules.ttl, <int64_t>((now - self.asked_at) // SECOND_NS), wall)
            why = answer_may_be_stored(&answer, self.asked, self.rules.ignore_set_cookie,
                                       max(self.rules.stale_while_revalidate, self.rules.stale_if_error))
            scan.status = told
            answer.status = told
            if why == WHY_STORED and not self.begin_storing(scan, &answer):
                why = WHY_LIFETIME
            elif why == WHY_STORED and status != told:
                (<tg_stored *>tg_buffer_head(&self.object)).error = <uint32_t>status
        if why != WHY_STORED:
            self.state = FILL_PASSING
            self.forget()
            self.drop_object()
            if self.waiting or self.is_awaited():
                self.note_pass()
            self.land(False)
            self.release_all(True)
            self.pass_head(scan, extra, last, False, status)
            self.give_up_if_vain()
            return
        self.state = FILL_STORING
        self.expected = scan.content_length if scan.has_length else 0 if last else UINT64_MAX
        if scan.has_length and scan.content_length > FOR_OTHERS:
            self.land(False)
        if self.real is not None:
            part.status = 200
            if self.ours:                     # its own conditions were left out of the request
                lines_scan(&ASKED, &self.request)
                part_of(&part, &ASKED, <const tg_stored *>tg_buffer_head(&self.object), 0, True)
            if part.status == 304:
                self.give(<const tg_stored *>tg_buffer_head(&self.object), b"fwd=stale; stored", False)
            else:
                self.pass_head(scan, extra, last, True, status)
        for exchange in list(self.waiting):
            self.stream_to(exchange)
        self.give_up_if_vain()

    cdef void note_pass(self) noexcept:
        """Those who ask soon need not wait for each other."""
        cdef ResultCache store = self.cache.store()
        cdef tg_fill fill
        if store is None or stored_note(&self.cache.note, STORED_PASS, 0, NULL, 0) < 0:
            return
        memset(&fill, 0, sizeof(fill))
        fill.fresh_ns = PASS_S * <uint64_t>SECOND_NS
        if not store.contains(<const unsigned char *><const char *>self.primary, self.poller.now):
            store.put(<const unsigned char *><const char *>self.primary, tg_buffer_head(&self.cache.note),
                      tg_buffer_size(&self.cache.note), self.poller.now, &fill)

    cdef bint begin_storing(self, Scan *scan, tg_answer *answer) noexcept:
        """False: it cannot be kept after all."""
        cdef ResultCache store = self.cache.store()
        if store is None or self.changed(store) or not begin_tags(self, store, scan):
            return False
        tg_buffer_clear(&self.vary)
        if answer.flags & ANSWER_VARIES and vary_names(&self.vary, scan) < 0:
            return False
        if stored_begin(&self.object, scan, answer, self.rules, wall_ns() // SECOND_NS, self.poller.now) < 0:
            return False
        if scan.has_length and scan.content_length > self.limit():
            return False
        return self.grow(tg_buffer_size(&self.object)) and (
            not scan.has_length or self.made + scan.content_length <= self.limit())

    cdef bint grow(self, size_t size) noexcept:
        if self.made + size > self.limit() or self.cache.made + size > MOST_MADE:
            return False
        self.made += size
        self.cache.made += size
        return True

    cdef void drop_object(self) noexcept:
        self.cache.made -= self.made
        self.made = 0
        tg_buffer_free(&self.object)

    cdef void pass_head(self, Scan *scan, const tg_buffer *extra, bint last, bint stored, int status) noexcept:
        cdef int i
        if self.real is None:
            return
        for i in range(scan.field_count):
            if scan.fields[i].name_length == 22 and same_name(scan.fields[i].name, 22, b"tidegate-cache-control"):
                scan.fields[i].hop = True     # it is for us
        tg_buffer_clear(&EXTRA)
        if extra != NULL:
            tg_buffer_append(&EXTRA, tg_buffer_head(extra), tg_buffer_size(extra))
        append_text(&EXTRA, b"Cache-Status: tidegate; fwd=")
        append_text(&EXTRA, self.why)
        append_text(&EXTRA, b"; fwd-status=")
        append_number(&EXTRA, <uint64_t>status)
        append_text(&EXTRA, b"; stored\r\n" if stored else b"\r\n")
        self.real.respond(scan, &EXTRA, last)

    cdef void give(self, const tg_stored *stored, const char *said, bint aged) noexcept:
        cdef Client real = self.real
        cdef Exchange exchange = self.exchange
        cdef tg_part part
        cdef tg_freshness freshness
        if real is None:
            return
        self.real = None
        lines_scan(&ASKED, &self.request)
        part_of(&part, &ASKED, stored, stored.body_size, exchange.head_method)
        stored_freshness(&freshness, stored, self.poller.now)
        give_begin(exchange, stored, &part, stored.body_size, said, freshness.age if aged else -1, aged,
                   freshness.lifetime - freshness.age)
        exchange.bytes_out += give_whole(real, stored, &part, exchange.head_method)
        real.respond_end()

    cdef void validated(self, Scan *scan) noexcept:
        """The stored answer is still good (RFC 9111 section 4.3.4)."""
        cdef const tg_stored *stored = stored_head(tg_buffer_head(&self.old), tg_buffer_size(&self.old))
        cdef tg_answer answer, fresh
        cdef int64_t wall = wall_ns() // SECOND_NS
        cdef int64_t delay = <int64_t>((self.poller.now - self.asked_at) // SECOND_NS)
        cdef int why
        self.state = FILL_GIVEN
        stored_updated(&MERGED, stored, scan)
        answer_read(&answer, &MERGED, self.rules.ttl, delay, wall)
        answer_read(&fresh, scan, self.rules.ttl, delay, wall)
        answer.age = fresh.age
        why = answer_may_be_stored(&answer, self.asked, self.rules.ignore_set_cookie,
                                   max(self.rules.stale_while_revalidate, self.rules.stale_if_error))
        tg_buffer_clear(&self.vary)
        if (not begin_tags(self, self.cache.store(), &MERGED) or vary_names(&self.vary, &MERGED) < 0
                or stored_begin(&self.object, &MERGED, &answer, self.rules, wall, self.poller.now) < 0
                or tg_buffer_append(&self.object, stored_body(stored), stored.body_size) < 0):
            self.land(False)
            self.give(stored, b"fwd=stale; fwd-status=304", False)
            self.answer_all(stored, b"fwd=stale; fwd-status=304; collapsed", False)
            return
        stored_end(&self.object)
        (<tg_stored *>tg_buffer_head(&self.object)).error = stored.error
        if why == WHY_STORED:
            self.keep()
            self.land(True)
        else:
            self.land(False)
            self.cache.invalidate(self.exchange, self.primary)
        if self.exchange.cache != CACHE_REFRESHED:
            self.exchange.cache = CACHE_REVALIDATED
        stored = <const tg_stored *>tg_buffer_head(&self.object)
        self.give(stored, b"fwd=stale; fwd-status=304", False)
        self.answer_all(stored, b"fwd=stale; fwd-status=304; collapsed", False)

    cdef bint give_old(self, int status) noexcept:
        """A stale answer in the place of an error, where that may be (RFC 5861 section 4)."""
        cdef const tg_stored *stored = stored_head(tg_buffer_head(&self.old), tg_buffer_size(&self.old))
        cdef tg_freshness freshness
        if stored == NULL or status not in (500, 502, 503, 504):
            return False
        stored_freshness(&freshness, stored, self.poller.now)
        if not error_use(&freshness):
            return False
        self.state = FILL_GIVEN
        self.exchange.let_go(False)           # by the endpoint's own status
        if self.exchange.cache != CACHE_REFRESHED:
            self.exchange.cache = CACHE_STALE
        self.land(False)
        self.give(stored, b"fwd=stale; detail=stale-if-error", True)
        self.answer_all(stored, b"fwd=stale; detail=stale-if-error; collapsed", True)
        return True

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        cdef size_t size = 0
        cdef int i, failed = 0
        cdef Exchange exchange
        if self.state == FILL_STORING:
            for i in range(count):
                size += parts[i].iov_len
            failed = not self.grow(size)
            for i in range(count):
                if not failed:
                    failed = tg_buffer_append(&self.object, parts[i].iov_base, parts[i].iov_len) < 0
            if failed:
                self.state = FILL_PASSING
                self.skipped = True
                self.land(False)
                self.release_all(True)
                self.drop_object()
            elif tg_buffer_size(&self.object) > FOR_OTHERS:
                self.land(False)
        if self.real is not None:
            self.real.respond_body(parts, count)
        if self.state == FILL_STORING and self.waiting:
            for exchange in list(self.waiting):
                if (<Waiting>exchange.source).streaming:
                    exchange.bytes_out += size
                    exchange.client.respond_body(parts, count)
        elif self.left:
            self.give_up_if_vain()

    cdef bint respond_view(self, View view) noexcept:
        return self.state == FILL_PASSING and self.real is not None and self.real.respond_view(view)

    cdef Py_ssize_t respond_through(self, Stream source, size_t size) noexcept:
        if self.state != FILL_PASSING or self.real is None:
            return PASS_NOT
        return self.real.respond_through(source, size)

    cdef void respond_trailers(self, Scan *scan) noexcept:
        if self.real is not None:
            self.real.respond_trailers(scan)

    cdef void respond_end(self) noexcept:
        cdef Client real = self.real
        cdef const tg_stored *stored
        if self.state == FILL_STORING:
            stored_end(&self.object)
            stored = <const tg_stored *>tg_buffer_head(&self.object)
            if self.expected == UINT64_MAX or stored.body_size == self.expected:
                self.keep()
                self.land(True)
                self.forget()
                self.answer_all(stored, b"fwd=uri-miss; collapsed", False)
        self.over()
        if real is not None:
            real.respond_end()

    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
        cdef Client real = self.real
        self.over()
        if real is not None:
            real.respond_whole(status, head, parts, count)

    cdef void abort(self) noexcept:
        cdef Client real = self.real
        self.over()
        if real is not None:
            real.abort()

    cdef bint covers(self) noexcept:
        cdef const tg_stored *stored = stored_head(tg_buffer_head(&self.old), tg_buffer_size(&self.old))
        cdef tg_freshness freshness
        cdef tg_part part
        cdef Exchange exchange = self.exchange
        cdef Client real = self.real
        if stored == NULL or self.state != FILL_ASKED or exchange.status not in (500, 502, 503, 504):
            return False
        stored_freshness(&freshness, stored, self.poller.now)
        if not error_use(&freshness):
            return False
        self.forget()
        self.land(False)
        if exchange.cache != CACHE_REFRESHED:
            exchange.cache = CACHE_STALE
        self.answer_all(stored, b"fwd=stale; detail=stale-if-error; collapsed", True)
        lines_scan(&ASKED, &self.request)
        part_of(&part, &ASKED, stored, stored.body_size, exchange.head_method)
        if give_begin(exchange, stored, &part, stored.body_size, b"fwd=stale; detail=stale-if-error", freshness.age,
                      True, freshness.lifetime - freshness.age) < 0:
            return False
        exchange.bytes_out = part_size(stored, &part, stored.body_size, exchange.head_method)
        exchange.record()
        if real is not None:
            give_whole(real, stored, &part, exchange.head_method)
        self.over()
        if real is not None:
            real.respond_end()
        return True

    cdef bint outlives(self) noexcept:
        cdef Client behind = self.behind
        self.behind = None
        if behind is not None:
            behind.outlives()                 # it hears that it has left: nothing of it is the exchange's any more
        if self.dead or self.exchange is None:
            return False
        self.real = None
        self.left = True
        if self.unsafe or not self.asked & ASKED_BY_GET or self.asked & ASKED_NO_STORE or self.is_vain():
            self.land(True)                   # the endpoint has not failed
            self.over()
            return False
        tg_add(&self.exchange.route.series[ROUTE_CLIENT_ABORTS], 1)
        self.exchange.client_drained()        # what was held back for its sake
        return True

    cdef bint is_vain(self) noexcept:
        """Whether the rest of the answer is not worth its while: nobody waits for it, and there is much of it."""
        if self.waiting or self.state == FILL_ASKED:
            return False
        if self.state != FILL_STORING:
            return True
        return self.expected - min(self.expected, self.object.end) > FOR_NOBODY

    cdef void give_up_if_vain(self) noexcept:
        cdef Exchange exchange = self.exchange
        if self.left and exchange is not None and exchange.state != X_DONE and self.is_vain():
            self.dead = True
            self.land(True)                   # the endpoint has not failed
            self.over()
            exchange.client_gone()

    # The object.

    cdef void keep(self) noexcept:
        cdef ResultCache store = self.cache.store()
        cdef const tg_stored *stored = <const tg_stored *>tg_buffer_head(&self.object)
        cdef tg_freshness freshness
        cdef int64_t left, more
        if store is None or self.exchange is None or self.changed(store):
            return
        if self.fill.count > OWN_TAGS and purges_of(store) != self.purges:
            return                            # perhaps of one of those that were not known before the answer
        stored_freshness(&freshness, stored, self.poller.now)
        left = 0 if stored.flags & ANSWER_NO_CACHE else max(freshness.lifetime - freshness.age, 0)
        more = 0
        if not stored.flags & ANSWER_REVALIDATE:
            more = max(max(stored.stale_while_revalidate, stored.stale_if_error), <int64_t>STALE_S)
        if stored.etag >= 0 or stored.last_modified >= 0:
            more = max(more, <int64_t>VALIDATED_S)
        if left + more <= 0:
            return
        self.fill.fresh_ns = <uint64_t>max(left, 1) * SECOND_NS
        self.fill.stale_ns = 0
        self.fill.error_ns = <uint64_t>more * SECOND_NS
        self.fill.cost_us = <uint32_t>min((self.poller.now - self.asked_at) // MICROSECOND_NS, <uint64_t>0xffffffff)
        if self.is_awaited():
            self.fill.flags |= TG_AWAITED
        self.keep_under(self.fill.fresh_ns + self.fill.error_ns)

    cdef void keep_under(self, uint64_t lasts) noexcept:
        cdef ResultCache store = self.cache.store()
        cdef unsigned char key[32]
        cdef uint64_t now = self.poller.now
        cdef bint kept
        memcpy(key, <const char *>self.primary, 32)
        if tg_buffer_size(&self.vary):
            lines_scan(&ASKED, &self.request)
            if not keep_names(self, store, lasts) or self.cache.variant_key(
                    key, self.exchange, <const unsigned char *><const char *>self.primary, self.nonce,
                    tg_buffer_head(&self.vary), tg_buffer_size(&self.vary), &ASKED) < 0:
                return
        kept = 0
        if tg_buffer_size(&self.object) <= store.max_object:
            kept = store.put(key, tg_buffer_head(&self.object), tg_buffer_size(&self.object), now, &self.fill) == 1
        else:
            store.invalidate(key, now)        # the answer before, which was smaller
        if store.holds(&self.fill):
            self.cache.write(key, &self.object, &self.fill, now)
        if self.changed(store):
            # By another worker, between the look and the put: it may not have found what is there now.
            store.invalidate(<const unsigned char *><const char *>self.primary, now)
            if self.cache.disk is not None:
                self.cache.disk.remove(self.primary)
            return
        if kept or self.cache.disk is not None:
            tg_add(&self.exchange.route.series[ROUTE_CACHE_STORED], 1)

    # Those who wait.

    cdef void forget(self) noexcept:
        """Nobody else waits for it from now on."""
        if self.flight is not None:
            self.cache.flights.pop(self.flight, None)
            self.flight = None

    cdef void release_all(self, bint at_once) noexcept:
        cdef dict waiting = self.waiting
        cdef bytes flight = None if at_once else self.flight
        cdef Fill next_leader
        cdef Exchange exchange
        cdef Waiting source
        self.forget()
        self.waiting = {}
        for exchange, source in list(waiting.items()):
            source.fill = None
            if source.streaming:
                exchange.fail(FAIL_RESET, "")
            else:
                go_alone(exchange, source, self.primary, flight, ASKED_NO_STORE if self.skipped else 0)
        if self.name is not None:
            next_leader = None if flight is None else <Fill>self.cache.flights.get(flight)
            if next_leader is not None and next_leader.name is None and self.holds():
                next_leader.name = self.name
                self.name = None
            self.land(not at_once)

    cdef void answer_all(self, const tg_stored *stored, const char *said, bint aged) noexcept:
        cdef dict waiting = self.waiting
        cdef Exchange exchange
        cdef Waiting source
        self.forget()
        self.waiting = {}
        for exchange, source in list(waiting.items()):
            source.fill = None
            if source.streaming:
                exchange.end()
            elif not same_variant(self, source):
                go_alone(exchange, source, self.primary, other_variant(self, exchange), 0)
            else:
                answer_one(exchange, source, stored, said, aged, self.poller.now)

    cdef void stream_to(self, Exchange exchange) noexcept:
        cdef Waiting source = <Waiting>exchange.source
        cdef const tg_stored *stored = <const tg_stored *>tg_buffer_head(&self.object)
        cdef tg_part part
        cdef iovec piece
        if self.expected == UINT64_MAX or exchange.state != X_REQUEST:
            return
        if not same_variant(self, source):
            source.fill = None
            self.waiting.pop(exchange, None)
            go_alone(exchange, source, self.primary, other_variant(self, exchange), 0)
            return
        lines_scan(&ASKED, &source.request)
        part_of(&part, &ASKED, stored, self.expected, False)
        if part.status != 200 or give_begin(exchange, stored, &part, self.expected, b"fwd=uri-miss; collapsed",
                                            stored.age if stored.age > 0 else -1, False, 0) < 0:
            return                            # it gets its part when all of it is here
        exchange.move(X_ANSWERING)
        exchange.first_byte_at = self.poller.now
        self.poller.arm(exchange, exchange.expires)
        source.streaming = True
        give_head(exchange.client, self.expected != 0)
        piece.iov_base = <void *>stored_body(stored)
        piece.iov_len = tg_buffer_size(&self.object) - <size_t>(stored_body(stored) - <const char *>stored)
        if piece.iov_len and exchange.state == X_ANSWERING:
            exchange.bytes_out += piece.iov_len
            exchange.client.respond_body(&piece, 1)

    cdef void leave(self, Exchange exchange) noexcept:
        (<Waiting>exchange.source).fill = None
        self.waiting.pop(exchange, None)
        self.give_up_if_vain()

    cdef void over(self) noexcept:
        if self.state == FILL_OVER:
            return
        self.state = FILL_OVER
        self.release_all(self.again)
        self.cache.made -= self.made
        self.made = 0
        self.exchange = None
        self.real = None


cdef bint same_variant(Fill fill, Waiting source) noexcept:
    """Whether the answer is that of this request, too, by its Vary."""
    cdef const char *names = tg_buffer_head(&fill.vary)
    cdef size_t n = tg_buffer_size(&fill.vary)
    if n == 0:
        return True
    tg_buffer_clear(&fill.cache.text)
    tg_buffer_clear(&THEIRS)
    lines_scan(&ASKED, &fill.request)
    if vary_values(&fill.cache.text, names, n, &ASKED) < 0:
        return False
    lines_scan(&ASKED, &source.request)
    if vary_values(&THEIRS, names, n, &ASKED) < 0:
        return False
    n = tg_buffer_size(&THEIRS)
    return n == tg_buffer_size(&fill.cache.text) and memcmp(
        tg_buffer_head(&THEIRS), tg_buffer_head(&fill.cache.text), n) == 0


cdef bytes other_variant(Fill fill, Exchange exchange):
    """Behind `same_variant` that was False: a key under which requests for the same other variant wait for one of them.
    None: out of memory."""
    cdef unsigned char key[32]
    if fill.cache.variant_key(key, exchange, <const unsigned char *><const char *>fill.primary, 0,
                              tg_buffer_head(&fill.vary), tg_buffer_size(&fill.vary), &ASKED) < 0:
        return None
    return (<char *>key)[:32]


cdef void answer_one(Exchange exchange, Waiting source, const tg_stored *stored, const char *said, bint aged,
                     uint64_t now) noexcept:
    cdef tg_part part
    cdef tg_freshness freshness
    cdef Client client = exchange.client
    if exchange.state != X_REQUEST:
        return
    lines_scan(&ASKED, &source.request)
    part_of(&part, &ASKED, stored, stored.body_size, False)
    stored_freshness(&freshness, stored, now)
    give_begin(exchange, stored, &part, stored.body_size, said, freshness.age if aged else -1, aged,
               freshness.lifetime - freshness.age)
    exchange.bytes_out = part_size(stored, &part, stored.body_size, False)
    exchange.record()
    give_whole(client, stored, &part, False)
    client.respond_end()


cdef bint keep_names(Fill fill, ResultCache store, uint64_t lasts) noexcept:
    """The names of the variants' fields stand under the key of the URI, for as long as the variant lasts. Variants from
    before the URI changed are not found any more, since these had another nonce."""
    cdef tg_buffer *note = &fill.cache.note
    cdef const tg_stored *known
    cdef const unsigned char *key = <const unsigned char *><const char *>fill.primary
    cdef const char *names = tg_buffer_head(&fill.vary)
    cdef size_t n = tg_buffer_size(&fill.vary)
    cdef tg_found found
    cdef tg_fill entry
    cdef Py_ssize_t size
    fill.nonce = random64()
    tg_buffer_clear(note)
    size = store.get(key, fill.poller.now, False, note, &found)
    if size >= 0:
        known = stored_head(tg_buffer_head(note), <size_t>size)
        if (known != NULL and known.kind == STORED_VARIANTS and known.text_size == n
                and memcmp(stored_text(known), names, n) == 0):
            fill.nonce = known.nonce
            if found.fresh_ns >= lasts:
                return True
    if stored_note(note, STORED_VARIANTS, fill.nonce, names, n) < 0:
        return False
    memset(&entry, 0, sizeof(entry))
    entry.fresh_ns = lasts
    entry.cost_us = fill.fill.cost_us
    entry.flags = TG_AWAITED                  # whatever it is worth: no variant is found without it
    fill.cache.write(key, note, &entry, fill.poller.now)
    return store.put(key, tg_buffer_head(note), tg_buffer_size(note), fill.poller.now, &entry) == 1


cdef bint begin_tags(Fill fill, ResultCache store, const Scan *scan) noexcept:
    """The tags that the answer names (Cache-Tag, Surrogate-Key), behind its own: a purge of one takes it. False: there
    are too many."""
    cdef uint32_t slots[TG_TAGS + 1]
    cdef uint32_t n = 0, k
    cdef tg_fill named
    cdef const Field *field
    cdef size_t at, start, end
    cdef bint listed
    cdef int i
    if store is None:
        return False
    for i in range(scan.field_count):
        field = &scan.fields[i]
        listed = field.name_length == 9 and same_name(field.name, 9, b"cache-tag")
        if not listed and not (field.name_length == 13 and same_name(field.name, 13, b"surrogate-key")):
            continue
        at = 0
        while at < field.value_length and n <= TG_TAGS - OWN_TAGS:
            start = at
            while at < field.value_length and field.value[at] != 44 and (listed or field.value[at] not in (32, 9)):
                at += 1
            end = at
            at += 1
            while start < end and field.value[start] in (32, 9):
                start += 1
            while end > start and field.value[end - 1] in (32, 9):
                end -= 1
            if end > start:
                slots[n] = store.slot(field.value + start, end - start)
                n += 1
    if n > TG_TAGS - OWN_TAGS or store.begin(&named, slots, n) < 0:
        return False
    fill.fill.count = <uint16_t>(OWN_TAGS + n)
    for k in range(n):
        fill.fill.tags[OWN_TAGS + k] = named.tags[k]
    return True


# Fields that name what an unsafe request has changed besides its own URI (RFC 9111 section 4.4).
cdef void forget_uris(Fill fill, const Scan *scan) noexcept:
    cdef const Field *field
    cdef int i
    fill.cache.invalidate(fill.exchange, fill.primary)
    lines_scan(&ASKED, &fill.request)
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if (field.name_length == 8 and same_name(field.name, 8, b"location")
                or field.name_length == 16 and same_name(field.name, 16, b"content-location")):
            forget_uri(fill, field.value, field.value_length)


cdef void forget_uri(Fill fill, const char *text, size_t n) noexcept:
    """A reference to the same scheme and host (RFC 3986 section 4.2)."""
    cdef tg_buffer *uri = &fill.uri
    cdef const char *base = tg_buffer_head(uri)
    cdef size_t size = tg_buffer_size(uri), target, host, end
    cdef unsigned char key[32]
    cdef const char *hash = <const char *>memchr(text, 35, n) if n else NULL
    cdef const char *zero = <const char *>memchr(base, 0, size)
    if hash != NULL:
        n = <size_t>(hash - text)
    if zero == NULL or n == 0:
        return
    host = <size_t>(zero - base) + 1
    zero = <const char *>memchr(base + host, 0, size - host)
    if zero == NULL:
        return
    target = <size_t>(zero - base) + 1
    if n > host + 2 and same_part(text, base, host - 1) and memcmp(text + host - 1, b"://", 3) == 0:
        text += host - 1
        n -= host - 1
        text += 1
        n -= 1
    if n >= 2 and text[0] == 47 and text[1] == 47:            # an authority
        text += 2
        n -= 2
        if n < target - 1 - host or not same_part(text, base + host, target - 1 - host):
            return
        text += target - 1 - host
        n -= target - 1 - host
        if n and text[0] != 47:
            return                            # another host that begins alike, or another port
    elif text[0] != 47 and is_absolute(text, n):
        return
    tg_buffer_clear(&THEIRS)
    if tg_buffer_append(&THEIRS, base, target) < 0:
        return
    if n == 0:
        append_text(&THEIRS, b"/")
    elif text[0] != 47:                       # relative to the folder of the target
        end = size
        zero = <const char *>memchr(base + target, 63, size - target)
        if zero != NULL:
            end = <size_t>(zero - base)
        while end > target and base[end - 1] != 47:
            end -= 1
        if tg_buffer_append(&THEIRS, base + target, end - target) < 0:
            return
    if tg_buffer_append(&THEIRS, text, n) < 0:
        return
    if uri_key(key, fill.cache, fill.exchange, tg_buffer_head(&THEIRS), tg_buffer_size(&THEIRS), &ASKED) == 0:
        fill.cache.invalidate(fill.exchange, (<char *>key)[:32])


cdef bint same_part(const char *text, const char *lower, size_t n) noexcept nogil:
    cdef size_t i
    cdef char c
    for i in range(n):
        c = text[i]
        if 65 <= c <= 90:
            c |= 32
        if c != lower[i]:
            return False
    return True


cdef bint is_absolute(const char *text, size_t n) noexcept nogil:
    """Whether a reference that begins with no slash has a scheme."""
    cdef size_t i
    for i in range(n):
        if text[i] == 58:
            return True
        if text[i] in (47, 63):
            return False
    return False
