"""Texts with values of the request, compiled once: a text costs its parts, and allocates nothing."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.http.regex cimport REGEX_GROUPS, Regex, tg_piece
from lb.net.buffer cimport tg_buffer
from lb.proxy.routing.values.lookup cimport Lookup


cdef enum:                            # in the order of lb.config.values.KNOWN
    V_CLIENT_ADDRESS = 0
    V_CLIENT_PORT
    V_METHOD
    V_SCHEME
    V_HOST
    V_PATH
    V_QUERY_STRING
    V_URI
    V_PROTOCOL
    V_REQUEST_ID
    V_TLS_VERSION
    V_TLS_CIPHER
    V_TLS_SNI
    V_TLS_ALPN
    V_TLS_SUBJECT
    V_TLS_ISSUER
    V_TLS_COMMON_NAME
    V_TLS_FINGERPRINT
    V_LISTENER
    V_ROUTE
    V_POOL
    V_IDENTITY
    V_ENDPOINT                        # late: known once an endpoint answers
    V_ERROR_STATUS                    # of an error page: the status of the error, as a number
    V_ERROR_MESSAGE
    V_KNOWN                           # how many there are; then those of FAMILIES
    V_HEADER = 25
    V_COOKIE
    V_PARAMETER
    V_CAPTURE
    V_MAP
    V_TABLE
    V_LITERAL

cdef enum:
    FORMAT_NO_MEMORY = -1
    FORMAT_TOO_LONG = -2              # more than FORMAT_LIMIT bytes
    FORMAT_REFUSED = -3               # a value would change what the text means: see Format.append

cdef enum:
    FORMAT_LIMIT = 16384              # bytes of one text


cdef struct tg_text:
    const char *at                    # NULL: the request has none
    size_t n


cdef struct tg_values:
    # What one request offers. `known` is filled in for the kinds that its route asks for (gather.pxd).
    const Scan *scan
    tg_text known[25]
    const char *captured              # the path that `pieces` are parts of
    tg_piece pieces[REGEX_GROUPS]
    char port[8]


cdef struct tg_part:
    int kind                          # V_…
    int encoding
    const char *text                  # literal, or the argument of a family
    size_t n
    int number                        # of a capture, or of a table's field
    const tg_part *otherwise          # of the Format of its default, which `nested` keeps; NULL = none
    int otherwise_count
    const tg_part *key                # of a map or table: those of its key, likewise
    int key_count
    void *lookup                      # the Lookup of a map, or the StickTable, which `lookups` keeps


cdef class Format:
    cdef tg_part *parts
    cdef int count
    cdef tuple texts                  # that parts point into
    cdef tuple nested
    cdef tuple lookups
    cdef readonly uint64_t kinds      # set of V_… that it asks for, defaults included

    # Appends the text of a request. 0, or FORMAT_…. A value that is not there, or empty, gives its default or nothing.
    # FORMAT_REFUSED: in a host, a value with what no host has, or none without a default; in a path, one with a slash
    # or a backslash that does not come from the request's own path. A late value is written as a mark (`expand`).
    cdef int append(self, tg_buffer *out, const tg_values *values) noexcept


# What a value is: `text` as it is, which may be NULL, or that of a name, which keeps its UTF-8 for as long as it lives.
cdef void set_value(tg_text *into, const char *text) noexcept nogil
cdef void set_name(tg_text *into, str text) noexcept
# As `request.protocol` says it; `version` is of HTTP, times ten.
cdef const char *protocol_name(int version) noexcept nogil
# How many late values a text has.
cdef size_t marks_in(const char *text, size_t n) noexcept nogil
# Copies `text` behind `out`, which has room, with the endpoint's address in place of marks. Gives the end.
cdef char *expand(char *out, const char *text, size_t n, const char *endpoint, size_t endpoint_length) noexcept nogil


cdef class RequestValues:
    """What a route's texts ask of its requests."""
    cdef readonly uint64_t kinds      # V_…
    cdef Regex regex                  # of the route's path; None = it has none
    cdef bytes template               # Template.key of the route's path; None likewise

    # The captures of `path`.
    cdef void capture(self, tg_values *values, const char *path, size_t n) noexcept
