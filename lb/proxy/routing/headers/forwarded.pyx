"""What the next hop is told of where a request came from: see forwarded.pxd.

    X-Forwarded-For, -Proto, -Host, -Port   the de facto fields; `append` keeps what came in front of ours
    Forwarded                               the same in one field (RFC 7239), when it is asked for
    Via                                     which hops the message passed (RFC 9110 section 7.6.3)
    X-Request-Id                            one name for the request in everybody's log
    traceparent                             our span as the parent of the next (W3C Trace Context)

Where trusted proxies are configured, what anybody else sends in these fields is dropped: it would be a client's own
word about itself.
"""

from typing import TYPE_CHECKING

cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, strlen
from lb.net.buffer cimport (
    tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_reserve, tg_buffer_size, tg_buffer_tail,
)
from lb.http.head cimport (
    H_FORWARDED, H_HOST, H_TRACEPARENT, H_TRACESTATE, H_VIA, H_X_FORWARDED_FOR, H_X_FORWARDED_HOST, H_X_FORWARDED_PORT,
    H_X_FORWARDED_PROTO, H_X_REQUEST_ID, Field, Scan, worker_scan,
)
from lb.http.http1 cimport Parser, new_request_parser
from lb.http.trace cimport (
    TRACEPARENT_SIZE, random64, trace_begin, trace_parse, trace_span, trace_threshold, trace_write, write_hex,
)
from lb.proxy.accept.trusted cimport TrustedProxies

if TYPE_CHECKING:
    from lb.config.plan.plan import ListenerPlan

cdef enum:
    PARENT_ANY = 0                    # whose traceparent is continued
    PARENT_TRUSTED = 1
    PARENT_IGNORE = 2

cdef uint64_t SERIAL = 0

cdef dict MODES = {
    "off": FORWARDED_OFF, "append": FORWARDED_APPEND, "replace": FORWARDED_REPLACE, "preserve": FORWARDED_PRESERVE,
}
cdef dict PARENTS = {"any": PARENT_ANY, "trusted": PARENT_TRUSTED, "ignore": PARENT_IGNORE}


# The fields, one after another, into room that `collect` has made: nothing is checked here, and literal text costs a
# few moves instead of a call.

cdef enum:
    # The most that each takes besides what comes with the request: titles, line ends, the port, quotes.
    X_FORWARDED_ROOM = 96
    STANDARD_ROOM = 64
    VIA_ROOM = 16
    REQUEST_ID_ROOM = REQUEST_ID_LIMIT + 16
    TRACE_ROOM = TRACEPARENT_SIZE + 16


cdef inline void put(tg_hop *hop, const void *data, size_t n) noexcept nogil:
    memcpy(hop.at, data, n)
    hop.at += n


cdef inline void open_field(tg_hop *hop, const char *name, const char *title, size_t n) noexcept nogil:
    """`title` is "Name: " as HTTP/1.1 has it, of n bytes."""
    hop.line = hop.at
    put(hop, title, n)
    hop.fields[hop.count].name = name
    hop.fields[hop.count].name_length = n - 2
    hop.fields[hop.count].start = <size_t>(hop.at - hop.begun)


cdef inline void close_field(tg_hop *hop, int id) noexcept nogil:
    if hop.omit >> id & 1:
        hop.at = hop.line                     # the route removes it, or has its own
        return
    hop.fields[hop.count].length = <size_t>(hop.at - hop.begun) - hop.fields[hop.count].start
    hop.count += 1
    put(hop, b"\r\n", 2)


cdef size_t size_of(const Scan *scan, int id) noexcept nogil:
    """The most that `put_earlier` writes."""
    cdef size_t size = 0
    cdef int i
    if scan.first[id] >= 0:
        for i in range(scan.first[id], scan.field_count):
            if scan.fields[i].id == id:
                size += scan.fields[i].value_length + 2
    return size


cdef inline void drop(Scan *scan, int id) noexcept nogil:
    """The fields of this name do not go on."""
    cdef int i
    if scan.first[id] < 0:
        return
    for i in range(scan.first[id], scan.field_count):
        if scan.fields[i].id == id:
            scan.fields[i].hop = True


