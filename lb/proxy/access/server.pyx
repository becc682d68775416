"""An authorization server: see server.pxd.

Over HTTP it is asked as NGINX's auth_request and Traefik's ForwardAuth ask: GET of one path, with headers that say what
the request is. Over gRPC it is asked by Envoy's `envoy.service.auth.v3.Authorization/Check`.
"""

import logging

from libc.string cimport strlen
from lb.http.head cimport H_HOST, Field, Scan, mark_hop_by_hop, same_name
from lb.http.head_text cimport append_text
from lb.http.methods cimport method_text
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_head, tg_buffer_size
from lb.net.tls.certificate cimport CertificateInfo
from lb.net.tls.session cimport Tls
from lb.proxy.access.known cimport ACCESS_DENIED, ACCESS_GRANTED, Decision

from lb.config.plan.access import IDENTITY

log = logging.getLogger("tidegate.auth")

# What a server answers for a client: that it may not, or has to go elsewhere first. Others say that the server is not
# well, or that this is not its path.
cdef frozenset DENIALS = frozenset((301, 302, 303, 307, 308, 401, 403, 429))

# What clients say of where they are and who: a server that is told all is told what is known instead.
cdef frozenset INVENTED = frozenset((
    b"forwarded", b"x-forwarded-client-cert", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port",
    b"x-forwarded-proto", IDENTITY.encode(),
))


