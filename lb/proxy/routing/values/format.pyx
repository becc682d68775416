"""Texts with values of the request: see format.pxd. What encodings do stands in lb.config.values."""

from collections.abc import Mapping

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset, strlen
from lb.http.head cimport H_COOKIE, MAX_FIELDS, Field, Scan, same_name, worker_scan
from lb.http.head_text cimport append_number
from lb.http.http1 cimport Parser, new_request_parser
from lb.http.regex cimport REGEX_GROUPS, Regex, tg_piece
from lb.http.utf8 cimport json_point, utf8_point
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size, tg_buffer_tail,
)
from lb.proxy.routing.keys cimport find_value
from lb.proxy.routing.paths cimport template_pieces
from lb.proxy.routing.values.lookup cimport Lookup
from lb.shared.stick_tables cimport StickTable, stick_now
from lb.upstream.pool cimport KEY_COOKIE, KEY_QUERY

from lb.config.plan.tables import FIELDS
from lb.config.schema.routes.template import Template
from lb.config.values import FAMILIES, KNOWN, Value, parse

cdef enum:
    E_FIELD = 0
    E_COOKIE
    E_HOST
    E_PATH
    E_QUERY
    E_WHOLE                           # of a map: the URL of its entry
    E_TEXT
    E_HTML
    E_JSON
    E_ROOT                            # of literal text: the slash that a URL without a host begins with

cdef dict ENCODINGS = {
    "field": E_FIELD, "cookie": E_COOKIE, "host": E_HOST, "path": E_PATH, "query": E_QUERY, "whole": E_WHOLE,
    "text": E_TEXT, "html": E_HTML, "json": E_JSON,
}
cdef dict KINDS = {name: number for number, name in enumerate((*KNOWN, *FAMILIES))}
assert len(KNOWN) == V_KNOWN and KINDS["table"] == V_TABLE

cdef enum:
    # Bits of PLAIN: bytes that an encoding leaves as they are.
    P_FIELD = 1
    P_COOKIE = 2
    P_HOST = 4
    P_PATH = 8
    P_QUERY = 16
    P_URL = 32                        # of a value that is a part of a URL, in its own place
    P_OWN_PATH = 64                   # of a path, likewise
    P_WHOLE = 128                     # of a URL
    # What is a part of a URL already, so that its escapes stay. Entries of maps are: the file says them, no client.
    OF_PATH = 1 << V_PATH | 1 << V_URI | 1 << V_CAPTURE | 1 << V_MAP
    OF_QUERY = 1 << V_QUERY_STRING | 1 << V_PARAMETER
    LONGEST_ESCAPE = 6                # bytes that one byte becomes: \u0000, &quot;

cdef const char *HEX = b"0123456789ABCDEF"
cdef unsigned char PLAIN[256]


cdef void fill_plain():
    cdef int c
    unreserved = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    for c in range(256):
        PLAIN[c] = 0
        if c >= 32 and c != 127 or c == 9:
            PLAIN[c] |= P_FIELD
        if 33 <= c < 127 and c not in b'",;\\%':
            PLAIN[c] |= P_COOKIE
        if c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._:[]":
            PLAIN[c] |= P_HOST
        if c in unreserved or c in b"!$&'()*+,;=:@":
            PLAIN[c] |= P_PATH
        if c in unreserved:
            PLAIN[c] |= P_QUERY
        if c in unreserved or c in b"!$&'()*+,;=:@/?%":
            PLAIN[c] |= P_URL
        if c in unreserved or c in b"!$&'()*+,;=:@/%":
            PLAIN[c] |= P_OWN_PATH
        if 33 <= c < 127:
            PLAIN[c] |= P_WHOLE


fill_plain()


