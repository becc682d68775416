"""The cookie by which a client stays with an endpoint: see cookie.pxd.

The value is 43 characters of base64url (RFC 4648 section 5, unpadded) that stand for 32 bytes: a hash of the endpoint's
address under the key (so that the address is not told), the Unix time at which it expires (0: never), both
little-endian, and the first 16 bytes of their keyed BLAKE2b-256 together with the names of pool and cookie. Who does
not have the key can neither make one nor use that of another pool. While keys change there are several: the first
signs.
"""

import hashlib

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from lb.http.token cimport TOKEN, TOKEN_TEXT, read_token, write_token
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_reserve
from lb.shared.hashing cimport tg_digest, tg_digest_final, tg_digest_init, tg_digest_update
from lb.endpoints.set cimport EndpointSet

cdef enum:
    SIGNED = 16                       # bytes of id and time
    DIGEST = 32

cdef inline uint64_t word(const unsigned char *at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)                     # the hosts are little-endian
    return value


cdef class EndpointCookie:
    """Of the pool `plan` (PoolPlan with a CookiePlan), whose endpoints are `endpoints`. Without a key of its own it has
    one made from the segment's secret, which all workers share and which lives as long as the daemon."""

    def __init__(self, plan, EndpointSet endpoints not None):
        cdef int i
        cookie = plan.cookie
        self.endpoints = endpoints
        self.name = cookie.name.encode()
        self.ttl = cookie.ttl_s
        self.keys = tuple([
            hashlib.blake2b(key, digest_size=32, person=b"tidegate-cookie").digest()
            for key in cookie.keys or (endpoints.segment.cache_secret,)
        ])
        self.scope = plan.name.encode() + b"\0" + self.name + b"\0"
        self.tail = "".join([
            f"; Path={cookie.path}",
            f"; Domain={cookie.domain}" if cookie.domain else "",
            f"; Max-Age={cookie.ttl_s}" if cookie.ttl_s else "",
            "; Secure" if cookie.secure else "",
            "; HttpOnly" if cookie.http_only else "",
            f"; SameSite={cookie.same_site.capitalize()}" if cookie.same_site else "",
            "\r\nCache-Control: private\r\n",
        ]).encode()
        self.ids = <uint64_t *>calloc(len(self.keys) * len(endpoints) + 1, sizeof(uint64_t))
        if self.ids == NULL:
            raise MemoryError
        i = 0
        for key in self.keys:
            for address in endpoints.addresses:
                made = hashlib.blake2b(self.scope + address.encode(), digest_size=8, key=key).digest()
                self.ids[i] = int.from_bytes(made, "little")
                i += 1

    def __dealloc__(self):
        free(self.ids)

    cdef int sign(self, bytes key, const unsigned char *token, unsigned char *out) noexcept:
        cdef tg_digest state
        if (tg_digest_init(&state, <const unsigned char *><const char *>key) < 0
                or tg_digest_update(&state, <const char *>self.scope, <size_t>len(self.scope)) < 0
                or tg_digest_update(&state, token, SIGNED) < 0):
            return -1
        return tg_digest_final(&state, out)

    cdef int key_of(self, const unsigned char *token) noexcept:
        cdef unsigned char digest[DIGEST]
        cdef unsigned char differ
        cdef Py_ssize_t number
        cdef int i
        for number in range(len(self.keys)):
            if self.sign(<bytes>self.keys[number], token, digest) < 0:
                return -1
            differ = 0
            for i in range(TOKEN - SIGNED):   # all of them, in a time that tells nothing
                differ |= token[SIGNED + i] ^ digest[i]
            if differ == 0:
                return <int>number
        return -1

    cdef int index_of(self, const char *text, size_t n, uint64_t now, bint *due) noexcept:
        cdef unsigned char token[TOKEN]
        cdef uint64_t id_, expires
        cdef const uint64_t *ids
        cdef int i, key
        due[0] = False
        if n != TOKEN_TEXT or not read_token(text, token):
            return -1
        key = self.key_of(token)
        if key < 0:
            return -1
        id_, expires = word(token), word(token + 8)
        if expires and expires <= now:
            return -1
        # It was signed by a key that goes, half of its time is over, or it was given under another ttl.
        due[0] = key != 0 or (expires == 0) != (self.ttl == 0) or expires != 0 and not (
            self.ttl // 2 < expires - now <= self.ttl)
        ids = self.ids + key * self.endpoints.size
        for i in range(self.endpoints.size):
            if ids[i] == id_:
                return i
        return -1

    def look(self, bytes text not None, uint64_t now):
        """`index_of` for who only asks."""
        cdef bint due
        return self.index_of(<const char *>text, <size_t>len(text), now, &due)

    cdef int append(self, tg_buffer *head, int index, uint64_t now) noexcept:
        cdef unsigned char token[TOKEN]
        cdef unsigned char digest[DIGEST]
        cdef char text[TOKEN_TEXT]
        cdef uint64_t expires = now + self.ttl if self.ttl else 0
        cdef size_t size = 13 + <size_t>len(self.name) + TOKEN_TEXT + <size_t>len(self.tail)
        memcpy(token, &self.ids[index], 8)
        memcpy(token + 8, &expires, 8)
        if self.sign(<bytes>self.keys[0], token, digest) < 0 or tg_buffer_reserve(head, size) < 0:
            return -1
        memcpy(token + SIGNED, digest, TOKEN - SIGNED)
        write_token(token, text)
        tg_buffer_append(head, b"Set-Cookie: ", 12)
        tg_buffer_append(head, <const char *>self.name, <size_t>len(self.name))
        tg_buffer_append(head, b"=", 1)
        tg_buffer_append(head, text, TOKEN_TEXT)
        tg_buffer_append(head, <const char *>self.tail, <size_t>len(self.tail))
        return 0
