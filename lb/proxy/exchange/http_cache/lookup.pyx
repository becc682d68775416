"""A request before its endpoint is asked: what the HTTP cache has for it.

    a fresh answer          it is given
    a stale one             it is given, given and made anew meanwhile, or validated
    none in memory          the disk is asked, if there is one; the request goes on with what that has
    none                    the endpoint is asked; who asks for the same meanwhile, of any worker, waits for the answer
    a method that changes   passed on; what is stored of the URI goes when the answer says that it was done
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from lb.cache.layout cimport TG_TAGS, tg_fill, tg_found, tg_tag
from lb.cache.store cimport ResultCache
from lb.failure cimport FAIL_NOT_CACHED
from lb.http.caching.answers cimport ASKED_AUTHORIZED, ASKED_BY_GET, ASKED_NO_STORE, ASKED_WITH_COOKIE
from lb.http.caching.conditions cimport tg_part, tg_validators
from lb.http.caching.directives cimport CC_NO_CACHE, CC_NO_STORE, CC_ONLY_IF_CACHED
from lb.http.caching.requests cimport (
    REQUEST_AUTHORIZED, REQUEST_CONDITIONAL, REQUEST_COOKIE, REQUEST_RANGE, USE_FRESH,
    USE_STALE_REFRESH, USE_VALIDATE_REQUEST, request_read, request_use, tg_freshness, tg_request, use,
)
from lb.http.head cimport H_HOST, H_UPGRADE, Field, Scan, has_body, same_name, scan_field
from lb.http.head_text cimport append_fields, append_text
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.net.poller cimport monotonic_ns
from lb.net.stream cimport iovec
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport (
    CACHE_BYPASS, CACHE_COLLAPSED, CACHE_HIT, CACHE_MISS, CACHE_REFRESHED, CACHE_STALE, X_DONE, X_REQUEST, Exchange,
)
from lb.proxy.exchange.http1_attempt cimport Http1Attempt, brings_proof
from lb.proxy.exchange.http2_attempt cimport Http2Attempt
from lb.proxy.exchange.http_cache.elsewhere cimport FOLLOWS, LEADS, Awaiting
from lb.proxy.exchange.http_cache.fill cimport Fill, HttpCache, follow, lead, lines_scan, new_fill, uri_key, url_slot
from lb.proxy.exchange.http_cache.give cimport give_begin, give_whole, part_of, part_size
from lb.proxy.exchange.http_cache.stored cimport (
    STORED_ANSWER, STORED_PASS, STORED_VARIANTS, stored_freshness, stored_head, stored_scan, stored_text,
    stored_validators, tg_stored,
)
from lb.proxy.exchange.refusal cimport SPEAKS_HTTP
from lb.proxy.routing.headers.fields cimport hide_named
from lb.upstream.attempt cimport Attempt
from lb.upstream.pool cimport POOL_HTTP

cdef enum:
    M_GET = 1                         # llhttp's numbers
    M_HEAD = 2
    M_OPTIONS = 6
    M_TRACE = 7
    SECOND_NS = 1_000_000_000
    OWN_TAGS = 2

# With whom a miss may wait for one answer.
cdef enum together:
    ALL_WORKERS                       # and look once more for what came before its worker began
    ALL_WORKERS_LOOKED
    OWN_WORKER

# The stored answer whose validators a request gets.
cdef Scan VALIDATED
VALIDATED.max_fields = 1000
# The head of a request that waited for the disk.
cdef Scan RESUMED
RESUMED.max_fields = 1000


cdef void through_http_cache(HttpCache cache, Exchange exchange, Scan *scan) noexcept:
    cdef tg_request request
    cdef unsigned char key[32]
    if cache.store() is None or exchange.grpc != SPEAKS_HTTP or exchange.source is not None or scan.websocket:
        exchange.begin(scan)
        return
    if exchange.method == M_OPTIONS or exchange.method == M_TRACE or scan.first[H_UPGRADE] >= 0:
        exchange.cache = CACHE_BYPASS
        exchange.begin(scan)
        return
    hide_named(scan)
    if request_uri(cache, exchange, scan) < 0 or uri_key(
            key, cache, exchange, tg_buffer_head(&cache.uri), tg_buffer_size(&cache.uri), scan) < 0:
        exchange.cache = CACHE_BYPASS
        exchange.begin(scan)
        return
    if exchange.method != M_GET and exchange.method != M_HEAD:
        pass_change(cache, exchange, scan, key)
        return
    read_request(&request, exchange, scan)
    # An answer to a body would be given to those with another body, or none.
    if has_body(scan) or (request.flags & REQUEST_AUTHORIZED and brings_proof(scan)):
        exchange.cache = CACHE_BYPASS
        exchange.begin(scan)
        return
    find(cache, exchange, scan, &request, key, ALL_WORKERS)


cdef void read_request(tg_request *request, Exchange exchange, const Scan *scan) noexcept:
    request_read(request, scan, exchange.route.http_cache.request_directives)
    if exchange.route.guard is not None and exchange.route.guard.asks:
        request.flags |= REQUEST_AUTHORIZED   # whatever it proved that by (RFC 9111 section 3.5)


cdef int request_uri(HttpCache cache, Exchange exchange, const Scan *scan) noexcept:
    """Scheme, host in lower case and target of the request, as the endpoint gets them, into `cache.uri`."""
    cdef tg_buffer *uri = &cache.uri
    cdef const Field *host
    cdef size_t i
    tg_buffer_clear(uri)
    if append_text(uri, exchange.client.scheme()) < 0 or tg_buffer_append(uri, b"\0", 1) < 0:
        return -1
    if scan.first[H_HOST] >= 0:
        host = &scan.fields[scan.first[H_HOST]]
        if tg_buffer_append(uri, host.value, host.value_length) < 0:
            return -1
        for i in range(uri.end - host.value_length, uri.end):
            if 65 <= uri.data[i] <= 90:
                uri.data[i] |= 32
    if tg_buffer_append(uri, b"\0", 1) < 0:
        return -1
    return tg_buffer_append(uri, scan.target, scan.target_length)


cdef void pass_change(HttpCache cache, Exchange exchange, Scan *scan, const unsigned char *key) noexcept:
    cdef Fill fill = new_fill(cache, exchange, (<char *>key)[:32], 0, 0, b"method")
    exchange.cache = CACHE_BYPASS
    fill.unsafe = True
    append_fields(&fill.request, scan, 0)
    tg_buffer_append(&fill.uri, tg_buffer_head(&cache.uri), tg_buffer_size(&cache.uri))
    exchange.begin(scan)


cdef void find(HttpCache cache, Exchange exchange, Scan *scan, const tg_request *request, const unsigned char *primary,
               together whom) noexcept:
    cdef ResultCache store = cache.store()
    cdef uint64_t now = exchange.client.poller.now
    cdef const tg_stored *stored
    cdef const char *why = b"uri-miss"
    cdef unsigned char key[32]
    memcpy(key, primary, 32)
    stored = read(cache, store, key, now)
    if stored != NULL and stored.kind == STORED_VARIANTS:
        why = b"vary-miss"
        if cache.variant_key(key, exchange, primary, stored.nonce, stored_text(stored), stored.text_size, scan) < 0:
            memcpy(key, primary, 32)
            stored = NULL
        else:
            stored = read(cache, store, key, now)
    if stored == NULL and cache.disk is not None and park(cache, exchange, scan, request, why, primary, key, whom):
        return
    decide(cache, exchange, scan, request, stored,
           b"fwd=uri-miss; collapsed" if exchange.cache == CACHE_COLLAPSED else b"hit", why, primary, key, whom)


cdef void decide(HttpCache cache, Exchange exchange, Scan *scan, const tg_request *request, const tg_stored *stored,
                 const char *said, const char *why, const unsigned char *primary, const unsigned char *key,
                 together whom) noexcept:
    """`stored`: what is known of the answer; NULL: nothing. `said`: what Cache-Status says of a hit."""
    cdef uint64_t now = exchange.client.poller.now
    cdef tg_freshness freshness
    cdef use verdict
    if stored != NULL and stored.kind == STORED_ANSWER:
        stored_freshness(&freshness, stored, now)
        verdict = request_use(request, &freshness)
        if verdict <= USE_STALE_REFRESH:
            hit(cache, exchange, scan, stored, &freshness, verdict, said, primary, key)
            return
        why = b"request" if verdict == USE_VALIDATE_REQUEST else b"stale"
    elif request.control.flags & CC_NO_STORE:
        why = b"request"
    if request.control.flags & CC_ONLY_IF_CACHED:
        exchange.request_complete = True
        exchange.fail(FAIL_NOT_CACHED, "the cache has no answer that may be given")
        return
    ask(cache, exchange, scan, request, stored, why, primary, key, whom)


cdef const tg_stored *read(HttpCache cache, ResultCache store, const unsigned char *key, uint64_t now) noexcept:
    cdef tg_found found
    cdef Py_ssize_t size
    tg_buffer_clear(&cache.found)
    size = store.get(key, now, True, &cache.found, &found)
    if size < 0:
        return NULL
    return stored_head(tg_buffer_head(&cache.found), <size_t>size)


cdef void hit(HttpCache cache, Exchange exchange, Scan *scan, const tg_stored *stored, const tg_freshness *freshness,
              use verdict, const char *said, const unsigned char *primary, const unsigned char *key) noexcept:
    cdef Client client = exchange.client
    cdef tg_part part
    part_of(&part, scan, stored, stored.body_size, exchange.head_method)
    if verdict == USE_STALE_REFRESH:
        refresh(cache, exchange, scan, stored, primary, key)
    if verdict != USE_FRESH:
        exchange.cache = CACHE_STALE
    elif exchange.cache != CACHE_COLLAPSED:   # it has waited for another worker
        exchange.cache = CACHE_HIT
    exchange.request_complete = True
    give_begin(exchange, stored, &part, stored.body_size, said, freshness.age, True,
               freshness.lifetime - freshness.age)
    exchange.bytes_out = part_size(stored, &part, stored.body_size, exchange.head_method)
    exchange.record()
    give_whole(client, stored, &part, exchange.head_method)
    client.respond_end()


cdef class Parked(Awaiting):
    """Of a request that waits for what the disk has, or for the answer of another worker."""
    cdef HttpCache cache
    cdef Exchange exchange            # None: it does not wait any more
    cdef tg_buffer request            # the fields of its head, as lines
    cdef tg_buffer target
    cdef tg_buffer uri                # as in HttpCache
    cdef bytes primary
    cdef bytes key                    # of what is read
    cdef const char *why
    cdef together whom
    cdef uint32_t changes             # of the URI when it began to wait

    def __dealloc__(self):
        tg_buffer_free(&self.request)
        tg_buffer_free(&self.target)
        tg_buffer_free(&self.uri)

    cdef void take(self, Exchange exchange, const iovec *spans, int count, size_t size, bint last) noexcept:
        exchange.request_complete = last      # there is no body

    cdef void leave(self, Exchange exchange) noexcept:
        self.exchange = None
        if self.elsewhere is not None:
            self.elsewhere.leave(self)

    cdef void go_on(self, bint alone) noexcept:
        """The other worker's answer is in memory or on disk, or there is none."""
        cdef Exchange exchange = self.exchange
        cdef const unsigned char *primary = <const unsigned char *><const char *>self.primary
        cdef tg_request request
        if exchange is None or exchange.state != X_REQUEST or exchange.source is not self:
            return
        unpark(self, exchange, &request)
        if self.cache.store() is None:        # a reload has taken it away
            decide(self.cache, exchange, &RESUMED, &request, NULL, b"hit", b"uri-miss", primary, primary, OWN_WORKER)
        else:
            find(self.cache, exchange, &RESUMED, &request, primary, OWN_WORKER if alone else ALL_WORKERS)
        unparked(exchange)