cdef class Format:
    """`text`, a text of the plan with its marks, for a place of `encoding` (lb.config.values.parse).

    `maps` has the worker's maps by name: the text of the key, and the Lookup; and under ("table", NAME) its stick
    tables: the text of the key, and the StickTable. Raises ValueError as `parse` does, and for a capture that is no
    number, KeyError for a map or a table that there is not, MemoryError.
    """

    def __init__(
        self,
        text: str,
        encoding: str = "field",
        maps: Mapping[str | tuple[str, str], tuple[str, Lookup | StickTable]] | None = None,
        parts: tuple[str | Value, ...] | None = None,
    ) -> None:
        cdef int i
        cdef tg_part *part
        cdef Format inner
        cdef bytes data
        cdef Lookup lookup
        cdef StickTable table
        if self.parts != NULL:
            raise ValueError("a Format is made once")
        if parts is None:
            parts = parse(text, encoding)
        texts = []
        nested = []
        lookups = []
        self.parts = <tg_part *>calloc(max(1, <size_t>len(parts)), sizeof(tg_part))
        if self.parts == NULL:
            raise MemoryError
        for i in range(len(parts)):
            item = parts[i]
            part = &self.parts[i]
            if isinstance(item, str):
                data = item.encode("utf-8" if encoding in ("text", "html", "json") else "latin-1")
                part.kind = V_LITERAL
                if encoding == "url" and i == 0 and item.startswith("/"):
                    part.encoding = E_ROOT
            else:
                data = item.argument.encode("latin-1")
                part.kind = KINDS[item.name]
                part.encoding = ENCODINGS[item.encoding]
                self.kinds |= <uint64_t>1 << part.kind
                if part.kind == V_CAPTURE:
                    part.number = int(item.argument)
                if part.kind == V_MAP:
                    key, lookup = maps[item.argument]
                    inner = Format(key, "text", maps)
                    self.kinds |= inner.kinds
                    part.key, part.key_count = inner.parts, inner.count
                    part.lookup = <void *>lookup
                    nested.append(inner)
                    lookups.append(lookup)
                if part.kind == V_TABLE:
                    name, _, field = item.argument.rpartition(".")
                    key, table = maps["table", name]
                    part.number = FIELDS.index(field)
                    inner = Format(key, "text", maps)
                    self.kinds |= inner.kinds
                    part.key, part.key_count = inner.parts, inner.count
                    part.lookup = <void *>table
                    nested.append(inner)
                    lookups.append(table)
                if item.otherwise:
                    inner = Format("", encoding, maps, item.otherwise)
                    self.kinds |= inner.kinds
                    part.otherwise, part.otherwise_count = inner.parts, inner.count
                    nested.append(inner)
            texts.append(data)
            part.text = <const char *>data
            part.n = <size_t>len(data)
        self.texts = tuple(texts)
        self.nested = tuple(nested)
        self.lookups = tuple(lookups)
        self.count = <int>len(parts)

    def __dealloc__(self):
        free(self.parts)

    def filled(self, bytes request not None, dict known not None, bytes path = None, RequestValues wanted = None):
        """The text for `request`, a head of HTTP/1.1, and `known` values by name; for tests and tools. Raises
        ValueError where it would be refused or too long, MemoryError."""
        cdef tg_values values
        cdef tg_buffer out
        cdef Parser parser = new_request_parser()
        cdef Scan *scan = worker_scan()
        cdef int failed
        cdef bytes text
        memset(&values, 0, sizeof(values))
        memset(&out, 0, sizeof(out))
        scan.max_fields = MAX_FIELDS - 1
        if parser.execute(scan, <const char *>request, <size_t>len(request)) < 0 or not scan.head:
            raise ValueError("not a request with its whole head")
        values.scan = scan
        for name, item in known.items():
            text = item
            values.known[<int>KINDS[name]].at = <const char *>text
            values.known[<int>KINDS[name]].n = <size_t>len(text)
        if wanted is not None and path is not None:
            wanted.capture(&values, <const char *>path, <size_t>len(path))
        try:
            failed = self.append(&out, &values)
            if failed == FORMAT_NO_MEMORY:
                raise MemoryError
            if failed:
                raise ValueError("too long" if failed == FORMAT_TOO_LONG else "refused")
            return tg_buffer_head(&out)[:tg_buffer_size(&out)]
        finally:
            tg_buffer_free(&out)

    cdef int append(self, tg_buffer *out, const tg_values *values) noexcept:
        cdef size_t begin = tg_buffer_size(out)
        cdef int failed = append_parts(self.parts, self.count, out, values, begin)
        if failed == 0 and self.count and self.parts[0].encoding == E_ROOT:
            join_slashes(out, begin)
        return failed