cdef class AuthServer:
    """The server of a provider's plan (`ProviderPlan`)."""

    def __init__(self, plan):
        server = plan.server
        self.name = plan.name
        self.grpc = plan.type == "grpc"
        self.pool_name = server.pool
        self.path = server.path.encode("ascii")
        self.host = server.host.encode("ascii")
        self.told = None if server.headers is None else frozenset([name.encode("ascii") for name in server.headers])
        self.taken = frozenset([name.encode("ascii") for name in server.set_request_headers])
        self.identity = server.identity_header.encode("ascii")
        self.replaced = tuple(sorted(self.taken | ({self.identity} if self.identity else set())))
        self.untold = INVENTED.union(self.replaced) if self.told is None else frozenset(self.replaced)
        self.added = frozenset([name.encode("ascii") for name in server.set_response_headers])
        self.denied = frozenset([name.encode("ascii") for name in server.denied_headers])
        self.timeout = server.timeout_ns
        self.cache = server.cache_ns
        self.by_credentials = server.cache_by == "credentials"
        self.max_answer = server.max_answer
        self.lets_through = server.failure_mode_allow
        self.unknown = set()
        if self.grpc:
            from lb.proxy.access import ext_authz     # protobuf, for those who need it
            self.codec = ext_authz

    cdef bint ambiguous(self, const Scan *scan) noexcept:
        cdef int i, count = 0
        if self.told is not None and b"authorization" not in self.told:
            return False
        for i in range(scan.field_count):
            if scan.fields[i].name_length == 13 and same_name(scan.fields[i].name, 13, b"authorization"):
                count += 1
        return count > 1

    cdef int ask(self, tg_buffer *into, Scan *scan, const tg_asker *asker, Tls tls) noexcept:
        cdef bytes message
        mark_hop_by_hop(scan)                 # the endpoint does not see them, so they decide nothing
        if not self.grpc:
            return self.ask_http(into, scan, asker)
        try:
            message = self.message(scan, asker, tls)
        except (MemoryError, ValueError):
            return -1
        return tg_buffer_append(into, <const char *>message, <size_t>len(message))

    cdef int ask_http(self, tg_buffer *into, const Scan *scan, const tg_asker *asker) noexcept:
        cdef size_t n
        cdef const char *method = method_text(scan, asker.method, &n)
        cdef const Field *field
        cdef int i
        cdef int failed = 0
        failed |= line(into, b"X-Forwarded-Method", method, n)
        failed |= line(into, b"X-Original-Method", method, n)
        failed |= line(into, b"X-Forwarded-Proto", asker.scheme, strlen(asker.scheme))
        if scan.first[H_HOST] >= 0:
            field = &scan.fields[scan.first[H_HOST]]
            failed |= line(into, b"X-Forwarded-Host", field.value, field.value_length)
        failed |= line(into, b"X-Forwarded-Uri", scan.target, scan.target_length)
        failed |= line(into, b"X-Original-URI", scan.target, scan.target_length)
        if asker.source_length:
            failed |= line(into, b"X-Forwarded-For", asker.source, asker.source_length)
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if not self.tells(field):
                continue
            failed |= tg_buffer_append(into, field.name, field.name_length)
            failed |= append_text(into, b": ")
            failed |= tg_buffer_append(into, field.value, field.value_length)
            failed |= append_text(into, b"\r\n")
        return failed | append_text(into, b"\r\n")

    cdef bint tells(self, const Field *field) noexcept:
        if field.hop or field.name_length == 0:
            return False
        name = field.name[:field.name_length].lower()
        return name not in self.untold and (self.told is None or name in self.told)

    cdef bytes message(self, const Scan *scan, const tg_asker *asker, Tls tls):
        """Of lb.proxy.access.ext_authz."""
        cdef dict headers = {}
        cdef const Field *field
        cdef CertificateInfo info = tls.client_info() if tls is not None else None
        cdef size_t n
        cdef const char *method = method_text(scan, asker.method, &n)
        cdef bytes name, value
        cdef bytes host = b""
        cdef int i
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.id == H_HOST and not host:
                host = field.value[:field.value_length]
            if self.tells(field):
                name = field.name[:field.name_length].lower()
                value = field.value[:field.value_length]
                if name in headers:
                    value = headers[name] + (b"; " if name == b"cookie" else b",") + value
                headers[name] = value
        if self.told is None:
            if asker.source_length:
                headers[b"x-forwarded-for"] = asker.source[:asker.source_length]
            headers[b"x-forwarded-proto"] = <bytes>asker.scheme
        return self.codec.check_request(
            asker.source[:asker.source_length], asker.port,
            None if info is None else (*info.uris, *info.dns, info.common_name)[0],
            asker.id[:asker.id_length], method[:n], asker.scheme, host, scan.target[:scan.target_length],
            scan.version, <object>scan.content_length if scan.has_length else -1, headers)

    cdef int key(self, tg_buffer *key, const tg_buffer *question, const Scan *scan) noexcept:
        cdef const Field *field
        cdef int i
        cdef int failed = 0
        if not self.by_credentials:
            return tg_buffer_append(key, tg_buffer_head(question), tg_buffer_size(question))
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if self.tells(field):
                lowered = field.name[:field.name_length].lower()
                failed |= line(key, <const char *><bytes>lowered, field.value, field.value_length)
        return failed

    cdef bytes first_lines(self, str address):
        host = self.host or (b"localhost" if address.startswith("unix:") else address.encode("ascii"))
        return b"GET " + self.path + b" HTTP/1.1\r\nHost: " + host + b"\r\n"

    cdef Decision read(self, const Scan *scan):
        cdef Decision made
        cdef const Field *field
        cdef bytes name, value
        cdef bytes identity = b""
        cdef list fields = []
        cdef list lines = []
        cdef bint grants = 200 <= scan.status < 300
        cdef frozenset passed = self.added if grants else self.denied
        cdef int i
        if not grants and scan.status not in DENIALS:
            return None
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if field.hop or field.name_length == 0:
                continue
            name = field.name[:field.name_length].lower()
            value = field.value[:field.value_length]
            if grants and name == self.identity:
                if identity:
                    raise ValueError(f"its answer has two {self.identity.decode()}")
                identity = value
            if grants and name in self.taken:
                fields.append((name, value))
            if name in passed:
                lines.append(field.name[:field.name_length] + b": " + value + b"\r\n")
        if grants:
            made = self.grant(identity)
            made.fields = tuple(fields)
        else:
            made = Decision.__new__(Decision)
            made.state = ACCESS_DENIED
            made.status = scan.status
        made.lines = b"".join(lines)
        return made

    cdef Decision grant(self, bytes identity):
        cdef Decision made = Decision.__new__(Decision)
        if self.identity:
            if not is_identity(identity):
                raise ValueError(f"its answer names nobody in {self.identity.decode()}")
            made.identity = identity
        made.state = ACCESS_GRANTED
        return made

    cdef Decision read_reply(self, const char *data, size_t n):
        cdef Decision made
        found = self.codec.read_response(data[:n])
        if found.status:
            made = Decision.__new__(Decision)
            made.state = ACCESS_DENIED
            made.status = found.status
            made.body = found.body if len(found.body) <= <Py_ssize_t>self.max_answer else b""
        else:
            named = [value for name, value in found.fields if name == self.identity]
            if len(named) > 1:
                raise ValueError(f"its answer has two {self.identity.decode()}")
            made = self.grant(named[0] if named else b"")
            made.fields = tuple([field for field in found.fields if self.may_set(field[0])])
            made.removed = tuple(found.removed)
        made.lines = b"".join([name + b": " + value + b"\r\n" for name, value in found.lines])
        return made

    cdef bint may_set(self, bytes name) noexcept:
        if name in self.taken:
            return True
        if name != self.identity and name not in self.unknown and len(self.unknown) < 100:
            self.unknown.add(name)
            log.warning("auth.%s: the server sets %s, which is not passed on: it is not in set_request_headers",
                        self.name, name.decode())
        return False

    cdef void answered(self) noexcept:
        if self.failing:
            self.failing = False
            log.info("auth.%s: the authorization server answers again", self.name)

    cdef void failed(self, str why) noexcept:
        if not self.failing:
            self.failing = True
            log.error("auth.%s: the authorization server did not decide: %s; requests are %s until it does", self.name,
                      why, "let through" if self.lets_through else "answered with 503")


cdef bint is_identity(bytes text) noexcept:
    return (0 < len(text) <= 255 and text.isascii() and text.strip() == text
            and all([32 <= <unsigned char>c < 127 for c in text]))


cdef int line(tg_buffer *into, const char *name, const char *value, size_t n) noexcept nogil:
    return (append_text(into, name) | append_text(into, b": ") | tg_buffer_append(into, value, n)
            | append_text(into, b"\r\n"))
