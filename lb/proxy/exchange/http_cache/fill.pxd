"""An answer on its way from an endpoint to a client, and into the cache; and the requests that wait for it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from lb.cache.layout cimport tg_fill
from lb.cache.store cimport ResultCache
from lb.http.caching.answers cimport tg_answer
from lb.http.caching.conditions cimport tg_part
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport BodySource, Exchange
from lb.proxy.exchange.http_cache.elsewhere cimport Elsewhere
from lb.proxy.exchange.http_cache.rules cimport HttpCacheRules
from lb.proxy.exchange.http_cache.stored cimport tg_stored
from lb.proxy.exchange.inference_body cimport InferContext


cdef enum:
    FILL_ASKED = 0                    # the endpoint's answer has not begun
    FILL_STORING                      # it has; it goes to the clients, and is kept for the cache
    FILL_PASSING                      # it goes to the client alone
    FILL_GIVEN                        # the client has another one; what still comes is thrown away
    FILL_OVER


cdef class HttpCache:
    """What the exchanges of a worker share for HTTP caching."""
    cdef InferContext context         # which has the cache
    cdef dict flights                 # key -> the Fill whose answer others wait for
    cdef Elsewhere elsewhere          # the flights of all workers; None: there are no others, or no cache yet
    cdef object disk                  # lb.cache.disk.disk.Disk; None: there is none
    cdef size_t disk_object           # bytes of the largest object that it keeps
    cdef dict parked                  # key -> list of lookup.Parked: requests that wait for what the disk has
    cdef dict pool_slots              # name of a pool -> the slot of its tag
    cdef size_t made                  # bytes of the objects that are being made, all together
    cdef tg_buffer found              # an object out of the cache
    cdef tg_buffer note               # likewise, while `found` is in use
    cdef tg_buffer text               # what a key is the digest of
    cdef tg_buffer uri                # of a request: scheme, host and target, a zero byte between

    # None: there is no cache, or a reload has taken it away.
    cdef ResultCache store(self)
    # The slot of the tag of the exchange's pool; there is a store.
    cdef uint32_t pool_slot(self, Exchange exchange) noexcept
    # The largest object that is kept, in memory or on disk.
    cdef size_t max_object(self) noexcept
    # To disk, if there is one: behind what memory has, or in its place.
    cdef void write(self, const unsigned char *key, const tg_buffer *object, const tg_fill *fill, uint64_t now) noexcept
    # The key of a variant of `primary`: by what the request says in the fields that `names` has. -1: out of memory.
    cdef int variant_key(self, unsigned char *key, Exchange exchange, const unsigned char *primary, uint64_t nonce,
                         const char *names, size_t n, const Scan *asked) noexcept
    # The URI of the request's scheme and host has changed: what is stored of it, or is being made, is not used.
    cdef void invalidate(self, Exchange exchange, bytes primary) noexcept


cdef class Waiting(BodySource):
    """Of a request that waits for another's answer."""
    cdef HttpCache cache
    cdef Fill fill                    # None: it does not wait any more
    cdef tg_buffer request            # the fields of its head, as lines
    cdef uint32_t asked               # ASKED_… of lb.http.caching.answers
    cdef uint32_t url                 # slot of the tag of its URL
    cdef bint streaming               # its answer has begun