cdef void set_value(tg_text *into, const char *text) noexcept nogil:
    into.at = text
    into.n = 0 if text == NULL else strlen(text)


cdef void set_name(tg_text *into, str text) noexcept:
    cdef Py_ssize_t n = 0
    try:
        into.at = PyUnicode_AsUTF8AndSize(text, &n)
        into.n = <size_t>n
    except (MemoryError, UnicodeEncodeError):
        into.at = NULL
        into.n = 0


cdef const char *protocol_name(int version) noexcept nogil:
    return b"HTTP/2.0" if version == 20 else b"HTTP/1.0" if version == 10 else b"HTTP/1.1"


cdef void join_slashes(tg_buffer *out, size_t begin) noexcept nogil:
    """Makes one slash of those that the text from `begin` on starts with: behind two stands a host (RFC 3986 section
    4.2), which a value would choose."""
    cdef char *text = tg_buffer_head(out) + begin
    cdef size_t n = tg_buffer_size(out) - begin, more = 0
    while more + 1 < n and text[more + 1] == 47:
        more += 1
    if more:
        memmove(text, text + more, n - more)
        out.end -= more


cdef int append_parts(const tg_part *parts, int count, tg_buffer *out, const tg_values *values,
                      size_t begin) noexcept:
    cdef int i, failed
    cdef size_t before
    cdef const tg_part *part
    for i in range(count):
        part = &parts[i]
        before = tg_buffer_size(out)
        if part.kind == V_LITERAL:
            failed = tg_buffer_append(out, part.text, part.n)
        else:
            failed = append_value(part, out, values)
            if failed == 0 and part.otherwise != NULL and tg_buffer_size(out) == before:
                failed = append_parts(part.otherwise, part.otherwise_count, out, values, begin)
            elif (failed == 0 and (part.encoding == E_HOST or part.encoding == E_WHOLE)
                    and tg_buffer_size(out) == before):
                failed = FORMAT_REFUSED       # what is left would be another host
        if failed:
            return failed
        if tg_buffer_size(out) - begin > FORMAT_LIMIT:
            return FORMAT_TOO_LONG
    return 0


cdef int append_value(const tg_part *part, tg_buffer *out, const tg_values *values) noexcept:
    cdef const char *text = NULL
    cdef size_t n = 0
    cdef int kind = part.kind
    if kind == V_HEADER:
        return append_field(part, out, values.scan)
    if kind == V_MAP:
        return append_mapped(part, out, values)
    if kind == V_TABLE:
        return append_counted(part, out, values)
    if kind == V_ENDPOINT:
        return tg_buffer_append(out, b"\0", 1)
    if kind == V_HOST:
        return append_host(part, out, values.known[kind].at, values.known[kind].n)
    if kind < V_KNOWN:
        text = values.known[kind].at
        n = values.known[kind].n
    elif kind == V_CAPTURE:
        if values.pieces[part.number].set:
            text = values.captured + values.pieces[part.number].start
            n = values.pieces[part.number].end - values.pieces[part.number].start
    elif not find_value(values.scan, KEY_COOKIE if kind == V_COOKIE else KEY_QUERY, part.text, part.n, &text, &n):
        return 0
    return put(out, text, n, part.encoding, kind) if text != NULL and n else 0


