"""A request before its endpoint is asked: what the HTTP cache has for it."""

from lb.http.head cimport Scan
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.http_cache.fill cimport HttpCache

# Instead of `Exchange.begin`, on a route that has `http_cache`.
cdef void through_http_cache(HttpCache cache, Exchange exchange, Scan *scan) noexcept
