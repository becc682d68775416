"""The quotas of a route: see quota.pxd. The counts are the segment's, so that they hold over all workers.

What a client is told follows draft-ietf-httpapi-ratelimit-headers-10, as with rate limits (rate.pyx): q are the
requests of a window and w its seconds, r what is left and t the seconds until the window is over.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcpy, memset
from lb.http.head cimport Scan
from lb.http.head_text cimport append_number, append_text
from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.proxy.routing.keys cimport find_value
from lb.shared.quotas cimport Quotas
from lb.shared.segment cimport TG_QUOTA_NAME
from lb.upstream.pool cimport KEY_HEADER, KEY_NONE, KEY_SOURCE

import hashlib

from lb.config.plan.access import IDENTITY
from lb.config.windows import window

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET6
        INET6_ADDRSTRLEN
    int inet_pton(int family, const char *text, void *into)
    const char *inet_ntop(int family, const void *address, char *into, unsigned int room)

cdef enum:
    SECOND_NS = 1_000_000_000
    LONGEST_VALUE = 128               # bytes of a client that stand in its name as they are
    KEPT = 64                         # of a longer one, before its digest
    NETWORK_BYTES = 8                 # of an IPv6 address: a client has a /64 and can change the rest at will

cdef dict KINDS = {"identity": KEY_HEADER, "header": KEY_HEADER, "source": KEY_SOURCE, "all": KEY_NONE}
cdef char[TG_QUOTA_NAME] NAME         # of the client that is looked at


cdef bytes shortened(const char *value, size_t n):
    """A long value as it stands in a name: its beginning, and what tells it from others."""
    return value[:KEPT] + b"~" + hashlib.blake2b(value[:n], digest_size=16).hexdigest().encode()


cdef class Quota:
    """`plan` is a QuotaPlan."""

    def __init__(self, plan, Quotas quotas not None):
        self.quotas = quotas
        self.name = plan.name
        self.label = plan.name.encode("ascii") + b"\0"
        self.kind = KINDS[plan.key]
        self.header = (IDENTITY if plan.key == "identity" else plan.header).encode("ascii")
        self.requests = plan.requests
        self.overrides = {client.encode("ascii"): n for client, n in plan.overrides} or None
        self.per = plan.per
        self.told = plan.fields == "standard"
        self.policy = f'RateLimit-Policy: "{plan.name}";q='.encode()
        self.item = f'RateLimit: "{plan.name}";r='.encode()

    cdef int follow(self, int64_t wall) noexcept:
        if self.begins <= wall < self.ends:
            return 0
        try:
            now = window(self.per, wall)
            self.window.start, self.window.span = now.start, now.span
            self.begins, self.ends = now.start * 60, now.end * 60
        except (MemoryError, ValueError, OverflowError):      # the latter of a clock that nobody has
            return -1
        return 0

    cdef size_t client_of(self, const Scan *scan, const char *source, size_t n, uint64_t *limit) noexcept:
        """The client's name into NAME: the quota's, a NUL, `=` and its value or `@` and its address. Its length, and
        what it may use; 0: out of memory."""
        cdef size_t at = <size_t>len(self.label)
        cdef const char *value = NULL
        cdef size_t length = 0
        cdef unsigned char address[16]
        cdef char text[64]
        limit[0] = self.requests
        memcpy(NAME, <const char *>self.label, at)
        if self.kind == KEY_NONE:
            return at
        if self.kind == KEY_HEADER and find_value(
                scan, KEY_HEADER, <const char *>self.header, <size_t>len(self.header), &value, &length):
            NAME[at] = c'='
        else:
            # A request without the key is known by where it comes from.
            NAME[at] = c'@'
            value, length = source, n
            if n < sizeof(text) and memchr(source, 58, n) != NULL:
                memcpy(text, source, n)
                text[n] = 0
                if inet_pton(AF_INET6, text, address) == 1:
                    memset(address + NETWORK_BYTES, 0, sizeof(address) - NETWORK_BYTES)
                    if inet_ntop(AF_INET6, address, text, INET6_ADDRSTRLEN) != NULL:
                        length = 0
                        while text[length] != 0:
                            length += 1
                        memcpy(text + length, b"/64", 3)
                        length += 3
                        value = text
        at += 1
        try:
            if length > LONGEST_VALUE:
                short = shortened(value, length)
                length = <size_t>len(short)
                memcpy(NAME + at, <const char *>short, length)
            else:
                memcpy(NAME + at, value, length)
            if self.overrides is not None and (NAME[at - 1] == c'@') == (self.kind == KEY_SOURCE):
                limit[0] = self.overrides.get((NAME + at)[:length], self.requests)
        except MemoryError:
            return 0
        return at + length

    cdef bint take(self, const Scan *scan, const char *source, size_t n, int64_t wall, tg_quota_use *use) noexcept:
        cdef uint64_t limit
        cdef size_t length
        if self.follow(wall) < 0:
            return False
        length = self.client_of(scan, source, n, &limit)
        use.limit = limit
        use.used = limit
        use.length = <uint64_t>(self.ends - self.begins)
        use.reset = <uint64_t>(self.ends - wall)
        return length and self.quotas.take(
            self.quotas.key_of(NAME, length), NAME, length, &self.window, limit, &use.used)

    cdef void put_back(self, const Scan *scan, const char *source, size_t n) noexcept:
        cdef uint64_t limit
        cdef size_t length = self.client_of(scan, source, n, &limit)
        if length:
            self.quotas.put_back(self.quotas.key_of(NAME, length), &self.window)


cdef class QuotaUse:

    cdef uint64_t wait(self) noexcept:
        return self.uses[self.count - 1].reset * <uint64_t>SECOND_NS if self.refused_by is not None else 0

    cdef int append(self, tg_buffer *out) noexcept:
        cdef int failed = 0, i
        cdef Quota quota
        cdef tg_quota_use *use
        if self.refused_by is not None:
            failed |= append_text(out, b"Retry-After: ")
            failed |= append_number(out, self.uses[self.count - 1].reset)
            failed |= append_text(out, b"\r\n")
        for i in range(self.count):
            quota = <Quota>self.quotas[i]
            use = &self.uses[i]
            if not quota.told:
                continue
            failed |= tg_buffer_append(out, <const char *>quota.policy, <size_t>len(quota.policy))
            failed |= append_number(out, use.limit)
            failed |= append_text(out, b";w=")
            failed |= append_number(out, use.length)
            failed |= append_text(out, b"\r\n")
            failed |= tg_buffer_append(out, <const char *>quota.item, <size_t>len(quota.item))
            failed |= append_number(out, use.limit - use.used if use.limit > use.used else 0)
            failed |= append_text(out, b";t=")
            failed |= append_number(out, use.reset)
            failed |= append_text(out, b"\r\n")
        return failed


cdef QuotaUse use_quotas(tuple quotas, const Scan *scan, const char *source, size_t n, int64_t wall_ns):
    cdef QuotaUse made = QuotaUse.__new__(QuotaUse)
    cdef int64_t wall = wall_ns // SECOND_NS
    cdef Quota quota
    cdef int i
    made.quotas = quotas
    for quota in quotas:
        made.count += 1
        if not quota.take(scan, source, n, wall, &made.uses[made.count - 1]):
            made.refused_by = quota
            break
    if made.refused_by is not None:
        for i in range(made.count - 1):
            quota = <Quota>quotas[i]
            quota.put_back(scan, source, n)
            made.uses[i].used -= 1
    return made