cdef Parked new_parked(HttpCache cache, Exchange exchange, const Scan *scan, const unsigned char *primary):
    """None: out of memory."""
    cdef Parked parked = Parked.__new__(Parked)
    parked.cache = cache
    parked.exchange = exchange
    parked.primary = (<char *>primary)[:32]
    parked.changes = cache.store().changes_of(primary)
    if (append_fields(&parked.request, scan, 0) < 0
            or tg_buffer_append(&parked.target, scan.target, scan.target_length) < 0
            or tg_buffer_append(&parked.uri, tg_buffer_head(&cache.uri), tg_buffer_size(&cache.uri)) < 0):
        return None
    return parked


cdef void wait_parked(Exchange exchange, Parked parked) noexcept:
    if exchange.state != X_REQUEST:           # where it waited before
        exchange.move(X_REQUEST)
    exchange.source = parked
    exchange.arm_wait()


cdef bint park(HttpCache cache, Exchange exchange, const Scan *scan, const tg_request *request, const char *why,
               const unsigned char *primary, const unsigned char *key, together whom) noexcept:
    """Whether it waits. It does not where the disk has too much to do, or its answer would be of no use."""
    cdef Parked parked
    cdef Fill leader = <Fill>cache.flights.get((<char *>key)[:32])
    if (leader is not None and leader.holds()
            or request.control.flags & (CC_NO_CACHE | CC_NO_STORE)):
        return False
    parked = new_parked(cache, exchange, scan, primary)
    if parked is None:
        return False
    parked.whom = whom
    if not read_disk(cache, parked, (<char *>key)[:32], why):
        return False
    wait_parked(exchange, parked)
    return True


