"""Conditions of a route besides host, path and method: see conditions.pxd.

They look at the head where it lies. Only what is percent-encoded is copied, into one buffer of the worker.
"""

import ipaddress

from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_head, tg_buffer_reserve, tg_buffer_size
from lb.shared.hashing cimport hash64
from lb.http.head cimport H_CONTENT_TYPE, H_COOKIE, Field, Scan
from lb.http.methods cimport method_text
from lb.http.regex cimport Regex
from lb.net.source_key cimport hash_source, tg_prefixes
from lb.proxy.routing.stick cimport Comparison
from lb.proxy.routing.values.format cimport (
    V_CAPTURE, V_CLIENT_ADDRESS, V_HOST, V_METHOD, V_PATH, V_QUERY_STRING, V_URI, Format, RequestValues, tg_values,
)
from lb.proxy.routing.values.lookup cimport Lookup
from lb.shared.stick_tables cimport stick_now
from lb.upstream.pool cimport KEY_COOKIE, KEY_HEADER, KEY_QUERY, KEY_SOURCE

from lb.config.values import CLOSE, OPEN
from lb.proxy.routing.values.lookup import build

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef extern from *:
    """
    #include <stddef.h>
    extern void *memmem(const void *text, size_t n, const void *part, size_t m);
    """
    void *memmem(const void *text, size_t n, const void *part, size_t m) noexcept nogil

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *address)

cdef enum:
    HOW_PRESENT = 0
    HOW_EXACT
    HOW_PREFIX
    HOW_SUFFIX
    HOW_CONTAINS
    HOW_REGEX
    HOW_ONE_OF

cdef dict WHAT = {
    "header": WHAT_HEADER, "query": WHAT_QUERY, "cookie": WHAT_COOKIE, "source": WHAT_SOURCE, "grpc": WHAT_GRPC,
    "model": WHAT_MODEL, "host": WHAT_HOST, "path": WHAT_PATH, "method": WHAT_METHOD, "map": WHAT_MAP,
    "table": WHAT_TABLE, "any": WHAT_ANY,
}
cdef dict HOW = {
    "present": HOW_PRESENT, "exact": HOW_EXACT, "prefix": HOW_PREFIX, "suffix": HOW_SUFFIX, "contains": HOW_CONTAINS,
    "regex": HOW_REGEX, "one_of": HOW_ONE_OF, "map": HOW_ONE_OF, "comparison": HOW_PRESENT,
}

cdef const char *V4_MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"
cdef const char *MODELS = b"/v2/models/"
cdef enum:
    MODELS_LENGTH = 11

# What is decoded goes here: at most a request's target, whose size the listener limits.
cdef tg_buffer decoded
# A map's value, until it is compared.
cdef tg_buffer mapped


