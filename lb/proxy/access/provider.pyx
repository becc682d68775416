"""A provider of identities: see provider.pxd.

A credential is known by its SipHash-2-4 of 128 bits under a key that this process draws for the provider, and by
nothing else. To all who have not the key the hash is a random one, and nobody is shown it: a guess has the hash of
another credential with a probability of one in 2^128. Tables are looked up by it: how long a look-up takes says nothing
of what is in the table to somebody who chooses credentials, since they cannot choose hashes.
"""

import hashlib
import os

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from lb.http.head cimport Field, Scan, same_name
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
)
from lb.net.tls.certificate cimport CertificateInfo
from lb.net.tls.session cimport Tls
from lb.proxy.access.known cimport (
    ACCESS_GRANTED, ACCESS_UNKNOWN, BAD, FORBIDDEN, NONE, UNAVAILABLE, Decision, Known, known,
)
from lb.proxy.access.server cimport AuthServer
from lb.proxy.routing.keys cimport count_values, find_value
from lb.shared.hashing cimport hash128_keyed
from lb.upstream.pool cimport KEY_HEADER, KEY_QUERY

from lb.proxy.access.checks import Checker

cdef enum:
    KIND_API_KEY = 0
    KIND_MTLS
    KIND_BASIC
    KIND_JWT
    KIND_SERVER
    TOKEN_MOST = 16384                # bytes of a token; none that is longer is looked at
    REFUSED_MOST = 1024               # credentials that were refused, kept for REFUSED_NS
    REFUSED_NS = 2_000_000_000
    REMEMBERED = 8192                 # credentials, in each of the two tables
    DECISION_MOST = 4096              # bytes of a decision; none that is larger is remembered
    LONGEST = 255                     # bytes of an identity: room for `sub` of Kubernetes and of GitHub Actions
    LONGEST_S = 365 * 24 * 3600

cdef dict KINDS = {
    "api_key": KIND_API_KEY, "mtls": KIND_MTLS, "basic": KIND_BASIC, "jwt": KIND_JWT, "http": KIND_SERVER,
    "grpc": KIND_SERVER,
}
cdef const char *BEARER = b"bearer "
cdef const char *BASIC = b"basic "
cdef tg_buffer rest                   # of a target without its key


def is_identity(str text) -> bool:
    """Whether a header can name somebody so: 1 to 255 printable ASCII characters, the outer ones no spaces."""
    return 0 < len(text) <= LONGEST and text.isascii() and text.isprintable() and text == text.strip()


