"""What a route asks of those who send it requests: see guard.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from lb.http.head cimport H_OTHER, MAX_FIELDS, Field, Scan
from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.net.tls.session cimport Tls
from lb.proxy.access.known cimport (
    ACCESS_DENIED, ACCESS_FORBIDDEN, ACCESS_GRANTED, ACCESS_UNKNOWN, FORBIDDEN, NONE, Decision, Known, known,
)
from lb.proxy.access.provider cimport Provider
from lb.proxy.routing.headers.aliases cimport is_spelling
from lb.proxy.routing.headers.fields cimport put, remove, settle_connection

cdef const char *NAME = "x-tidegate-identity"
cdef enum:
    NAME_SIZE = 19


cdef class Guard:
    """The guard of a plan (`AccessPlan`). `providers` has the worker's by name. Raises KeyError for one that is not
    there."""

    def __init__(self, plan, dict providers not None):
        self.providers = tuple([<Provider>providers[name] for name in plan.providers])
        self.asks = bool(self.providers)
        self.allow = frozenset([name.encode("ascii") for name in plan.allow]) if plan.allow else None
        self.scopes = frozenset(plan.scopes) if plan.scopes else None
        self.claims = tuple([(name, frozenset(values)) for name, values in plan.claims])
        self.short_of_scopes = f', error="insufficient_scope", scope="{" ".join(plan.scopes)}"'.encode("ascii")
        self.trusted = plan.trusted
        self.forward_identity = plan.forward_identity
        self.forward_credential = plan.forward_credential
        found = [(<Provider>provider).challenge for provider in self.providers if (<Provider>provider).challenge]
        self.challenges = b"".join([b"WWW-Authenticate: " + text + b"\r\n" for text in found])
        # RFC 6750 section 3: a request that brings no token is told of no error.
        self.failed = b"".join([
            b"WWW-Authenticate: " + text + (b', error="invalid_token"' if text.startswith(b"Bearer") else b"") + b"\r\n"
            for text in found
        ])

    cdef Known look(self, const Scan *scan, Tls tls, uint64_t now, dict answers):
        cdef Known found = NONE
        cdef Known unknown = None
        cdef Known each
        cdef Provider provider
        for provider in self.providers:
            each = <Known>answers.get(provider) if answers is not None else None
            if each is None:
                each = provider.look(scan, tls, now)
            if each.state == ACCESS_UNKNOWN:
                unknown = each if unknown is None else unknown
                continue
            if each.state == ACCESS_GRANTED:
                if self.allow is not None and each.identity not in self.allow:
                    return known(ACCESS_FORBIDDEN, each.identity)
                if (self.scopes is not None or self.claims) and not self.suffices(each):
                    return self.insufficient(provider, each)
                return each
            if each.state > found.state:      # what says more
                found = each
        if unknown is not None:
            return unknown
        if found.state < ACCESS_FORBIDDEN and not self.challenges:
            return FORBIDDEN                  # there is nothing to ask for but a certificate, in the handshake
        return found

    cdef bint suffices(self, Known found) noexcept:
        cdef object one
        if self.scopes is not None and (found.scopes is None or not self.scopes <= found.scopes):
            return False
        for one in self.claims:
            if found.claims is None or not (<frozenset>(<tuple>one)[1] & <frozenset>found.claims[(<tuple>one)[0]]):
                return False
        return True

    cdef Decision insufficient(self, Provider provider, Known found):
        """RFC 6750 section 3.1: a bearer token is told which scopes it needs."""
        cdef Decision made = Decision.__new__(Decision)
        cdef bint scopes = self.scopes is not None and (found.scopes is None or not self.scopes <= found.scopes)
        made.state = ACCESS_DENIED
        made.status = 403
        made.identity = found.identity
        made.text = "Forbidden: the credential " + (
            f"needs the scopes {' '.join(sorted(self.scopes))}" if scopes else "has not the claims that are needed")
        made.body = b'{"error":"' + made.text.encode("ascii") + b'"}'     # scopes have no quotes and backslashes
        made.lines = b"Content-Type: application/json\r\n"
        if scopes and provider.challenge.startswith(b"Bearer"):
            made.lines += b"WWW-Authenticate: " + provider.challenge + self.short_of_scopes + b"\r\n"
        return made

    cdef void append_challenges(self, tg_buffer *fields, bint failed) noexcept:
        cdef bytes lines = self.failed if failed else self.challenges
        tg_buffer_append(fields, <const char *>lines, <size_t>len(lines))

    cdef list names(self):
        cdef Provider provider
        cdef list names = [NAME[:NAME_SIZE]]
        for provider in self.providers:
            if provider.server is not None:
                names.extend(provider.server.replaced)
        return names

    cdef int mark(self, Scan *scan, Known found) noexcept:
        cdef int i
        cdef Field *field
        cdef Provider provider
        cdef bytes name
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.name_length == NAME_SIZE and is_spelling(field.name, NAME, NAME_SIZE):
                if self.trusted:
                    field.hop = not self.forward_identity
                else:
                    field.hop = True
                    field.name_length = 0     # nobody finds it
        if not self.asks:
            return 0
        for provider in self.providers:
            if provider.server is not None:
                for name in provider.server.replaced:
                    remove_spellings(scan, name)
            elif not self.forward_credential and provider.strip(scan) < 0:
                return -1
        settle_connection(scan)               # a client cannot have it dropped by naming it there
        if isinstance(found, Decision) and decide(scan, <Decision>found) < 0:
            return -1
        if not found.identity:                # an authorization server has granted it without a name
            return 0
        if scan.field_count >= MAX_FIELDS - 1:
            return -1
        field = &scan.fields[scan.field_count]
        field.name = NAME
        field.name_length = NAME_SIZE
        field.value = <const char *>found.identity
        field.value_length = <uint32_t>len(found.identity)
        field.id = H_OTHER
        field.hop = not self.forward_identity
        scan.field_count += 1
        return 0


cdef void remove_spellings(Scan *scan, bytes name) noexcept:
    """A header that only a server sets, with whatever characters between its words."""
    cdef int i
    cdef size_t n = <size_t>len(name)
    for i in range(scan.field_count):
        if scan.fields[i].name_length == n and is_spelling(scan.fields[i].name, <const char *>name, n):
            remove(scan, scan.fields[i].name, n)


cdef int decide(Scan *scan, Decision decision) noexcept:
    """What a server wants removed and added."""
    cdef object one
    for one in decision.removed:
        remove(scan, <const char *><bytes>one, <size_t>len(<bytes>one))
    for one in decision.fields:
        if put(scan, <bytes>(<tuple>one)[0], <bytes>(<tuple>one)[1]) < 0:
            return -1
    return 0
