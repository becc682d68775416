"""The result cache before an inference, and the single flight: of identical misses the first asks, the others wait.

The first of a worker takes part in the flights of all workers (lb.cache.shared_flights). If another worker asks, all of
this worker's exchanges with that request follow, and get what the other has put into the store.

What is not in memory may be in the cache tier (lb.proxy.exchange.tiered): the first asks that before an endpoint.

Answers are kept, and shared, as the gRPC message of the model server without the id of its request, whatever protocol
the clients speak. What a client gets is made of that by its body source.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from lb.cache.flight cimport Flights
from lb.cache.layout cimport tg_fill, tg_found
from lb.cache.shared_flights cimport SharedFlights
from lb.cache.store cimport ResultCache
from lb.cache.rules cimport CacheRule
from lb.http.head cimport Scan
from lb.inference.request cimport InferRequest
from lb.inference.rows cimport Rows
from lb.inference.template cimport Template
from lb.net.buffer cimport tg_buffer
from lb.net.poller cimport Source
from lb.net.stream cimport iovec
from lb.net.wakeups cimport Wakeups
from lb.proxy.exchange.exchange cimport BodySource, Exchange
from lb.proxy.exchange.tiered cimport TierQuestion, WorkerTier
from lb.proxy.routing.route cimport Route
from lb.shared.segment cimport Segment
from lb.upstream.connections.grpc_call cimport GrpcCall
from lb.upstream.pool cimport Pool


cdef enum:
    OWN_TAGS = 3                      # of an answer: its pool, its model, the version


cdef class AnswerTags:
    """The tags of the answers of a model (lb.cache.tags)."""
    cdef uint32_t slots[OWN_TAGS]
    cdef tuple names                  # of the tags, as bytes
    cdef bytes line                   # what AnswerCache.tags_header says of them; b"" where there is none


cdef class AnswerCache(Source):
    """What the exchanges of a worker share."""
    cdef Segment segment
    cdef Wakeups wakeups
    cdef ResultCache store            # None = there was no result cache yet
    cdef bint on                      # new exchanges ask it; those that have begun finish with it after a reload
    cdef WorkerTier tier              # None: there is none
    cdef WorkerTier next_tier         # of the plan that is being prepared
    cdef Flights flights
    cdef dict tags                    # (pool, model, version) -> AnswerTags; good as long as segment and plan
    cdef bytes tags_header            # "Cache-Tag: ", of answers; b"" = they do not have their tags
    cdef bytes separator              # of the tags in it
    cdef SharedFlights shared         # None: there are no other workers, or there was no result cache yet
    cdef tg_buffer message            # on its way into, or out of, the store
    cdef int refreshing               # calls under way that make answers anew
    cdef size_t refreshing_bytes      # of their requests


cdef class CachedBody(BodySource):
    """The body of a request whose answer may be in the cache."""
    cdef AnswerCache answers
    cdef bytes digest                 # the key in the cache, None = not cached; with rows, of the flight alone
    cdef bytes asked_model            # whose answer that is
    cdef bytes asked_version          # b"" = not said
    cdef bytes flight                 # the digest and the generations of the tags: a purge begins another flight
    cdef tg_fill fill                 # what goes into the cache with the answer
    cdef bytes client_tags            # the request's Cache-Tag, where the route takes it; None = none
    cdef int64_t ttl                  # of the answer from the cache, s; below 0: since it was fresh
    cdef uint64_t age                 # of the answer from the cache, s
    cdef bint failed                  # its endpoints have failed, which it does not tell twice
    cdef Rows rows                    # of a batch that is cached row by row
    cdef bint partial                 # some of its rows were in the cache
    cdef tg_fill looked_up            # the generations from before that
    cdef bytes variant                # what the request's head adds to the key; None = nothing
    cdef bytes tenant                 # whose answer that is; None = all share
    cdef unsigned char control        # what the client says of the cache: CONTROL_… of lb.proxy.routing.cache_key
    cdef bint refills                 # it asks for an answer that is made anew
    cdef bint leading                 # others wait for this exchange's answer
    cdef bint following
    cdef bint again                   # it has waited for an answer that did not come
    cdef bint kept                    # the answer went into the cache
    cdef AnswerQuestion question_of_tier    # the last one; None: none was asked
    cdef bint from_tier               # the answer was there
    cdef bytes token                  # of the result that is asked for by GET; None = it is an inference

    # The answer, from the cache or of another exchange, unless the exchange is over: a message of the model server.
    cdef void deliver(self, Exchange exchange, const char *message, size_t size) noexcept
    # The model server is to get this request in place of the client's: rows of it. False: the client's goes as it came.
    cdef bint send(self, Exchange exchange, InferRequest request) noexcept
    # Appends the request, a message for the model server. False: out of memory, or it cannot be had.
    cdef bint copy_request(self, Exchange exchange, tg_buffer *into) noexcept
    # The key of the request under another secret of 32 bytes, as `make_key` makes it. 0, or -1: it cannot be had.
    cdef int digest_under(self, Exchange exchange, const unsigned char *secret, unsigned char *key) noexcept
    # The answer is an error, that of another exchange.
    cdef void refuse(self, Exchange exchange, int grpc_status, str message) noexcept


cdef class AnswerQuestion(TierQuestion):
    """For an exchange that waits, and those that wait with it."""
    cdef Exchange exchange            # None: it does not wait any more


cdef class RefreshQuestion(TierQuestion):
    """Another daemon may have made the answer anew."""
    cdef RefreshCall call             # None: it has been told


cdef class RefreshCall(GrpcCall):
    """Makes an answer anew in the background: one attempt, for which no client waits."""
    cdef AnswerCache answers
    cdef Route route
    cdef bytes digest
    cdef CacheRule rule               # of its model
    cdef tg_fill fill
    cdef uint64_t late                # ns since the answer was fresh, at the start
    cdef uint64_t left                # ns that it was fresh yet, then
    cdef tg_buffer request
    cdef iovec part
    cdef TierQuestion question        # None: none was asked
    # What the selection of an endpoint goes by.
    cdef Pool asked_pool
    cdef bytes model
    cdef uint64_t key
    cdef uint64_t limit               # ns that the endpoint may take
    cdef int price

    # It takes no place among those under way any more.
    cdef void leave(self) noexcept
    # Once: counts it, and gives back what it took.
    cdef void ended(self, int status, int code, bint answered, int verdict) noexcept
    # What is there is used on; the next one comes after a pause.
    cdef void put_off(self, bint failed) noexcept


# Notes what the request's head says of the cache, where the route wants to know.
cdef void read_cache_fields(CachedBody body, Exchange exchange, const Scan *scan) noexcept
# The times of an answer of the cache, for what the client is told.
cdef void note_found(CachedBody body, Exchange exchange, const tg_found *found) noexcept
# The tags of its answer in a pool. None where memory is short.
cdef AnswerTags tags_of(CachedBody body, Pool pool)
# None: answers of the model are not kept.
cdef CacheRule rule_of(Pool pool, bytes model)
# Answers from the cache, waits for who asks already, or asks an endpoint.
cdef void through_cache(CachedBody body, Exchange exchange, InferRequest request) noexcept
# The same of a request whose digest, model and version are known.
cdef void through_cache_by_digest(CachedBody body, Exchange exchange) noexcept
# Whether a batch may be taken row by row: where only the question decides the key.
cdef bint looks_up_rows(CachedBody body) noexcept
# The key of a request, or of its rows together. 0, or -1 when hashing failed.
cdef int make_key(CachedBody body, Exchange exchange, Template template, const iovec *tensors,
                  unsigned char *key) noexcept
# What RFC 9211 says of the cache, for the head of an answer, and how old an answer of it is.
cdef int append_cache_status(CachedBody body, Exchange exchange, tg_buffer *head) noexcept
# The answer to all of the request, by the model server's to what it was asked. NULL: they do not go together, and the
# exchange is at another attempt, for all of it.
cdef const tg_buffer *combined(CachedBody body, Exchange exchange, const tg_buffer *reply) noexcept
# Put the answer into the cache, without the id of the request it answered.
cdef void store(CachedBody body, Exchange exchange, const tg_buffer *reply) noexcept
# An error of the request's own, where errors are kept.
cdef void store_error(CachedBody body, Exchange exchange, int grpc_status, const char *message, size_t n) noexcept
# Whether an error is the request's own fault: everybody who asks the same gets it.
cdef bint is_own_fault(int grpc_status) noexcept
# The leader's answer is here: the followers get it too.
cdef void land(CachedBody body, const char *message, size_t size) noexcept
# The leader's answer cannot be shared: the followers ask for themselves, all at once.
cdef void scatter(CachedBody body) noexcept
# No answer to share. An error that is the request's own fault is everybody's. Else the first of them asks for all; if
# that fails, too, all ask at once: they do not wait for one failure after the other.
cdef void release_followers(CachedBody body, int grpc_status, str message) noexcept
# It waits for nobody any more, and nobody for it.
cdef void leave_flight(CachedBody body, Exchange exchange) noexcept