cdef class Provider:
    """The provider of a plan (`ProviderPlan`), with the Check that its kind needs, or None, by a thread that answers to
    `loop`."""

    def __init__(self, plan, check=None, loop=None):
        self.name = plan.name
        self.digest = plan.digest
        self.kind = KINDS[plan.type]
        self.placed = (plan.header or plan.query).encode("ascii")
        self.place = <const char *>self.placed
        self.header_length = <size_t>len(plan.header)
        self.query_length = <size_t>len(plan.query)
        if self.kind == KIND_BASIC:
            self.scheme, self.scheme_length = BASIC, 6
        elif plan.header == "authorization":
            self.scheme, self.scheme_length = BEARER, 7
        self.checker = Checker(check, plan.name, loop) if check is not None else None
        if plan.server is not None:
            self.server = AuthServer(plan)
            self.unasked = known(ACCESS_UNKNOWN)
            self.unasked.provider = self
        self.secret = os.urandom(16)
        self.keys = {
            self.digest_of(<const char *><bytes>key, 32): (name.encode("ascii"), frozenset(scopes))
            for name, key, scopes in plan.keys
        }
        self.names = plan.names
        self.waiting = {}
        self.recent = {}
        self.older = {}
        self.refused = {}
        if self.kind == KIND_MTLS or self.kind == KIND_SERVER:
            self.challenge = b""
        elif self.kind == KIND_BASIC:
            self.challenge = f'Basic realm="{plan.name}", charset="UTF-8"'.encode()
        else:
            scheme = "Bearer" if self.scheme != NULL or self.kind == KIND_JWT else "ApiKey"
            self.challenge = f'{scheme} realm="{plan.name}"'.encode()

    def close(self):
        """It is in force no more."""
        if self.checker is not None:
            self.checker.close()

    cdef bytes digest_of(self, const char *data, size_t n):
        cdef unsigned char digest[16]
        hash128_keyed(data, n, <const unsigned char *><const char *>self.secret, digest)
        return (<char *>digest)[:16]

    cdef Known look(self, const Scan *scan, Tls tls, uint64_t now):
        cdef const char *value
        cdef size_t n
        cdef int found
        if self.kind == KIND_MTLS:
            return self.of_certificate(tls, now)
        if self.kind == KIND_SERVER:
            return self.of_server(scan)
        found = self.find(scan, &value, &n)
        if found <= 0:
            return NONE if found == 0 else BAD
        return self.of_key(value, n) if self.kind == KIND_API_KEY else self.of_checked(value, n, now)

    cdef int find(self, const Scan *scan, const char **value, size_t *n) noexcept nogil:
        cdef int kind = KEY_HEADER if self.header_length else KEY_QUERY
        cdef const char *name = self.place
        cdef size_t length = self.header_length if self.header_length else self.query_length
        if not find_value(scan, kind, name, length, value, n):
            return 0
        if count_values(scan, kind, name, length) != 1:
            return -1
        if self.scheme == NULL:
            return 1 if n[0] else -1
        if n[0] < self.scheme_length or not same_name(value[0], self.scheme_length, self.scheme):
            return 0                          # of another scheme
        value[0] += self.scheme_length
        n[0] -= self.scheme_length
        while n[0] and value[0][0] == 32:
            value[0] += 1
            n[0] -= 1
        return 1 if n[0] else -1

    cdef Known recall(self, bytes digest, uint64_t now):
        cdef Known found = <Known>self.recent.get(digest)
        if found is None:
            found = <Known>self.older.get(digest)
            if found is None:
                return None
            self.remember(digest, found)
        return found if now < found.until else None

    cdef Known settle(self, bytes digest, object outcome, uint64_t now):
        cdef Known found
        if not outcome.available:
            return UNAVAILABLE
        if outcome.identity is None or not is_identity(outcome.identity):
            if len(self.refused) >= REFUSED_MOST:
                self.refused = {}
            self.refused[digest] = now + REFUSED_NS
            return BAD
        found = known(ACCESS_GRANTED, outcome.identity.encode("ascii"),
                      now + <uint64_t>(min(<double>outcome.seconds, <double>LONGEST_S) * 1e9))
        found.scopes = outcome.scopes
        found.claims = outcome.claims
        self.remember(digest, found)
        return found

    cdef Known recall_decision(self, bytes digest, uint64_t now):
        cdef Known found = <Known>self.refused.get(digest)
        return found if found is not None and now < found.until else self.recall(digest, now)

    cdef void keep_decision(self, bytes digest, Decision decision, uint64_t now) noexcept:
        """What sets a cookie is for one client, and what is large would fill the memory."""
        if decision.size() > DECISION_MOST or b"\nset-cookie:" in b"\n" + decision.lines.lower():
            return
        decision.until = now + self.server.cache
        if decision.state == ACCESS_GRANTED:
            self.remember(digest, decision)
            return
        if len(self.refused) >= REFUSED_MOST:
            self.refused = {}
        self.refused[digest] = decision

    cdef void remember(self, bytes digest, Known found):
        if len(self.recent) >= REMEMBERED:
            self.older = self.recent
            self.recent = {}
        self.recent[digest] = found

    cdef Known of_key(self, const char *value, size_t n):
        cdef bytes digest = self.digest_of(value, n)
        cdef Known found = self.recall(digest, 0)
        cdef bytes sha
        if found is not None:
            return found
        sha = hashlib.sha256(value[:n]).digest()
        key = self.keys.get(self.digest_of(<const char *>sha, 32))
        if key is None:
            return BAD                        # not remembered: guesses do not push out what is good
        found = known(ACCESS_GRANTED, <bytes>(<tuple>key)[0])
        found.scopes = <frozenset>(<tuple>key)[1]
        self.remember(digest, found)
        return found

    cdef Known of_checked(self, const char *value, size_t n, uint64_t now):
        cdef bytes digest
        cdef Known found
        if n > TOKEN_MOST:
            return BAD
        digest = self.digest_of(value, n)
        found = self.recall(digest, now)
        if found is not None:
            return found
        if self.kind == KIND_JWT and not is_token(value, n):
            return BAD
        until = self.refused.get(digest)
        if until is not None and now < <uint64_t>until:
            return BAD
        found = known(ACCESS_UNKNOWN)
        found.provider = self
        found.digest = digest
        found.credential = value[:n]
        return found

    cdef Known of_certificate(self, Tls tls, uint64_t now):
        cdef CertificateInfo info = tls.client_info() if tls is not None else None
        cdef bytes digest
        cdef Known found
        if info is None:
            return NONE
        digest = info.fingerprint.encode("ascii")
        found = self.recall(digest, 0)
        if found is None:
            name = self.name_in(info)
            found = FORBIDDEN if name is None else known(ACCESS_GRANTED, name.encode("ascii"))
            self.remember(digest, found)
        return found

    cdef Known of_server(self, const Scan *scan):
        """A server may look at the first of two credentials, and the endpoint at the last."""
        return BAD if self.server.ambiguous(scan) else self.unasked

    def name_in(self, CertificateInfo info not None) -> str | None:
        """The first of the certificate's names that is accepted."""
        for name in (*info.uris, *info.dns, info.common_name):
            if is_identity(name) and (not self.names or any([accepts(pattern, name) for pattern in self.names])):
                return name
        return None

    cdef int strip(self, Scan *scan) noexcept:
        cdef int i
        cdef Field *field
        if self.header_length:
            for i in range(scan.field_count):
                field = &scan.fields[i]
                if field.name_length == self.header_length and same_name(field.name, field.name_length, self.place):
                    field.hop = True
        elif self.query_length:
            return strip_query(scan, self.place, self.query_length)
        return 0


