"""Keys of a request as it came: those of pools and rate limits by path, URI or text. They are found before the route
changes path and headers, so that they do not depend on where else it leads."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.text_key cimport TextKey

# The text of a key for the request, good until the next one of any key. False: it counts as one without a key.
cdef bint find_text(Exchange exchange, const Scan *scan, TextKey key, const char **text, size_t *n) noexcept
# Finds `exchange.key` by the pool's key, which is KEY_PATH, KEY_URI or KEY_TEXT; that of a request without it is its
# source's.
cdef void find_request_key(Exchange exchange, const Scan *scan) noexcept
# Exchange.admit, by the key of the route's limit. False: answered with 429.
cdef bint within_rate(Exchange exchange, Scan *scan) noexcept
# The bucket that this has taken a token from.
cdef uint64_t rate_bucket(Exchange exchange, const Scan *scan) noexcept