cdef int append_host(const tg_part *part, tg_buffer *out, const char *host, size_t n) noexcept nogil:
    """A host as routes compare it: in small letters, and without the dot at the end of an absolute name (RFC 3986
    section 3.2.2). One name is one key, however a client spells it."""
    cdef size_t i, begin = tg_buffer_size(out)
    cdef char *made
    cdef int failed
    if n and host[n - 1] == 46:
        n -= 1
    if n == 0:
        return 0
    failed = put(out, host, n, part.encoding, V_HOST)
    if failed == 0:
        made = tg_buffer_head(out) + begin
        for i in range(tg_buffer_size(out) - begin):
            if 65 <= made[i] <= 90:
                made[i] |= 32
    return failed


cdef int append_mapped(const tg_part *part, tg_buffer *out, const tg_values *values) noexcept:
    """What a map has for its key, which is made behind `out` and taken off again."""
    cdef const char *text = NULL
    cdef size_t n = 0, begin = tg_buffer_size(out)
    cdef bint found
    cdef int failed = append_parts(part.key, part.key_count, out, values, begin)
    if failed:
        return failed
    found = (<Lookup>part.lookup).find(tg_buffer_head(out) + begin, tg_buffer_size(out) - begin, &text, &n)
    out.end -= tg_buffer_size(out) - begin
    return put(out, text, n, part.encoding, V_MAP) if found and n else 0


cdef int append_counted(const tg_part *part, tg_buffer *out, const tg_values *values) noexcept:
    """What a stick table has counted of its key, which is made behind `out` and taken off again."""
    cdef size_t begin = tg_buffer_size(out)
    cdef uint64_t number
    cdef int failed = append_parts(part.key, part.key_count, out, values, begin)
    if failed:
        return failed
    number = (<StickTable>part.lookup).look(
        tg_buffer_head(out) + begin, tg_buffer_size(out) - begin, part.number, stick_now())
    out.end -= tg_buffer_size(out) - begin
    return append_number(out, <unsigned long>number)


cdef int append_field(const tg_part *part, tg_buffer *out, const Scan *scan) noexcept nogil:
    """Of several lines one value with commas (RFC 9110 section 5.3); Cookie's crumbs have semicolons."""
    cdef const Field *field
    cdef bint found = False
    cdef int i, failed
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length != part.n or not same_name(field.name, part.n, part.text) or field.value_length == 0:
            continue
        if found:
            failed = put(out, b"; " if field.id == H_COOKIE else b", ", 2, part.encoding, V_HEADER)
            if failed:
                return failed
        failed = put(out, field.value, field.value_length, part.encoding, V_HEADER)
        if failed:
            return failed
        found = True
    return 0


cdef int put(tg_buffer *out, const char *text, size_t n, int encoding, int kind) noexcept nogil:
    """Appends a value in its encoding. 0, or FORMAT_…."""
    cdef size_t i, escapes = 0
    cdef unsigned char bit = P_FIELD, c
    cdef size_t rest = 0                      # bytes of a character that are written already
    cdef uint32_t point
    cdef bint of_url
    cdef char *into
    if n > FORMAT_LIMIT:
        return FORMAT_TOO_LONG
    if encoding == E_HOST:
        for i in range(n):
            if not PLAIN[<unsigned char>text[i]] & P_HOST:
                return FORMAT_REFUSED
        return tg_buffer_append(out, text, n)
    if encoding == E_PATH and makes_dots(out, text, n):
        return FORMAT_REFUSED
    if encoding == E_PATH or encoding == E_QUERY:
        of_url = ((OF_PATH if encoding == E_PATH else OF_QUERY) >> kind) & 1
        if encoding == E_PATH and not of_url:
            for i in range(n):
                if text[i] == 47 or text[i] == 92:
                    return FORMAT_REFUSED
        if of_url:
            bit = P_OWN_PATH if encoding == E_PATH and kind != V_URI else P_URL
        else:
            bit = P_PATH if encoding == E_PATH else P_QUERY
    elif encoding == E_WHOLE:
        bit = P_WHOLE
    elif encoding == E_COOKIE:
        bit = P_COOKIE
    for i in range(n):
        c = <unsigned char>text[i]
        if not PLAIN[c] & bit or encoding >= E_HTML and is_special(c) or encoding == E_JSON and c >= 128:
            escapes += 1
    if escapes == 0:
        return tg_buffer_append(out, text, n)
    if tg_buffer_reserve(out, n + escapes * (LONGEST_ESCAPE - 1)) < 0:
        return FORMAT_NO_MEMORY
    into = tg_buffer_tail(out)
    for i in range(n):
        if rest:
            rest -= 1
            continue
        c = <unsigned char>text[i]
        if PLAIN[c] & bit and not (encoding >= E_HTML and is_special(c)) and not (encoding == E_JSON and c >= 128):
            into[0] = <char>c
            into += 1
        elif encoding == E_FIELD or encoding == E_TEXT or encoding == E_HTML and not is_special(c):
            into[0] = 32
            into += 1
        elif encoding == E_HTML:
            into = put_entity(into, c)
        elif encoding == E_JSON:
            rest = utf8_point(text + i, n - i, &point)
            if rest == 0:
                point, rest = c, 1            # no UTF-8: ISO-8859-1, as older clients write it
            rest -= 1
            into += json_point(into, point)
        else:
            into[0] = 37
            into[1] = HEX[c >> 4]
            into[2] = HEX[c & 15]
            into += 3
    out.end = <size_t>(into - out.data)
    return 0