cdef bint read_disk(HttpCache cache, Parked parked, bytes key, const char *why) noexcept:
    """False: the disk has too much to do."""
    cdef list others = cache.parked.get(key)
    parked.key = key
    parked.why = why
    if others is not None:
        others.append(parked)
        return True
    if not cache.disk.read(key, disk_told, cache):
        return False
    cache.parked[key] = [parked]
    return True


def disk_told(HttpCache cache, bytes key, kept):
    """What the disk has under the key (lb.cache.disk.disk.Kept), or None. From the loop, outside of a batch."""
    cdef Parked parked
    cdef Exchange exchange
    for parked in cache.parked.pop(key, ()):
        exchange = parked.exchange
        if exchange is None or exchange.state != X_REQUEST or exchange.source is not parked:
            continue
        exchange.client.poller.now = monotonic_ns()
        resume(cache, parked, exchange, kept)


cdef void unpark(Parked parked, Exchange exchange, tg_request *request) noexcept:
    """The request goes on, by a head that is made of what it was parked with: RESUMED."""
    cdef HttpCache cache = parked.cache
    lines_scan(&RESUMED, &parked.request)
    RESUMED.version = exchange.version
    RESUMED.method = exchange.method
    RESUMED.has_length = False
    RESUMED.chunked = False
    RESUMED.complete = True
    RESUMED.target = tg_buffer_head(&parked.target)
    RESUMED.target_length = <uint32_t>tg_buffer_size(&parked.target)
    tg_buffer_clear(&cache.uri)
    tg_buffer_append(&cache.uri, tg_buffer_head(&parked.uri), tg_buffer_size(&parked.uri))
    read_request(request, exchange, &RESUMED)
    exchange.source = None
    exchange.request_complete = False         # of its attempt, if it gets one
    exchange.client.poller.arm(exchange, exchange.expires)


