"""What a CDN needs to keep answers of inferences: a URL for each, which GET reads, and their tags.

The URL of a result is results/TOKEN beside the path of its inference. A token is the answer's key in the cache, hidden
behind a hash under the secret of the pool's keys. The hash is over the model and the version, as the path has them, and
over what the route's key goes by (headers, tenant). So a token finds its answer under its own path alone, for the same
headers and tenant, and nobody can make one who has not been given it.
"""

from lb.cache.layout cimport tg_found
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.proxy.exchange.cached cimport CachedBody
from lb.proxy.exchange.exchange cimport Exchange
from lb.upstream.pool cimport Pool

cdef enum:
    ETAG = 20                         # characters


cdef class ResultQuery:
    """What the head of a GET or HEAD says besides the path."""
    cdef bytes known                  # If-None-Match, None = not said
    cdef bint authorized              # it has credentials
    # Of the answer, once it is found.
    cdef Pool pool
    cdef char etag[ETAG]
    cdef bint more_tags               # it has tags that only the cache knows


# None: memory is short.
cdef ResultQuery read_query(const Scan *scan)
# Appends the answer that body.token stands for. False: there is none, it is no longer fresh, or it is somebody else's.
cdef bint find_result(CachedBody body, Exchange exchange, ResultQuery query, tg_buffer *message,
                      tg_found *found) noexcept
# Whether the client has it.
cdef bint is_known(ResultQuery query) noexcept
# How long it may be kept, and by whom.
cdef void append_result_fields(CachedBody body, Exchange exchange, ResultQuery query, tg_buffer *head) noexcept
# The URL of the answer to an inference, where the route gives one and the answer is in the cache.
cdef void append_location(CachedBody body, Exchange exchange, tg_buffer *head) noexcept
# The tags of an answer from a pool, where answers have them.
cdef void append_tags(CachedBody body, Pool pool, tg_buffer *head) noexcept
