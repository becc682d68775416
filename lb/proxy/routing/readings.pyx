"""What else a path could mean to an endpoint: see readings.pxd."""

from libc.string cimport memchr, memcmp, memcpy
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
)
from lb.http.head cimport H_HOST, MAX_FIELDS, Scan, worker_scan
from lb.http.http1 cimport Parser, new_request_parser
from lb.proxy.routing.conditions cimport WHAT_MODEL, Condition, facts_of

cdef enum:
    LEVELS = 3                        # how often a path is decoded
    # What an endpoint does with the decoded path besides.
    BACKSLASHES = 1                   # takes them for slashes
    PARAMETERS = 2                    # cuts them off
    MERGES = 4                        # slashes
    MANNERS = 8
    # `next_level`
    PLAIN = 0                         # nothing was left to decode
    DECODED = 1
    REFUSED = -1                      # an escaped NUL, or no memory

cdef const char *MODELS = b"/v2/models/"
cdef enum:
    MODELS_LENGTH = 11

# Until the next call: the path, decoded so far and once more; and one reading of it.
cdef tg_buffer decoded
cdef tg_buffer further
cdef tg_buffer reading


cdef bint is_plain(const char *path, size_t n) noexcept nogil:
    return memchr(path, 37, n) == NULL and memchr(path, 92, n) == NULL and memchr(path, 59, n) == NULL