cdef void unparked(Exchange exchange) noexcept:
    """Behind `unpark`, and a decision."""
    if exchange.state != X_DONE and not exchange.request_complete:
        exchange.take_body(NULL, 0, 0, True)
        if exchange.state == X_REQUEST and exchange.source is None:
            exchange.pick()                   # an attempt does so itself only for a request that is new


cdef void resume(HttpCache cache, Parked parked, Exchange exchange, object kept) noexcept:
    """The disk was asked."""
    cdef ResultCache store = cache.store()
    cdef uint64_t now = exchange.client.poller.now
    cdef const tg_stored *stored = NULL
    cdef const char *why = parked.why
    cdef const char *said = b"hit; detail=disk"
    cdef const unsigned char *primary = <const unsigned char *><const char *>parked.primary
    cdef tg_request request
    cdef unsigned char key[32]
    memcpy(key, <const char *>parked.key, 32)
    unpark(parked, exchange, &request)
    if kept is not None and store is not None and parked.changes == store.changes_of(primary):
        stored = take_kept(cache, store, key, kept, now)
        if stored != NULL and parked.changes != store.changes_of(primary):
            store.invalidate(key, now)        # another worker's change, which may not have found it
            stored = NULL
    if stored != NULL and stored.kind == STORED_VARIANTS:
        why = b"vary-miss"
        if (parked.key != parked.primary or cache.variant_key(
                key, exchange, key, stored.nonce, stored_text(stored), stored.text_size, &RESUMED) < 0):
            stored = NULL
        else:
            said = b"hit"
            stored = read(cache, store, key, now)
            if stored == NULL and read_disk(cache, parked, (<char *>key)[:32], why):
                wait_parked(exchange, parked)
                exchange.request_complete = True
                return
    decide(cache, exchange, &RESUMED, &request, stored, said, why, primary, key,
           OWN_WORKER if store is None else parked.whom)
    unparked(exchange)


