"""Routes: what becomes of a request. `RouteTable.find` gives the most particular one that matches, which
docs/howto/routing.md explains."""

from libc.stdint cimport int64_t, uint64_t
from lb.cache.rules cimport CacheRule
from lb.shared.segment cimport Segment
from lb.proxy.access.guard cimport Guard
from lb.proxy.routing.textmap cimport TextMap
from lb.proxy.routing.cache_key cimport CacheKeyRule
from lb.proxy.routing.bandwidth cimport Bandwidth
from lb.proxy.routing.compression cimport CompressionRules
from lb.proxy.routing.decompression cimport DecompressionRules
from lb.proxy.routing.conditions cimport tg_facts
from lb.proxy.routing.cors cimport Cors
from lb.proxy.routing.error_pages cimport ErrorPages
from lb.proxy.routing.headers.fields cimport FieldRules
from lb.proxy.exchange.hedge cimport HedgePolicy
from lb.proxy.exchange.http_cache.rules cimport HttpCacheRules
from lb.proxy.exchange.mirror.mirror cimport Mirror
from lb.proxy.routing.rate cimport RateLimit
from lb.proxy.exchange.retry cimport RetryPolicy
from lb.proxy.routing.response_rewrite cimport ResponseRewrite
from lb.proxy.routing.rewrite cimport Rewrite
from lb.proxy.routing.split cimport Split
from lb.proxy.routing.stick cimport Tracking
from lb.proxy.routing.values.format cimport Format, RequestValues
from lb.upstream.pool cimport Pool


cdef class Answer:
    """An answer that a route gives itself: a redirect, or a fixed one."""
    cdef readonly int status
    cdef readonly bint redirect
    cdef bytes head                   # "Name: value\r\n" lines, where `fields` has none with values
    cdef FieldRules fields            # None: no line has a value
    cdef bytes body
    cdef Format body_format           # of the body; None: it has no value
    cdef Format host_format           # of a redirect's host, likewise
    cdef Format location              # of a whole redirect; None: it is made of scheme, host, path and query
    cdef uint64_t kinds               # values of the request that it asks for
    cdef bytes scheme                 # of a redirect; b"" = the request's own
    cdef bytes host
    cdef bint drop_query

    cdef Format format(self, str text, str encoding, maps)