cdef inline int hex_digit(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= (c | 32) <= 102:
        return (c | 32) - 87
    return -1


cdef int next_level(const tg_buffer *text, tg_buffer *out) noexcept nogil:
    """Decodes each escape once."""
    cdef const char *data = tg_buffer_head(text)
    cdef size_t n = tg_buffer_size(text), i = 0, o = 0
    cdef int high, low, found = PLAIN
    tg_buffer_clear(out)
    if tg_buffer_reserve(out, n + 1) < 0:
        return REFUSED
    while i < n:
        high = hex_digit(data[i + 1]) if data[i] == 37 and i + 2 < n else -1
        low = hex_digit(data[i + 2]) if high >= 0 else -1
        if low >= 0:
            if high == 0 and low == 0:
                return REFUSED
            out.data[o] = <char>(high << 4 | low)
            found = DECODED
            i += 3
        else:
            out.data[o] = data[i]
            i += 1
        o += 1
    out.start = 0
    out.end = o
    return found


cdef size_t read_as(const char *path, size_t n, int manner, char *out) noexcept nogil:
    """The path as endpoints of that manner read it, without dot segments (RFC 3986 section 5.2.4): its length."""
    cdef size_t i = 0, o = 0, begun, size
    cdef const char *cut
    cdef bint last
    while i < n:
        # path[i] is a slash, or what counts as one, in front of a segment.
        begun = i + 1
        i = begun
        while i < n and path[i] != 47 and not (manner & BACKSLASHES and path[i] == 92):
            i += 1
        size = i - begun
        last = i == n
        if manner & PARAMETERS:
            cut = <const char *>memchr(path + begun, 59, size)
            if cut != NULL:
                size = <size_t>(cut - (path + begun))
        if size == 1 and path[begun] == 46:
            if not last:
                continue
            size = 0
        elif size == 2 and path[begun] == 46 and path[begun + 1] == 46:
            while o > 0:
                o -= 1
                if out[o] == 47:
                    break
            if not last:
                continue
            size = 0
        elif size == 0 and not last and manner & MERGES:
            continue
        out[o] = 47
        memcpy(out + o + 1, path + begun, size)
        o += size + 1
    return o


cdef bint manner_differs(int manner, const char *path, size_t n) noexcept nogil:
    """Whether the path has what a manner is about: else it reads as by a lesser one."""
    cdef size_t i
    if manner & BACKSLASHES and memchr(path, 92, n) == NULL:
        return False
    if manner & PARAMETERS and memchr(path, 59, n) == NULL:
        return False
    if manner & MERGES:
        for i in range(1, n):
            if (path[i] == 47 or path[i] == 92) and (path[i - 1] == 47 or path[i - 1] == 92 or path[i - 1] == 59):
                return True
        return memchr(path, 59, n) != NULL and manner & PARAMETERS
    return True


cdef int begin(const char *path, size_t n) noexcept nogil:
    tg_buffer_clear(&decoded)
    return tg_buffer_append(&decoded, path, n)


cdef int deeper() noexcept nogil:
    cdef tg_buffer held
    cdef int rc = next_level(&decoded, &further)
    if rc == DECODED:
        held = decoded
        (&decoded)[0] = further
        (&further)[0] = held
    return rc


cdef bint reads_alike(RouteTable table, const tg_facts *facts, Route taken) noexcept:
    cdef int level, manner, rc
    cdef size_t n
    if is_plain(facts.path, facts.path_length) or facts.path_length == 0 or facts.path[0] != 47:
        return True
    if taken.path_kind == "exact":
        return True                           # the operator has written down this very path
    if begin(facts.path, facts.path_length) < 0:
        return False
    for level in range(LEVELS + 1):
        if level:
            rc = deeper()
            if rc != DECODED:
                return rc == PLAIN
        if tg_buffer_reserve(&reading, tg_buffer_size(&decoded) + 2) < 0:
            return False
        for manner in range(MANNERS):
            if not manner_differs(manner, tg_buffer_head(&decoded), tg_buffer_size(&decoded)):
                continue
            if manner & PARAMETERS and says_parameters(taken):
                continue
            n = read_as(tg_buffer_head(&decoded), tg_buffer_size(&decoded), manner, reading.data)
            if not takes(table, facts, reading.data, n, taken):
                return False
    return True


cdef bint takes(RouteTable table, const tg_facts *facts, const char *path, size_t n, Route taken) noexcept:
    cdef tg_facts read
    cdef bint other_method
    if n == facts.path_length and memcmp(path, facts.path, n) == 0:
        return True
    memcpy(&read, facts, sizeof(read))
    read.path = path
    read.path_length = n
    if table.find(&read, &other_method) is taken:
        return True
    # A model's name may have an escaped slash, and its route knows it by that (MatchConfig.model).
    return looks_at_model(taken) and n >= MODELS_LENGTH and memcmp(path, MODELS, MODELS_LENGTH) == 0


cdef bint says_parameters(Route route) noexcept:
    """Whether its path in the configuration has a semicolon: its endpoints take that for a part of the path."""
    for _, _, text in route.path_places:
        if ";" in text:
            return True
    return False


cdef bint looks_at_model(Route route) noexcept:
    cdef Py_ssize_t i
    if route.conditions is not None:
        for i in range(len(route.conditions)):
            if (<Condition>route.conditions[i]).what == WHAT_MODEL:
                return True
    return False


def path_readings(bytes path not None) -> list[bytes] | None:
    """All readings of a path, for tests: None where one of its levels is refused."""
    cdef int level, manner, rc
    cdef size_t n
    found = []
    begin(<const char *>path, <size_t>len(path))
    for level in range(LEVELS + 1):
        if level:
            rc = deeper()
            if rc != DECODED:
                return found if rc == PLAIN else None
        tg_buffer_reserve(&reading, tg_buffer_size(&decoded) + 2)
        for manner in range(MANNERS):
            if manner_differs(manner, tg_buffer_head(&decoded), tg_buffer_size(&decoded)):
                n = read_as(tg_buffer_head(&decoded), tg_buffer_size(&decoded), manner, reading.data)
                found.append(reading.data[:n])
    return found


def request_reads_alike(RouteTable table not None, bytes request not None, bytes ip=b"") -> bool:
    """Whether every reading of a request's path, which is in its normal form, takes the same route: for tools, as
    `RouteTable.lookup`."""
    cdef Parser parser = new_request_parser()
    cdef Scan *scan = worker_scan()
    cdef tg_facts facts
    cdef bint other_method = False
    cdef const char *host = b""
    cdef size_t n = 0
    scan.max_fields = MAX_FIELDS - 1
    if parser.execute(scan, <const char *>request, <size_t>len(request)) < 0 or not scan.head:
        raise ValueError("not a request with its whole head")
    if scan.first[H_HOST] >= 0:
        host = scan.fields[scan.first[H_HOST]].value
        n = scan.fields[scan.first[H_HOST]].value_length
    facts_of(&facts, scan, host, n, scan.method, <const char *>ip, <size_t>len(ip))
    route = table.find(&facts, &other_method)
    return route is None or bool(reads_alike(table, &facts, route))