cdef const tg_stored *take_kept(HttpCache cache, ResultCache store, const unsigned char *key, object kept,
                                uint64_t now) noexcept:
    """What the disk had, into memory. NULL: it was purged, or is of another form."""
    cdef bytes value = kept.value
    cdef tg_fill fill
    cdef tg_stored *stored
    cdef uint32_t i = 0
    memset(&fill, 0, sizeof(fill))
    fill.fresh_ns = kept.fresh_ns
    fill.error_ns = kept.error_ns
    fill.cost_us = kept.cost_us
    for slot, generation in kept.tags[:TG_TAGS]:
        fill.tags[i].slot = slot
        fill.tags[i].generation = generation
        i += 1
    fill.count = <uint16_t>i
    tg_buffer_clear(&cache.found)
    if (not store.holds(&fill)
            or tg_buffer_append(&cache.found, <const char *>value, <size_t>len(value)) < 0):
        return NULL
    stored = <tg_stored *>stored_head(tg_buffer_head(&cache.found), tg_buffer_size(&cache.found))
    if stored == NULL:
        return NULL
    stored.age += <int64_t>kept.age_ns // SECOND_NS
    stored.received = now
    if tg_buffer_size(&cache.found) <= store.max_object:
        store.put(key, tg_buffer_head(&cache.found), tg_buffer_size(&cache.found), now, &fill)
    return stored


cdef uint32_t asked_by(Exchange exchange, const tg_request *request) noexcept:
    cdef uint32_t asked = 0
    if exchange.method == M_GET:
        asked |= ASKED_BY_GET
    if request.control.flags & CC_NO_STORE:
        asked |= ASKED_NO_STORE
    if request.flags & REQUEST_AUTHORIZED:
        asked |= ASKED_AUTHORIZED
    if request.flags & REQUEST_COOKIE:
        asked |= ASKED_WITH_COOKIE
    return asked