cdef class Fill(Client):
    """Stands in the place of the client of an exchange that asks an endpoint."""
    cdef HttpCache cache
    cdef HttpCacheRules rules
    cdef Exchange exchange            # None: it is over
    cdef Client real                  # None: nobody waits for the answer but the cache, and `waiting`
    cdef Client behind                # that client, until it has left: it may still have to give what it was given
    cdef unsigned char state          # FILL_…
    cdef bint unsafe                  # its method changes what the URI names
    cdef bint ours                    # the request has our validators, of `old`
    cdef bint left                    # the client left before it had its answer
    cdef bint skipped                 # the answer is not stored, although it may be
    cdef bint dead                    # it is given up
    cdef bint again                   # it has waited for an answer that did not come, or was for others
    cdef uint32_t asked               # ASKED_… of lb.http.caching.answers
    cdef uint32_t url                 # slot of the tag of its URL
    cdef const char *why              # what Cache-Status says of why the endpoint was asked
    cdef bytes primary                # key of the URI
    cdef bytes flight                 # key in `flights`; None: nobody waits for it
    cdef bytes name                   # of the flight of all workers that it leads; None: it leads none
    cdef tg_buffer request            # the fields of the request's head, as lines
    cdef tg_buffer uri                # of a request that is unsafe: scheme, host and target as in the key
    cdef tg_buffer old                # a stale object that is to be validated, or given in the place of an error
    cdef tg_buffer object             # what is being stored
    cdef tg_buffer vary               # names of its variants
    cdef tg_fill fill
    cdef uint64_t nonce               # of its variants
    cdef uint64_t purges              # of the cache when it began
    cdef uint32_t changes             # of the URI, likewise
    cdef uint64_t asked_at            # monotonic ns
    cdef uint64_t expected            # bytes of the body; UINT64_MAX: not known
    cdef size_t made                  # bytes of `object` that count in the cache's `made`
    cdef dict waiting                 # exchange -> its source, a Waiting; in the order they came

    cdef size_t limit(self) noexcept
    # Whether a request that comes now may have what it brings: nothing of it was purged, or changed, since it asked.
    cdef bint holds(self) noexcept
    cdef bint changed(self, ResultCache store) noexcept
    cdef bint is_awaited(self) noexcept
    cdef void take_answer(self, Scan *scan, const tg_buffer *extra, bint last, int status) noexcept
    cdef void pass_head(self, Scan *scan, const tg_buffer *extra, bint last, bint stored, int status) noexcept
    cdef void validated(self, Scan *scan) noexcept
    cdef void note_pass(self) noexcept
    cdef bint is_vain(self) noexcept
    cdef bint give_old(self, int status) noexcept
    # Gives the client the stored answer, and is done with it.
    cdef void give(self, const tg_stored *stored, const char *said, bint aged) noexcept
    cdef bint begin_storing(self, Scan *scan, tg_answer *answer) noexcept
    # So many bytes more of the object. False: it is too large, or all of them are.
    cdef bint grow(self, size_t size) noexcept
    cdef void drop_object(self) noexcept
    # Into the cache, unless something has made it worthless meanwhile.
    cdef void keep(self) noexcept
    cdef void keep_under(self, uint64_t lasts) noexcept
    # Other workers need not wait for it any more. `shared`: they look for the answer in the cache, and if it is not
    # there one of them asks for all. Else each asks for itself.
    cdef void land(self, bint shared) noexcept
    cdef void forget(self) noexcept
    # No answer that others can have: each of those who wait asks for itself, at once or after the first of them.
    cdef void release_all(self, bint at_once) noexcept
    cdef void answer_all(self, const tg_stored *stored, const char *said, bint aged) noexcept
    # One that waits gets what has come, and the rest as it comes, if it is known how long that is.
    cdef void stream_to(self, Exchange exchange) noexcept
    cdef void leave(self, Exchange exchange) noexcept
    cdef void give_up_if_vain(self) noexcept
    cdef void over(self) noexcept


# The fill of an exchange, in the place of its client from now on.
cdef Fill new_fill(HttpCache cache, Exchange exchange, bytes primary, uint32_t url, uint32_t asked, const char *why)
# The exchange waits for the answer of `leader`. Its request's head is in `scan`.
cdef void follow(Fill leader, Exchange exchange, Scan *scan, uint32_t asked) noexcept
# Others may wait for its answer, under this key. `name`: of the flight of all workers that it leads, or None.
cdef void lead(Fill fill, bytes key, bytes name) noexcept
# Field lines as a scan has them; they point into the buffer.
cdef void lines_scan(Scan *into, const tg_buffer *lines) noexcept nogil
# The slot of the tag of a URL (lb.cache.tags.of_url), of the URI in `cache.uri`.
cdef uint32_t url_slot(HttpCache cache, Exchange exchange) noexcept
# The key of a URI, given as scheme, host and target with a zero byte between. -1: out of memory.
cdef int uri_key(unsigned char *key, HttpCache cache, Exchange exchange, const char *uri, size_t n,
                 const Scan *asked) noexcept