cdef void put_earlier(Scan *scan, int id, tg_hop *hop) noexcept nogil:
    """What came in fields of this name, in one list that goes on behind it (RFC 9110 section 5.2)."""
    cdef int i
    if scan.first[id] < 0:
        return
    for i in range(scan.first[id], scan.field_count):
        if scan.fields[i].id == id and scan.fields[i].value_length:
            put(hop, scan.fields[i].value, scan.fields[i].value_length)
            put(hop, b", ", 2)


cdef inline bint plain_id(const Field *field) noexcept nogil:
    """Whether an id can stand in every log and field: visible ASCII without quotes, comma, semicolon or backslash."""
    cdef size_t i
    cdef unsigned char c
    if field.value_length == 0 or field.value_length > REQUEST_ID_LIMIT:
        return False
    for i in range(field.value_length):
        c = <unsigned char>field.value[i]
        if c <= 32 or c >= 127 or c == 34 or c == 39 or c == 44 or c == 59 or c == 92:
            return False
    return True


cdef int only_one(const Scan *scan, int id) noexcept nogil:
    """The field of this name when there is exactly one; else -1."""
    cdef int i, found = scan.first[id]
    if found < 0:
        return -1
    for i in range(found + 1, scan.field_count):
        if scan.fields[i].id == id:
            return -1
    return found


