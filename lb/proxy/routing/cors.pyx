"""Cross-origin requests: see cors.pxd."""

from libc.string cimport memcmp
from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.http.head cimport Field, Scan, same_name
from lb.http.head_text cimport append_text
from lb.http.regex cimport Regex

cdef enum:
    ORIGIN_ROOM = 512                 # longer than any that a browser sends
    NAME_LENGTH = 15                  # of "access-control-"


cdef const Field *field_of(const Scan *scan, const char *name) noexcept:
    cdef int i
    for i in range(scan.field_count):
        if same_name(scan.fields[i].name, scan.fields[i].name_length, name):
            return &scan.fields[i]
    return NULL


cdef const Field *preflight_method(const Scan *scan) noexcept:
    if field_of(scan, b"origin") == NULL:
        return NULL
    return field_of(scan, b"access-control-request-method")


cdef void drop_cors(Scan *scan) noexcept:
    cdef int i
    for i in range(scan.field_count):
        if scan.fields[i].name_length > NAME_LENGTH and same_name(
                scan.fields[i].name, NAME_LENGTH, b"access-control-"):
            scan.fields[i].hop = True


cdef inline bint is_host_octet(unsigned char c) noexcept nogil:
    return 97 <= c <= 122 or 48 <= c <= 57 or c == 45 or c == 46 or c == 95


cdef class Cors:
    """Of a CorsPlan. Raises ValueError for a bad expression."""

    def __init__(self, plan):
        self.any = "*" in plan.origins
        self.exact = frozenset([origin.encode("ascii") for origin in plan.origins if "*" not in origin])
        self.below = tuple([
            tuple([part.encode("ascii") for part in origin.split("*")])
            for origin in plan.origins if "://*." in origin
        ])
        self.regexes = tuple([Regex(regex.encode("ascii")) for regex in plan.regexes])
        lines = ["Access-Control-Allow-Credentials: true"] if plan.credentials else []
        simple = list(lines)
        if plan.expose_headers:
            simple.append(f"Access-Control-Expose-Headers: {plan.expose_headers}")
        lines.append(f"Access-Control-Allow-Methods: {plan.allow_methods}")
        if plan.allow_headers:
            lines.append(f"Access-Control-Allow-Headers: {plan.allow_headers}")
        lines.append(f"Access-Control-Max-Age: {plan.max_age_s}")
        self.said = "".join([f"{line}\r\n" for line in simple]).encode("ascii")
        self.preflight = "".join([f"{line}\r\n" for line in lines]).encode("ascii")

    cdef const Field *origin_of(self, const Scan *scan) noexcept:
        cdef const Field *field = field_of(scan, b"origin")
        if field == NULL or field.value_length > ORIGIN_ROOM or not self.allows(field.value, field.value_length):
            return NULL
        return field

    cdef bint allows(self, const char *origin, size_t n) noexcept:
        cdef bytes first, last
        cdef size_t i, begin, end
        if self.any or origin[:n] in self.exact:
            return True
        for first, last in self.below:
            begin = <size_t>len(first)
            end = <size_t>len(last)
            if n <= begin + end or memcmp(origin, <const char *>first, begin) != 0 or memcmp(
                    origin + n - end, <const char *>last, end) != 0:
                continue
            for i in range(begin, n - end):
                if not is_host_octet(<unsigned char>origin[i]):
                    break
            else:
                return True
        for regex in self.regexes:
            if (<Regex>regex).search(origin, n):
                return True
        return False

    cdef int append(self, tg_buffer *head, const char *origin, size_t n, bint preflight) noexcept:
        cdef bytes lines = self.preflight if preflight else self.said
        cdef int failed = 0
        if not self.any:
            failed |= append_text(head, b"Vary: Origin\r\n")      # caches have to keep the answers apart
            if not n:
                return failed
        failed |= append_text(head, b"Access-Control-Allow-Origin: ")
        failed |= append_text(head, b"*") if self.any else tg_buffer_append(head, origin, n)
        failed |= append_text(head, b"\r\n")
        return failed | tg_buffer_append(head, <const char *>lines, <size_t>len(lines))