cdef inline bint makes_dots(const tg_buffer *out, const char *text, size_t n) noexcept nogil:
    """Whether a value begins with "." or ".." as a whole segment, behind a slash or a dot of the path."""
    cdef size_t dots = 0
    cdef char last
    while dots < n and text[dots] == 46:
        dots += 1
    if not 1 <= dots <= 2 or dots < n and text[dots] != 47 or tg_buffer_size(out) == 0:
        return False
    last = (tg_buffer_tail(<tg_buffer *>out) - 1)[0]
    return last == 47 or last == 46


cdef inline bint is_special(unsigned char c) noexcept nogil:
    """What means something in HTML or in a string of JSON."""
    return c == 34 or c == 38 or c == 39 or c == 60 or c == 62 or c == 92 or c == 9


cdef char *put_entity(char *into, unsigned char c) noexcept nogil:
    """The character reference of a byte: &#34;."""
    memcpy(into, b"&#", 2)
    into[2] = <char>(48 + c // 10)
    into[3] = <char>(48 + c % 10)
    into[4] = 59
    return into + 5


cdef size_t marks_in(const char *text, size_t n) noexcept nogil:
    cdef size_t i, count = 0
    for i in range(n):
        count += text[i] == 0
    return count


cdef char *expand(char *out, const char *text, size_t n, const char *endpoint, size_t endpoint_length) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if text[i] == 0:
            memcpy(out, endpoint, endpoint_length)
            out += endpoint_length
        else:
            out[0] = text[i]
            out += 1
    return out


cdef class RequestValues:
    """The values that texts of `kinds` (Format.kinds) ask of a route whose path is `path`, of `path_kind` (RoutePlan).
    Raises ValueError for a bad expression."""

    def __init__(self, kinds: int, path_kind: str, path: str) -> None:
        self.kinds = kinds
        if not self.kinds >> V_CAPTURE & 1:
            return
        if path_kind == "regex":
            self.regex = Regex(path.encode("latin-1"))
        elif path_kind == "template":
            self.template = Template.parse(path).key

    cdef void capture(self, tg_values *values, const char *path, size_t n) noexcept:
        cdef tg_piece found[REGEX_GROUPS]
        cdef int count, i
        values.captured = path
        if self.regex is not None:
            if not self.regex.find(path, n, 0, values.pieces):
                memset(values.pieces, 0, sizeof(values.pieces))
            return
        memset(values.pieces, 0, sizeof(values.pieces))
        if self.template is None:
            return
        count = template_pieces(<const char *>self.template, <size_t>len(self.template), path, n, found)
        for i in range(min(count, REGEX_GROUPS - 1)):
            values.pieces[i + 1] = found[i]       # names count from 1, as groups do
