"""How a record of the ring is shown: see render.pxd."""

from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from lb.core.buffer cimport tg_buffer, tg_buffer_append
from lb.telemetry.accesslog cimport (
    A_CLIENT, A_ENDPOINT, A_HOST, A_LISTENER, A_METHOD, A_POOL, A_REASON, A_REQUEST_ID, A_ROUTE, A_TARGET, A_TEXTS,
    A_MODEL, A_USER_AGENT, tg_access,
)

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    static inline size_t tg_format_time(char *into, size_t room, int64_t seconds) {
        time_t t = (time_t)seconds; struct tm parts;
        return gmtime_r(&t, &parts) ? strftime(into, room, "%Y-%m-%dT%H:%M:%S", &parts) : 0;
    }
    """
    size_t tg_format_time(char *into, size_t room, int64_t seconds) nogil

cdef const char *CACHE_NAMES[5]
CACHE_NAMES[0] = ""
CACHE_NAMES[1] = "hit"
CACHE_NAMES[2] = "miss"
CACHE_NAMES[3] = "collapsed"
CACHE_NAMES[4] = "bypass"

cdef const char *HEDGE_NAMES[3]
HEDGE_NAMES[0] = ""
HEDGE_NAMES[1] = "lost"
HEDGE_NAMES[2] = "won"

cdef const char *KEYS[A_TEXTS]
KEYS[A_CLIENT] = "client"
KEYS[A_METHOD] = "method"
KEYS[A_HOST] = "host"
KEYS[A_TARGET] = "target"
KEYS[A_LISTENER] = "listener"
KEYS[A_ROUTE] = "route"
KEYS[A_POOL] = "pool"
KEYS[A_ENDPOINT] = "endpoint"
KEYS[A_REASON] = "reason"
KEYS[A_REQUEST_ID] = "request_id"
KEYS[A_USER_AGENT] = "user_agent"
KEYS[A_MODEL] = "model"


cdef char *room_of(tg_access *record, int which, size_t *room) noexcept nogil:
    if which == A_CLIENT:
        room[0] = sizeof(record.client)
        return record.client
    if which == A_METHOD:
        room[0] = sizeof(record.method)
        return record.method
    if which == A_HOST:
        room[0] = sizeof(record.host)
        return record.host
    if which == A_TARGET:
        room[0] = sizeof(record.target)
        return record.target
    if which == A_LISTENER:
        room[0] = sizeof(record.listener)
        return record.listener
    if which == A_ROUTE:
        room[0] = sizeof(record.route)
        return record.route
    if which == A_POOL:
        room[0] = sizeof(record.pool)
        return record.pool
    if which == A_ENDPOINT:
        room[0] = sizeof(record.endpoint)
        return record.endpoint
    if which == A_REQUEST_ID:
        room[0] = sizeof(record.request_id)
        return record.request_id
    if which == A_USER_AGENT:
        room[0] = sizeof(record.user_agent)
        return record.user_agent
    if which == A_MODEL:
        room[0] = sizeof(record.model)
        return record.model
    room[0] = sizeof(record.reason)
    return record.reason


cdef const char *text_name(int which) noexcept nogil:
    return KEYS[which]


cdef int append_escaped(tg_buffer *out, const char *text, size_t n) noexcept nogil:
    """A JSON string's inside (RFC 8259 section 7); bytes outside of ASCII become \\u00XX, so that any input gives
    valid JSON."""
    cdef size_t i, start = 0
    cdef unsigned char c
    cdef char escape[8]
    for i in range(n):
        c = <unsigned char>text[i]
        if c >= 32 and c < 127 and c != 34 and c != 92:
            continue
        if tg_buffer_append(out, text + start, i - start) < 0:
            return -1
        start = i + 1
        snprintf(escape, sizeof(escape), b"\\u%04x", <unsigned>c)
        if tg_buffer_append(out, escape, 6) < 0:
            return -1
    return tg_buffer_append(out, text + start, n - start)


cdef const char *protocol_name(int version) noexcept nogil:
    if version == 11:
        return b"HTTP/1.1"
    if version == 20:
        return b"HTTP/2"
    if version == 10:
        return b"HTTP/1.0"
    return b""


cdef const char *tls_name(int version) noexcept nogil:
    if version == 0x0304:
        return b"TLSv1.3"
    if version == 0x0303:
        return b"TLSv1.2"
    return b""


cdef void hex_id(const unsigned char *data, size_t n, char *into) noexcept nogil:
    """An id in hexadecimal with a NUL; nothing for one that is all zero."""
    cdef const char *digits = b"0123456789abcdef"
    cdef size_t i
    cdef int some = 0
    for i in range(n):
        some |= data[i]
        into[2 * i] = digits[data[i] >> 4]
        into[2 * i + 1] = digits[data[i] & 15]
    into[2 * n if some else 0] = 0


cdef dict span_of(tg_access *record):
    """What an exporter gets: times in ns, ids as bytes (parent_id b"" where the trace began here), texts as str."""
    cdef bytes parent = (<char *>record.parent_id)[:sizeof(record.parent_id)]
    cdef size_t room
    cdef int which
    span = {
        "start_ns": record.wall_ns,
        "total_ns": record.total_ns,
        "wait_ns": record.wait_ns,
        "connect_ns": record.connect_ns,
        "upstream_ns": record.upstream_ns,
        "transfer_ns": record.transfer_ns,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "status": record.status,
        "grpc_status": record.grpc_status if record.grpc_status >= 0 else None,
        "tries": record.tries,
        "port": record.port,
        "cache": CACHE_NAMES[record.cache].decode("ascii"),
        "hedge": HEDGE_NAMES[record.hedge].decode("ascii"),
        "protocol": protocol_name(record.version).decode("ascii"),
        "tls": tls_name(record.tls).decode("ascii"),
        "trace_id": <bytes>(<char *>record.trace_id)[:sizeof(record.trace_id)],
        "span_id": <bytes>(<char *>record.span_id)[:sizeof(record.span_id)],
        "parent_id": parent if any(parent) else b"",
        "trace_flags": record.trace_flags,
    }
    for which in range(A_TEXTS):
        span[KEYS[which].decode("ascii")] = room_of(record, which, &room)[:record.lengths[which]].decode("latin-1")
    return span


cdef int format_record(tg_access *record, tg_buffer *out) noexcept nogil:
    cdef char line[512]
    cdef char stamp[33]
    cdef char code[8]
    cdef int n, which
    cdef size_t room
    cdef char *text
    n = <int>tg_format_time(stamp, sizeof(stamp), record.wall_ns // 1_000_000_000)
    stamp[n] = 0
    n = snprintf(line, sizeof(line), b'{"time":"%s.%03dZ"', stamp, <int>(record.wall_ns // 1_000_000 % 1000))
    if tg_buffer_append(out, line, <size_t>n) < 0:
        return -1
    for which in range(A_TEXTS):
        text = room_of(record, which, &room)
        n = snprintf(line, sizeof(line), b',"%s":"', KEYS[which])
        if tg_buffer_append(out, line, <size_t>n) < 0 or append_escaped(out, text, record.lengths[which]) < 0:
            return -1
        if tg_buffer_append(out, b'"', 1) < 0:
            return -1
    hex_id(record.trace_id, sizeof(record.trace_id), stamp)
    snprintf(code, sizeof(code), b"null" if record.grpc_status < 0 else b"%d", <int>record.grpc_status)
    n = snprintf(
        line, sizeof(line),
        b',"port":%u,"status":%u,"grpc_status":%s,"tries":%u,"hedge":"%s","cache":"%s","protocol":"%s","tls":"%s",'
        b'"trace_id":"%s",'
        b'"bytes_in":%llu,"bytes_out":%llu,"total_us":%llu,"wait_us":%llu,"connect_us":%llu,"upstream_us":%llu,'
        b'"transfer_us":%llu',
        <unsigned>record.port, <unsigned>record.status, code, <unsigned>record.tries,
        HEDGE_NAMES[record.hedge], CACHE_NAMES[record.cache], protocol_name(record.version), tls_name(record.tls),
        stamp,
        <unsigned long long>record.bytes_in, <unsigned long long>record.bytes_out,
        <unsigned long long>(record.total_ns // 1000), <unsigned long long>(record.wait_ns // 1000),
        <unsigned long long>(record.connect_ns // 1000),
        <unsigned long long>(record.upstream_ns // 1000), <unsigned long long>(record.transfer_ns // 1000))
    if tg_buffer_append(out, line, <size_t>n) < 0:
        return -1
    if record.explanation != NULL:
        if (tg_buffer_append(out, b',"explain":', 11) < 0
                or tg_buffer_append(out, record.explanation, record.explanation_length) < 0):
            return -1
    return tg_buffer_append(out, b"}\n", 2)