cdef bint is_token(const char *value, size_t n) noexcept nogil:
    """Whether it has the form of a signed token: three parts of base64url with dots between them."""
    cdef int dots = 0
    cdef size_t i
    cdef char c
    for i in range(n):
        c = value[i]
        if c == c'.':
            dots += 1
        elif not (c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c'0' <= c <= c'9' or c == c'-' or c == c'_'):
            return False
    return dots == 2


def accepts(str pattern not None, str name not None) -> bool:
    """Whether a pattern accepts a name of a certificate. One of hosts accepts no URI whose path ends as a host."""
    if pattern.startswith("*."):
        return (name.lower().endswith(pattern[1:].lower()) and len(name) >= len(pattern)
                and all([c.isalnum() or c in "*-._" for c in name]))
    if "://" in pattern and pattern.endswith("*"):
        return name.startswith(pattern[:len(pattern) - 1]) and len(name) >= len(pattern)
    return name == pattern


cdef int strip_query(Scan *scan, const char *name, size_t n) noexcept nogil:
    """The target without the parameters of this name, in a buffer of the worker's that is good until the next call."""
    cdef const char *end = scan.target + scan.target_length
    cdef const char *at = <const char *>memchr(scan.target, 63, scan.target_length)
    cdef const char *stop
    cdef size_t path
    if at == NULL:
        return 0
    path = <size_t>(at - scan.target)
    tg_buffer_clear(&rest)
    if tg_buffer_reserve(&rest, scan.target_length) < 0 or tg_buffer_append(&rest, scan.target, path) < 0:
        return -1
    while at < end:
        at += 1
        stop = <const char *>memchr(at, 38, <size_t>(end - at))
        if stop == NULL:
            stop = end
        if not (<size_t>(stop - at) > n and at[n] == 61 and memcmp(at, name, n) == 0):
            tg_buffer_append(&rest, b"?" if tg_buffer_size(&rest) == path else b"&", 1)
            tg_buffer_append(&rest, at, <size_t>(stop - at))
        at = stop
    scan.target = tg_buffer_head(&rest)
    scan.target_length = <uint32_t>tg_buffer_size(&rest)
    return 0