cdef int hex_digit(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= (c | 32) <= 102:
        return (c | 32) - 87
    return -1


cdef bint decode(const char **text, size_t *n, bint plus) noexcept nogil:
    """Percent-decodes into `decoded`, where there is anything to decode; `plus` takes + for a space. An escape that is
    none stays as it is. False: no memory."""
    cdef size_t i = 0
    cdef char *out
    cdef int high, low
    if memchr(text[0], 37, n[0]) == NULL and (not plus or memchr(text[0], 43, n[0]) == NULL):
        return True
    tg_buffer_clear(&decoded)
    if tg_buffer_reserve(&decoded, n[0]) < 0:
        return False
    out = decoded.data
    while i < n[0]:
        high = hex_digit(text[0][i + 1]) if text[0][i] == 37 and i + 2 < n[0] else -1
        low = hex_digit(text[0][i + 2]) if high >= 0 else -1
        if low >= 0:
            out[0] = <char>(high << 4 | low)
            i += 3
        else:
            out[0] = 32 if plus and text[0][i] == 43 else text[0][i]
            i += 1
        out += 1
    n[0] = <size_t>(out - decoded.data)
    text[0] = decoded.data
    return True


cdef bint next_pair(const char *text, size_t size, char separator, size_t *at, const char **name, size_t *name_length,
                    const char **value, size_t *value_length) noexcept nogil:
    """The next `name=value` of a query or a Cookie field, from *at on. False at the end."""
    cdef size_t i = at[0], stop
    cdef const char *equals
    while i < size and (text[i] == separator or text[i] == 32 or text[i] == 9):
        i += 1
    if i >= size:
        return False
    stop = i
    while stop < size and text[stop] != separator:
        stop += 1
    at[0] = stop
    name[0] = text + i
    equals = <const char *>memchr(text + i, 61, stop - i)
    if equals == NULL:
        name_length[0] = stop - i
        value[0] = text + stop
        value_length[0] = 0
        return True
    name_length[0] = <size_t>(equals - (text + i))
    value[0] = equals + 1
    value_length[0] = <size_t>(text + stop - (equals + 1))
    return True


cdef class Condition:
    """One condition of a route (`ConditionPlan`). `maps` are as in Format. Raises ValueError for a bad expression or
    network, KeyError for a kind, or a map, that there is not."""

    def __init__(self, plan, maps=None, path_kind="", path=""):
        self.what = WHAT[plan.what]
        self.how = HOW[plan.how]
        self.invert = plan.invert
        self.name = plan.name.encode()
        self.value = plan.value.encode()
        if self.how == HOW_REGEX:
            # Names of hosts are the same in either case.
            self.regex = Regex(self.value, self.what == WHAT_HOST)
        if plan.how == "one_of":
            texts = [text.encode() for text in plan.texts]
            if self.what == WHAT_METHOD:
                self.methods = frozenset(texts)
            else:
                self.lookup = Lookup(build({text: b"" for text in texts}, "exact", self.what == WHAT_HOST))
        elif plan.how == "map":
            self.lookup = maps[plan.value][1]
        if self.what == WHAT_MAP:
            self.text = Format(f"{OPEN}map.{plan.name}{CLOSE}", "text", maps)
            self.wanted = RequestValues(self.text.kinds, path_kind, path)
        if self.what == WHAT_TABLE:
            self.comparison = Comparison(plan.comparison, {plan.name: maps["table", plan.name]}, maps)
            self.text = self.comparison.key
            self.wanted = RequestValues(self.text.kinds, path_kind, path)
        self.groups = tuple([
            tuple([Condition(each, maps, path_kind, path) for each in group]) for group in plan.groups
        ])
        networks = []
        for text in plan.networks:
            network = ipaddress.ip_network(text)
            bits = network.prefixlen + (96 if network.version == 4 else 0)
            packed = network.network_address.packed
            networks.append((packed if network.version == 6 else bytes(10) + b"\xff\xff" + packed) + bytes([bits]))
        self.networks = b"".join(networks)

    cdef bint holds(self, tg_facts *facts) noexcept:
        return self.found(facts) != self.invert

    cdef bint found(self, tg_facts *facts) noexcept:
        """Whether the request has it, before `invert`."""
        cdef const Scan *scan = facts.scan
        cdef const Field *field
        cdef const char *wanted = <const char *>self.name
        cdef size_t n = <size_t>len(self.name)
        cdef const char *name = NULL
        cdef const char *value = NULL
        cdef size_t name_length = 0, value_length = 0, at = 0
        cdef int i
        if self.what >= WHAT_HOST:
            return self.holds_more(facts)
        if self.what == WHAT_HEADER:
            for i in range(scan.field_count):
                field = &scan.fields[i]
                if (field.name_length == n and strncasecmp(field.name, wanted, n) == 0
                        and self.accepts(field.value, field.value_length)):
                    return True
            return False
        if self.what == WHAT_SOURCE:
            return self.in_networks(facts)
        if self.what == WHAT_GRPC:
            return is_grpc(scan)
        if self.what == WHAT_COOKIE:
            for i in range(scan.field_count):
                field = &scan.fields[i]
                if field.id != H_COOKIE:
                    continue
                at = 0
                while next_pair(field.value, field.value_length, 59, &at, &name, &name_length, &value, &value_length):
                    if name_length == n and memcmp(name, wanted, n) == 0 and self.accepts(value, value_length):
                        return True
            return False
        if self.what == WHAT_MODEL:
            if facts.path_length <= MODELS_LENGTH or memcmp(facts.path, MODELS, MODELS_LENGTH) != 0:
                return False
            value = facts.path + MODELS_LENGTH
            name = <const char *>memchr(value, 47, facts.path_length - MODELS_LENGTH)
            value_length = facts.path_length - MODELS_LENGTH if name == NULL else <size_t>(name - value)
            return decode(&value, &value_length, False) and self.accepts(value, value_length)
        while next_pair(facts.query, facts.query_length, 38, &at, &name, &name_length, &value, &value_length):
            # The name's copy is done with when the value's takes its place.
            if (decode(&name, &name_length, True) and name_length == n and memcmp(name, wanted, n) == 0
                    and decode(&value, &value_length, True) and self.accepts(value, value_length)):
                return True
        return False

    cdef bint holds_more(self, tg_facts *facts) noexcept:
        """The same of what is no part of the head's lists."""
        cdef tg_values values
        cdef const char *text
        cdef size_t n = 0
        cdef object group
        if self.what == WHAT_HOST:
            n = facts.host_length
            if n and facts.host[n - 1] == 46:
                n -= 1                        # absolute, as RouteTable.find has it
            return self.accepts(facts.host, n)
        if self.what == WHAT_PATH:
            return self.accepts(facts.path, facts.path_length)
        if self.what == WHAT_METHOD:
            text = method_text(facts.scan, facts.method, &n)
            return text[:n] in self.methods
        if self.what == WHAT_ANY:
            for group in self.groups:
                if all_hold(<tuple>group, facts):
                    return True
            return False
        gather_facts(&values, facts, self.wanted)
        tg_buffer_clear(&mapped)
        if self.text.append(&mapped, &values) < 0 or tg_buffer_size(&mapped) == 0:
            return False                      # the map has nothing for it
        if self.what == WHAT_TABLE:
            return self.comparison.accepts(self.comparison.table.look(
                tg_buffer_head(&mapped), tg_buffer_size(&mapped), self.comparison.field, stick_now()))
        return self.accepts(tg_buffer_head(&mapped), tg_buffer_size(&mapped))

    cdef bint accepts(self, const char *text, size_t n) noexcept:
        cdef const char *found = NULL
        cdef size_t length = 0
        cdef const char *value = <const char *>self.value
        cdef size_t size = <size_t>len(self.value)
        if self.how == HOW_PRESENT:
            return True
        if self.how == HOW_EXACT:
            return n == size and compared(text, value, n, self.what == WHAT_HOST)
        if self.how == HOW_ONE_OF:
            return self.lookup.find(text, n, &found, &length)
        if self.how == HOW_REGEX:
            return self.regex.search(text, n)
        if n < size:
            return False
        if self.how == HOW_PREFIX:
            return compared(text, value, size, self.what == WHAT_HOST)
        if self.how == HOW_SUFFIX:
            return compared(text + (n - size), value, size, self.what == WHAT_HOST)
        return memmem(text, n, value, size) != NULL

    cdef bint in_networks(self, tg_facts *facts) noexcept:
        cdef const unsigned char *network = <const unsigned char *><const char *>self.networks
        cdef Py_ssize_t count = len(self.networks) // 17, _i
        cdef int whole, rest
        if facts.address_state == 0:
            facts.address_state = 1 if parse_ip(facts.ip, facts.ip_length, facts.address) else -1
            facts.mapped = memcmp(facts.address, V4_MAPPED, 12) == 0
        if facts.address_state < 0:
            return False
        for _i in range(count):
            whole = network[16] // 8
            rest = network[16] % 8
            # A network of IPv6 that is wider than all of IPv4 (such as ::/0) does not mean IPv4.
            if (network[16] >= 96 or not facts.mapped) and memcmp(network, facts.address, <size_t>whole) == 0 and (
                    rest == 0 or (network[whole] ^ facts.address[whole]) >> (8 - rest) == 0):
                return True
            network += 17
        return False


cdef inline bint compared(const char *a, const char *b, size_t n, bint fold) noexcept nogil:
    return (strncasecmp(a, b, n) if fold else memcmp(a, b, n)) == 0


cdef bint all_hold(tuple conditions, tg_facts *facts) noexcept:
    cdef object condition
    for condition in conditions:
        if not (<Condition>condition).holds(facts):
            return False
    return True


cdef void gather_facts(tg_values *values, const tg_facts *facts, RequestValues wanted) noexcept:
    memset(values.known, 0, sizeof(values.known))
    values.scan = facts.scan
    values.known[V_CLIENT_ADDRESS].at, values.known[V_CLIENT_ADDRESS].n = facts.ip, facts.ip_length
    values.known[V_HOST].at, values.known[V_HOST].n = facts.host, facts.host_length
    values.known[V_PATH].at, values.known[V_PATH].n = facts.path, facts.path_length
    values.known[V_QUERY_STRING].at, values.known[V_QUERY_STRING].n = facts.query, facts.query_length
    values.known[V_URI].at, values.known[V_URI].n = facts.scan.target, facts.scan.target_length
    if wanted.kinds >> V_METHOD & 1:
        values.known[V_METHOD].at = method_text(facts.scan, facts.method, &values.known[V_METHOD].n)
    if wanted.kinds >> V_CAPTURE & 1:
        wanted.capture(values, facts.path, facts.path_length)


cdef bint parse_ip(const char *text, size_t n, unsigned char *address) noexcept nogil:
    cdef char copy[46]
    if n == 0 or n >= sizeof(copy):
        return False
    memcpy(copy, text, n)
    copy[n] = 0
    if memchr(text, 58, n) != NULL:
        return inet_pton(AF_INET6, copy, address) == 1
    memcpy(address, V4_MAPPED, 12)
    return inet_pton(AF_INET, copy, address + 12) == 1


cdef bint is_grpc(const Scan *scan) noexcept nogil:
    """Content type application/grpc, with or without a message format, or gRPC-Web's."""
    cdef const Field *field
    cdef char c
    if scan.first[H_CONTENT_TYPE] < 0:
        return False
    field = &scan.fields[scan.first[H_CONTENT_TYPE]]
    if field.value_length < 16 or strncasecmp(field.value, b"application/grpc", 16) != 0:
        return False
    if field.value_length == 16:
        return True
    c = field.value[16]
    return c == 43 or c == 59 or c == 32 or c == 45      # + ; space -


cdef bint key_of(const tg_facts *facts, int kind, bytes name, const tg_prefixes *prefixes, uint64_t *key) noexcept:
    cdef const Scan *scan = facts.scan
    cdef const Field *field
    cdef const char *wanted = <const char *>name
    cdef size_t n = <size_t>len(name)
    cdef const char *got = NULL
    cdef const char *value = NULL
    cdef size_t got_length = 0, value_length = 0, at = 0
    cdef int i
    if kind == KEY_SOURCE:
        key[0] = hash_source(facts.ip, facts.ip_length, prefixes)
        return facts.ip_length != 0
    if kind == KEY_QUERY:
        while next_pair(facts.query, facts.query_length, 38, &at, &got, &got_length, &value, &value_length):
            if got_length == n and memcmp(got, wanted, n) == 0:
                key[0] = hash64(value, value_length)
                return True
        return False
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if kind == KEY_HEADER and field.name_length == n and strncasecmp(field.name, wanted, n) == 0:
            key[0] = hash64(field.value, field.value_length)
            return True
        if kind == KEY_COOKIE and field.id == H_COOKIE:
            at = 0
            while next_pair(field.value, field.value_length, 59, &at, &got, &got_length, &value, &value_length):
                if got_length == n and memcmp(got, wanted, n) == 0:
                    key[0] = hash64(value, value_length)
                    return True
    return False
