"""Conditions of a route besides host, path and method: headers, query, cookies, source, gRPC, model, maps, and groups
of conditions, which may be about host, path and method, too."""

from libc.stdint cimport uint64_t
from libc.string cimport memchr
from lb.http.head cimport Scan
from lb.http.regex cimport Regex
from lb.net.source_key cimport tg_prefixes
from lb.proxy.routing.stick cimport Comparison
from lb.proxy.routing.values.format cimport Format, RequestValues, tg_values
from lb.proxy.routing.values.lookup cimport Lookup


cdef enum:                            # what a condition is about
    WHAT_HEADER = 0
    WHAT_QUERY
    WHAT_COOKIE
    WHAT_SOURCE
    WHAT_GRPC
    WHAT_MODEL
    WHAT_HOST
    WHAT_PATH
    WHAT_METHOD
    WHAT_MAP
    WHAT_TABLE
    WHAT_ANY                          # one of several groups


cdef struct tg_facts:                 # what of a request routes look at
    const Scan *scan
    const char *host                  # without port
    size_t host_length
    const char *path                  # without query
    size_t path_length
    const char *query                 # behind the "?"; NULL = none
    size_t query_length
    int method                        # llhttp's number, or M_OTHER
    const char *ip                    # text of the client's address
    size_t ip_length                  # 0 = it has none (a Unix socket)
    # Inner state: the address as 16 bytes, IPv4 as ::ffff:a.b.c.d; made when the first condition asks.
    unsigned char address[16]
    bint mapped                       # it is of IPv4
    int address_state                 # 0 not looked at, 1 there, -1 none


cdef class Condition:
    cdef int what
    cdef int how
    cdef bint invert
    cdef bytes name
    cdef bytes value
    cdef Regex regex
    cdef bytes networks               # 17 bytes each: address and number of bits
    cdef Lookup lookup                # of texts, one of which it has to be
    cdef frozenset methods            # names
    cdef Format text                  # of a map: its value; of a table: its key
    cdef Comparison comparison        # of a table
    cdef RequestValues wanted         # what that asks for
    cdef tuple groups                 # of tuples of Condition

    cdef bint holds(self, tg_facts *facts) noexcept
    cdef bint found(self, tg_facts *facts) noexcept
    cdef bint holds_more(self, tg_facts *facts) noexcept
    cdef bint accepts(self, const char *text, size_t n) noexcept
    cdef bint in_networks(self, tg_facts *facts) noexcept


# Facts of a request head whose target is in origin form. `ip` is the text of the client's address, `method` llhttp's
# number.
cdef inline void facts_of(tg_facts *facts, const Scan *scan, const char *host, size_t host_length, int method,
                          const char *ip, size_t ip_length) noexcept nogil:
    cdef const char *query = NULL
    if scan.target_length:
        query = <const char *>memchr(scan.target, 63, scan.target_length)
    facts.scan = scan
    facts.host = host
    facts.host_length = host_length
    facts.path = scan.target
    facts.path_length = scan.target_length
    facts.query = NULL
    facts.query_length = 0
    if query != NULL:
        facts.path_length = <size_t>(query - scan.target)
        facts.query = query + 1
        facts.query_length = scan.target_length - facts.path_length - 1
    facts.method = method
    facts.ip = ip
    facts.ip_length = ip_length
    facts.address_state = 0


# What of the values that texts of `wanted` ask for is known when a route is looked for (lb.config.values.EARLY).
cdef void gather_facts(tg_values *values, const tg_facts *facts, RequestValues wanted) noexcept
# The key by which like requests are kept together (enum of lb.upstream.pool). False: the request has none.
cdef bint key_of(const tg_facts *facts, int kind, bytes name, const tg_prefixes *prefixes, uint64_t *key) noexcept