cdef class Route:
    cdef readonly str name
    cdef readonly Pool pool           # None: it answers itself, or splits
    cdef uint64_t *series             # this worker's words
    cdef readonly unsigned int series_index
    cdef readonly Segment segment
    cdef readonly bint cache
    cdef CacheRule freshness          # of its answers; None = as their pool says
    cdef readonly bint client_tags
    cdef readonly bint results_by_get  # answers of inferences have URLs
    cdef CacheKeyRule cache_key       # None = what requests ask for is all
    cdef readonly uint64_t timeout
    cdef readonly int64_t response_timeout   # -1 = the pool's, 0 = none
    cdef readonly uint64_t max_body
    cdef readonly int64_t max_in_flight      # 0 = no limit
    cdef readonly int priority               # in its pool's queue: 0 goes first
    cdef readonly bint expose_endpoint
    cdef readonly Guard guard         # who may ask; None = anybody, and nothing is said of who it is
    cdef readonly RateLimit rate      # None = as often as they like
    cdef readonly tuple quotas        # of Quota; None = as much as they like
    cdef readonly Tracking tracking   # None = it has nothing to do with stick tables
    cdef readonly uint64_t methods    # set of llhttp methods, and M_OTHER where there are others; 0 = any
    cdef readonly frozenset other_methods  # names, as bytes
    cdef readonly tuple conditions    # of Condition; None = none
    cdef readonly tuple host_place    # where a table puts it
    cdef readonly tuple path_places
    cdef readonly str path_kind       # of RoutePlan
    cdef readonly bint by_model       # its requests are about certain models
    # What it does; None = nothing of that kind.
    cdef readonly Answer answer
    cdef readonly Split split
    cdef readonly Mirror mirror
    cdef readonly Rewrite rewrite
    cdef readonly FieldRules request_fields
    cdef readonly FieldRules response_fields
    cdef readonly ResponseRewrite response_rewrite
    cdef readonly CompressionRules compression
    cdef readonly DecompressionRules decompression
    cdef readonly Bandwidth bandwidth  # None = answers go as fast as clients take them
    cdef readonly ErrorPages error_pages  # before those of the listener
    cdef readonly RetryPolicy retry
    cdef readonly HedgePolicy hedge
    cdef readonly HttpCacheRules http_cache  # None: no answers are kept by the rules of HTTP
    cdef readonly bint idempotent     # whatever the method
    cdef readonly bint idempotency_key  # likewise where a request has an Idempotency-Key
    cdef readonly bint bare_streams   # streams of inferences are answered as by MLServer
    cdef readonly int server_calls    # that clients may make: a set of lb.inference.server_calls.Kind
    cdef readonly Cors cors           # None = nothing is said of other origins
    cdef readonly bytes new_host
    cdef readonly Format log_format   # JSON: the route's own fields in the access log
    cdef readonly RequestValues values  # that its texts ask for; None: they have none
    # What most routes have nothing of, said once, so that a request does not ask for each part of it.
    cdef readonly bint acts           # there is something for lb.proxy.routing.actions.admit to do
    cdef readonly bint holds_answers  # a client in front of the client keeps parts of answers for later
    cdef readonly bint timed          # it has waits of its own
    # It says nothing of retries, or of hedges: it has those that its pool shares (HedgeTools.of_pool).
    cdef bint safe_retries
    cdef bint safe_hedges

    cdef bint holds(self, tg_facts *facts) noexcept
    cdef set method_names(self)       # as bytes
    # Whether a set of methods, which the route has, has the request's.
    cdef bint takes_method(self, const tg_facts *facts) noexcept
    cdef bint uses_only(self, set pools)
    # Routes of one form (lb.config.plan.wire) share what they do: one that `lends` is what others are made `like`.
    cdef bint lends(self)
    cdef Route like(self, str name, unsigned int series, Pool pool, str host, str path, tools)
    cdef int share(self, tools) except -1
    # The pool that is to answer: the only one, or the one that the split chooses.
    cdef Pool choose(self, tg_facts *facts)
    # Whether another exchange, which has been counted already, is one too many.
    cdef bint full(self) noexcept


cdef class RouteTable:
    cdef TextMap hosts
    cdef TextMap suffixes             # ".example.org" of "*.example.org"
    cdef tuple host_regexes
    cdef tuple host_regex_numbers
    cdef int any_host
    cdef tuple indices                # by number of the host: its PathIndex
    cdef tuple leaves                 # by number of the host: by number of the pattern: its routes, in order
    cdef readonly Py_ssize_t size
    cdef bint cors                    # one of the routes has it
    cdef bint by_model                # likewise
    # headers that routes look at, set or remove: as lb.proxy.routing.headers.aliases keeps names
    cdef readonly dict guarded
    cdef set refused                  # while `allowed` looks: the methods of routes that are left out for theirs

    # The route of a request, or None; then *other_method says that only the method was wrong.
    cdef Route find(self, tg_facts *facts, bint *other_method)
    # What the Allow field of an answer 405 says (RFC 9110 section 10.2.1): the methods of all routes that would take
    # the request, which `find` has not found one for, with another method.
    cdef bytes allowed(self, tg_facts *facts)
    # As `find` for a request whose model is known from its body (gRPC): as if its path were /v2/models/MODEL/infer.
    cdef Route find_model(self, tg_facts *facts, const char *model, size_t n, bint *other_method)
    cdef Route within(self, int host, tg_facts *facts, bint *other_method)
    cdef Route first(self, tuple routes, tg_facts *facts, bint *other_method)
