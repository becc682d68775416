"""Whose requests share a token bucket: see bucket_key.pxd."""

from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcpy
from lb.http.head cimport Scan
from lb.proxy.routing.keys cimport find_value
from lb.proxy.routing.text_key cimport TextKey
from lb.proxy.routing.values.format cimport V_IDENTITY
from lb.shared.buckets cimport Buckets
from lb.upstream.pool cimport (
    KEY_COOKIE, KEY_HEADER, KEY_NONE, KEY_PATH, KEY_QUERY, KEY_SOURCE, KEY_TEXT, KEY_URI,
)

from lb.config.plan.access import IDENTITY

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET6
    int inet_pton(int family, const char *text, void *into)

cdef enum:
    NETWORK_BYTES = 8                 # of an IPv6 address: a client has a /64 and can change the rest at will

cdef dict KINDS = {
    "": KEY_NONE, "header": KEY_HEADER, "cookie": KEY_COOKIE, "query": KEY_QUERY, "source": KEY_SOURCE,
    "identity": KEY_HEADER, "path": KEY_PATH, "uri": KEY_URI, "text": KEY_TEXT,
}


cdef class BucketKey:
    """`kind` and `name` are `key` and `key_name` of a RatePlan, `limit` names the limit that the buckets are of, for a
    route whose path is `path`, of `path_kind`; `maps` are as in Format. Raises as Format does."""

    def __init__(self, str kind, str name, Buckets buckets not None, str limit, path_kind="", path="", maps=None):
        self.buckets = buckets
        self.kind = KINDS[kind]
        self.by_identity = kind == "identity"
        self.name = IDENTITY.encode() if self.by_identity else name.encode()
        if self.kind == KEY_TEXT:
            self.text = TextKey(name, maps, path_kind, path)
            self.by_identity = self.text.wanted.kinds >> V_IDENTITY & 1
        self.salt = buckets.key(limit.encode())

    cdef uint64_t find(self, const Scan *scan, const char *text, size_t text_length, const char *source,
                       size_t n) noexcept:
        cdef const char *value
        cdef size_t length
        cdef uint64_t key
        cdef unsigned char address[16]
        cdef char copy[64]
        if self.kind == KEY_NONE:
            return self.salt
        if self.kind == KEY_TEXT and text_length:
            key = self.buckets.key_of(text, text_length)
        elif self.kind != KEY_SOURCE and find_value(scan, self.kind, <const char *>self.name, <size_t>len(self.name),
                                                    &value, &length):
            key = self.buckets.key_of(value, length)
        else:
            # A request without the key is known by where it comes from, like that of a pool's policy.
            key = 0
            if n < sizeof(copy) and memchr(source, 58, n) != NULL:
                memcpy(copy, source, n)
                copy[n] = 0
                if inet_pton(AF_INET6, copy, address) == 1:
                    key = self.buckets.key_of(address, NETWORK_BYTES)
            if key == 0:
                key = self.buckets.key_of(source, n)
        key ^= self.salt
        return key if key else 1