cdef void ask(HttpCache cache, Exchange exchange, Scan *scan, const tg_request *request, const tg_stored *stored,
              const char *why, const unsigned char *primary, const unsigned char *key, together whom) noexcept:
    """`stored`: what is known of the answer; NULL: nothing."""
    cdef bytes flight = (<char *>key)[:32]
    cdef bytes name = None
    cdef uint32_t asked = asked_by(exchange, request)
    cdef uint32_t url
    cdef bint validates = stored != NULL and stored.kind == STORED_ANSWER
    cdef bint shared
    cdef bint waited = exchange.cache == CACHE_COLLAPSED
    cdef int part
    cdef Fill fill
    cdef Fill leader
    if waited and validates:
        whom = OWN_WORKER                     # else one worker after the other would validate it
    shared = (asked & (ASKED_BY_GET | ASKED_NO_STORE | ASKED_AUTHORIZED) == ASKED_BY_GET
              and not (stored != NULL and stored.kind == STORED_PASS)
              and (exchange.pool.protocol == POOL_HTTP or exchange.pool.costs is None))
    if shared and not request.control.flags & CC_NO_CACHE:
        leader = <Fill>cache.flights.get(flight)
        if leader is not None and leader.holds():
            follow(leader, exchange, scan, asked)
            return
    url = url_slot(cache, exchange)
    if (shared and whom != OWN_WORKER and cache.elsewhere is not None
            and not request.control.flags & CC_NO_CACHE and not request.flags & REQUEST_RANGE
            and (validates or not request.flags & REQUEST_CONDITIONAL)):
        name = name_of(cache, exchange, primary, key, url)
        part = cache.elsewhere.join(name)
        if part == FOLLOWS and wait_elsewhere(cache, exchange, scan, primary, name):
            return
        if part != LEADS:
            name = None
        elif whom == ALL_WORKERS and cache.store().contains(key, exchange.client.poller.now):
            cache.elsewhere.end(name, True)   # it came between the look and the claim
            find(cache, exchange, scan, request, primary, ALL_WORKERS_LOOKED)
            return
    exchange.cache = CACHE_MISS
    fill = new_fill(cache, exchange, (<char *>primary)[:32], url, asked, why)
    fill.again = waited
    append_fields(&fill.request, scan, 0)
    if validates:
        tg_buffer_append(&fill.old, tg_buffer_head(&cache.found), tg_buffer_size(&cache.found))
        if asked & ASKED_BY_GET and not asked & ASKED_NO_STORE:
            fill.ours = add_validators(fill, scan)
    # Others can have the answer, unless it will be a part, or one to conditions of its own.
    if shared and not request.flags & REQUEST_RANGE and (fill.ours or not request.flags & REQUEST_CONDITIONAL):
        lead(fill, flight, name)
    elif name is not None:
        cache.elsewhere.end(name, True)
    exchange.begin(scan)


cdef bytes name_of(HttpCache cache, Exchange exchange, const unsigned char *primary, const unsigned char *key,
                   uint32_t url):
    """Of a flight of all workers: one that began before a purge, or a change of the URI, has another name."""
    cdef ResultCache store = cache.store()
    cdef uint32_t slots[OWN_TAGS]
    cdef uint64_t changes = store.changes_of(primary)
    cdef tg_fill fill
    slots[0] = url
    slots[1] = cache.pool_slot(exchange)
    store.begin(&fill, slots, OWN_TAGS)
    return (<char *>key)[:32] + (<char *>fill.tags)[:OWN_TAGS * sizeof(tg_tag)] + (<char *>&changes)[:sizeof(changes)]


cdef bint wait_elsewhere(HttpCache cache, Exchange exchange, const Scan *scan, const unsigned char *primary,
                         bytes name) noexcept:
    """Whether the request waits for another worker. It does not where memory is short."""
    cdef Parked parked = new_parked(cache, exchange, scan, primary)
    if parked is None:
        return False
    cache.elsewhere.wait(name, parked)
    exchange.cache = CACHE_COLLAPSED
    wait_parked(exchange, parked)
    return True