@cython.final
cdef class Forwarding:
    """How a listener forwards: `plan` is its ListenerPlan. Raises ValueError for a network that is none."""

    def __init__(self, plan: ListenerPlan):
        hop = plan.hop
        global SERIAL
        SERIAL += 1
        self.serial = SERIAL
        self.mode = MODES[plan.forwarded]
        self.trusted = TrustedProxies(hop.trusted_proxies)
        self.standard = hop.forwarded_header and self.mode != FORWARDED_OFF
        self.request_id = hop.request_id
        self.tracing = hop.tracing
        self.parent = PARENTS[hop.trace_parent]
        self.threshold = trace_threshold(hop.trace_ratio)
        self.via = hop.via.encode("ascii")
        self.via_length = len(self.via)
        if self.via_length > VIA_LIMIT or not 0 <= hop.port <= 65535:
            raise ValueError("a Via or a port that cannot be told")
        port = str(hop.port).encode() if hop.port else b""
        memcpy(self.port, <const char *><bytes>port, <size_t>len(port))
        self.port_length = len(port)
        self.wants_ids = self.request_id or self.tracing or self.trusted.count > 0
        self.room = X_FORWARDED_ROOM
        if self.standard:
            self.room += STANDARD_ROOM
        if self.via_length:
            self.room += VIA_ROOM + self.via_length
        if self.request_id:
            self.room += REQUEST_ID_ROOM
        if self.tracing:
            self.room += TRACE_ROOM

    cdef bint cached(self, const Scan *scan, tg_hop_cache *cache) noexcept:
        cdef const Field *host
        if (scan.first[H_X_FORWARDED_FOR] >= 0 or scan.first[H_X_FORWARDED_PROTO] >= 0 or scan.first[H_FORWARDED] >= 0
                or scan.first[H_X_FORWARDED_HOST] >= 0 or scan.first[H_X_FORWARDED_PORT] >= 0
                or scan.first[H_VIA] >= 0 or scan.first[H_HOST] < 0):
            cache.wanted = False
            return False
        host = &scan.fields[scan.first[H_HOST]]
        if (cache.serial == self.serial and tg_buffer_size(&cache.host) == host.value_length
                and memcmp(tg_buffer_head(&cache.host), host.value, host.value_length) == 0):
            return True
        cache.serial = 0
        tg_buffer_clear(&cache.host)
        cache.wanted = tg_buffer_append(&cache.host, host.value, host.value_length) == 0
        return False

    cdef void keep(self, tg_hop_cache *cache, const char *block, size_t n) noexcept:
        if not cache.wanted:
            return
        tg_buffer_clear(&cache.block)
        if tg_buffer_append(&cache.block, block, n) == 0:
            cache.serial = self.serial

    cdef tg_ids *identify(self, const Scan *scan, const char *peer, size_t n) noexcept:
        cdef tg_ids *ids
        cdef bint known
        cdef int place
        cdef uint64_t bits[2]
        if not self.wants_ids:
            return NULL
        ids = <tg_ids *>calloc(1, sizeof(tg_ids))
        if ids == NULL:
            return NULL
        known = self.trusted.contains(peer, n)
        if known:
            ids.source_length = <unsigned char>self.trusted.client_of(scan, ids.source)
        if self.request_id:
            place = only_one(scan, H_X_REQUEST_ID) if known else -1
            if place >= 0 and plain_id(&scan.fields[place]):
                ids.request_id_length = <unsigned char>scan.fields[place].value_length
                memcpy(ids.request_id, scan.fields[place].value, scan.fields[place].value_length)
            else:
                bits[0] = random64()
                bits[1] = random64()
                write_hex(<const unsigned char *>bits, sizeof(bits), ids.request_id)
                ids.request_id_length = 2 * sizeof(bits)
        if self.tracing:
            place = -1
            if self.parent == PARENT_ANY or (self.parent == PARENT_TRUSTED and known):
                place = only_one(scan, H_TRACEPARENT)
            if place >= 0 and trace_parse(scan.fields[place].value, scan.fields[place].value_length, &ids.trace) == 0:
                ids.traced = True
                trace_span(&ids.trace)
            else:
                trace_begin(&ids.trace, self.threshold)
        return ids

    cdef int collect(self, Scan *scan, const tg_ids *ids, const char *peer, size_t n, const char *scheme, int version,
                     tg_hop *hop) noexcept:
        cdef bint known = self.trusted.count > 0 and self.trusted.contains(peer, n)
        cdef int mode = self.mode
        cdef size_t scheme_length = strlen(scheme)
        cdef size_t room = self.room + 2 * (n + scheme_length)
        if scan.first[H_HOST] >= 0:
            room += 3 * <size_t>scan.fields[scan.first[H_HOST]].value_length      # once plain, once with escapes
        if scan.first[H_X_FORWARDED_FOR] >= 0 or scan.first[H_FORWARDED] >= 0 or scan.first[H_VIA] >= 0:
            room += size_of(scan, H_X_FORWARDED_FOR) + size_of(scan, H_FORWARDED) + size_of(scan, H_VIA)
        if tg_buffer_reserve(hop.text, room) < 0:
            return -1
        hop.count = 0
        hop.begun = tg_buffer_head(hop.text)
        hop.at = tg_buffer_tail(hop.text)
        if mode != FORWARDED_OFF:
            if self.trusted.count and not known:
                mode = FORWARDED_REPLACE
            if mode != FORWARDED_PRESERVE or scan.first[H_X_FORWARDED_FOR] < 0:
                self.add_x_forwarded(scan, mode, known, peer, n, scheme, scheme_length, hop)
            if not self.standard:
                if mode == FORWARDED_REPLACE:
                    drop(scan, H_FORWARDED)
            elif mode != FORWARDED_PRESERVE or scan.first[H_FORWARDED] < 0:
                self.add_forwarded(scan, mode, peer, n, scheme, scheme_length, hop)
        if self.via_length:
            self.add_via(scan, version, hop)
        if ids != NULL:
            self.add_ids(scan, ids, hop)
        hop.text.end = <size_t>(hop.at - hop.text.data)
        return 0

    cdef void add_x_forwarded(self, Scan *scan, int mode, bint known, const char *peer, size_t n, const char *scheme,
                              size_t scheme_length, tg_hop *hop) noexcept:
        # A trusted proxy in front knows better than we how the client came; so does nobody else.
        cdef bint keep = mode == FORWARDED_APPEND and known
        cdef const Field *host
        open_field(hop, b"x-forwarded-for", b"X-Forwarded-For: ", 17)
        if scan.first[H_X_FORWARDED_FOR] >= 0:
            if mode == FORWARDED_APPEND:
                put_earlier(scan, H_X_FORWARDED_FOR, hop)
            drop(scan, H_X_FORWARDED_FOR)
        if n:
            put(hop, peer, n)
        else:
            put(hop, b"unix", 4)
        close_field(hop, H_X_FORWARDED_FOR)
        if not keep or scan.first[H_X_FORWARDED_PROTO] < 0:
            drop(scan, H_X_FORWARDED_PROTO)
            open_field(hop, b"x-forwarded-proto", b"X-Forwarded-Proto: ", 19)
            put(hop, scheme, scheme_length)
            close_field(hop, H_X_FORWARDED_PROTO)
        if not keep or scan.first[H_X_FORWARDED_HOST] < 0:
            drop(scan, H_X_FORWARDED_HOST)
            if scan.first[H_HOST] >= 0:
                host = &scan.fields[scan.first[H_HOST]]
                open_field(hop, b"x-forwarded-host", b"X-Forwarded-Host: ", 18)
                put(hop, host.value, host.value_length)
                close_field(hop, H_X_FORWARDED_HOST)
        if not keep or scan.first[H_X_FORWARDED_PORT] < 0:
            drop(scan, H_X_FORWARDED_PORT)
            if self.port_length:
                open_field(hop, b"x-forwarded-port", b"X-Forwarded-Port: ", 18)
                put(hop, self.port, self.port_length)
                close_field(hop, H_X_FORWARDED_PORT)

    cdef void add_forwarded(self, Scan *scan, int mode, const char *peer, size_t n, const char *scheme,
                            size_t scheme_length, tg_hop *hop) noexcept:
        cdef const Field *host
        cdef size_t i
        open_field(hop, b"forwarded", b"Forwarded: ", 11)
        if mode == FORWARDED_APPEND:
            put_earlier(scan, H_FORWARDED, hop)
        drop(scan, H_FORWARDED)
        if n == 0:
            put(hop, b"for=unknown", 11)          # a Unix socket's peer has no address (RFC 7239 section 6.2)
        elif memchr(peer, 58, n) != NULL:
            put(hop, b'for="[', 6)
            put(hop, peer, n)
            put(hop, b']"', 2)
        else:
            put(hop, b"for=", 4)
            put(hop, peer, n)
        if scan.first[H_HOST] >= 0:
            host = &scan.fields[scan.first[H_HOST]]
            put(hop, b';host="', 7)
            for i in range(host.value_length):
                if host.value[i] == 34 or host.value[i] == 92:
                    put(hop, b"\\", 1)
                put(hop, host.value + i, 1)
            put(hop, b'"', 1)
        put(hop, b";proto=", 7)
        put(hop, scheme, scheme_length)
        close_field(hop, H_FORWARDED)

    cdef void add_via(self, Scan *scan, int version, tg_hop *hop) noexcept:
        open_field(hop, b"via", b"Via: ", 5)
        if scan.first[H_VIA] >= 0:
            put_earlier(scan, H_VIA, hop)
            drop(scan, H_VIA)
        if version == 10:
            put(hop, b"1.0 ", 4)
        elif version == 20:
            put(hop, b"2.0 ", 4)
        else:
            put(hop, b"1.1 ", 4)
        put(hop, <const char *>self.via, self.via_length)
        close_field(hop, H_VIA)

    cdef void add_ids(self, Scan *scan, const tg_ids *ids, tg_hop *hop) noexcept:
        if ids.request_id_length:
            drop(scan, H_X_REQUEST_ID)
            open_field(hop, b"x-request-id", b"X-Request-Id: ", 14)
            put(hop, ids.request_id, ids.request_id_length)
            close_field(hop, H_X_REQUEST_ID)
        if self.tracing:
            drop(scan, H_TRACEPARENT)
            if not ids.traced:
                drop(scan, H_TRACESTATE)          # it belongs to the traceparent that was not taken (section 3.3)
            open_field(hop, b"traceparent", b"traceparent: ", 13)
            trace_write(&ids.trace, hop.at)
            hop.at += TRACEPARENT_SIZE
            close_field(hop, H_TRACEPARENT)


def source_of(plan: ListenerPlan, bytes head not None, str peer not None) -> str:
    """The client's address as a listener takes it, whose plan is `plan`: `peer`, or what trusted proxies say. `head` is
    a whole HTTP/1.1 head; ValueError for another."""
    cdef Forwarding forwarding = Forwarding(plan)
    cdef Parser parser = new_request_parser()
    cdef Scan *scan = worker_scan()
    cdef bytes where = peer.encode()
    cdef tg_ids *ids
    if parser.execute(scan, <const char *>head, <size_t>len(head)) != len(head):
        raise ValueError("not a whole head")
    ids = forwarding.identify(scan, <const char *>where, <size_t>len(where))
    try:
        if ids != NULL and ids.source_length:
            return ids.source[:ids.source_length].decode()
        return peer
    finally:
        free(ids)