cdef bint add_validators(Fill fill, Scan *scan) noexcept:
    """The request becomes one that validates the stored answer (RFC 9111 section 4.3.1), by its own conditions no more.
    False: the stored answer has no validator."""
    cdef const tg_stored *stored = stored_head(tg_buffer_head(&fill.old), tg_buffer_size(&fill.old))
    cdef tg_validators validators
    cdef const Field *modified = NULL
    cdef Field *field
    cdef int i
    if stored == NULL:
        return False
    stored_validators(&validators, stored)
    stored_scan(&VALIDATED, stored)
    for i in range(VALIDATED.field_count):
        if same_name(VALIDATED.fields[i].name, VALIDATED.fields[i].name_length, b"last-modified"):
            modified = &VALIDATED.fields[i]
    if validators.last_modified < 0:
        modified = NULL
    if validators.etag == NULL and modified == NULL:
        return False
    if scan.field_count + 2 > scan.max_fields:
        return False
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if (same_name(field.name, field.name_length, b"if-none-match")
                or same_name(field.name, field.name_length, b"if-modified-since")):
            field.hop = True
    if validators.etag != NULL:
        scan_field(scan, b"If-None-Match", 13, validators.etag, validators.etag_length)
    if modified != NULL:
        scan_field(scan, b"If-Modified-Since", 17, modified.value, modified.value_length)
    return True


cdef void refresh(HttpCache cache, Exchange exchange, Scan *scan, const tg_stored *stored,
                  const unsigned char *primary, const unsigned char *key) noexcept:
    """Has the answer made anew, without anybody who waits for it, unless that is under way. The request's head is
    changed by it."""
    cdef bytes flight = (<char *>key)[:32]
    cdef bytes name = None
    cdef uint32_t url
    cdef Exchange made
    cdef Attempt attempt
    cdef Fill fill, leader
    cdef int i, part
    leader = <Fill>cache.flights.get(flight)
    if exchange.head_method or leader is not None and leader.holds():
        return
    url = url_slot(cache, exchange)
    if cache.elsewhere is not None:
        name = name_of(cache, exchange, primary, key, url)
        part = cache.elsewhere.claim(name)
        if part == FOLLOWS:
            return
        if part == LEADS and cache.store().contains(key, exchange.client.poller.now):
            cache.elsewhere.end(name, True)   # another worker has just done it
            return
        if part != LEADS:
            name = None
    if exchange.pool.protocol == POOL_HTTP:
        attempt = Http1Attempt.__new__(Http1Attempt)
    else:
        attempt = Http2Attempt.__new__(Http2Attempt)
    made = Exchange.__new__(Exchange)
    made.client = exchange.client
    made.listener = exchange.listener
    made.route = exchange.route
    made.pool = exchange.pool
    made.kept = exchange.kept
    made.attempt = attempt
    attempt.owner = made
    made.started = exchange.client.poller.now
    made.retries_left = exchange.retries_left
    made.version = exchange.version
    made.method = exchange.method
    made.cache = CACHE_REFRESHED
    made.key = exchange.key                   # one of the request as it came
    fill = new_fill(cache, made, (<char *>primary)[:32], url, ASKED_BY_GET, b"stale")
    append_fields(&fill.request, scan, 0)
    tg_buffer_append(&fill.old, <const char *>stored, tg_buffer_size(&cache.found))
    fill.real = fill.behind = None
    lead(fill, flight, name)
    if exchange.recorded():
        tg_buffer_append(&made.target, tg_buffer_head(&exchange.target), tg_buffer_size(&exchange.target))
        made.host_length = exchange.host_length
        made.agent_length = exchange.agent_length
        made.method_length = exchange.method_length
        made.origin_length = exchange.origin_length
        made.identity_length = exchange.identity_length
    if made.route.timeout:
        made.expires = made.started + made.route.timeout
        made.client.poller.arm(made, made.expires)
    for i in range(scan.field_count):
        if same_name(scan.fields[i].name, scan.fields[i].name_length, b"range") or same_name(
                scan.fields[i].name, scan.fields[i].name_length, b"if-range"):
            scan.fields[i].hop = True
    fill.ours = add_validators(fill, scan)
    made.begin(scan)
    if made.state != X_DONE and not made.request_complete:
        made.take_body(NULL, 0, 0, True)
