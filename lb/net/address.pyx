"""Socket addresses from text: see address.pxd."""

import logging
import os
import socket

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset, strerror
from lb.net.keepalive cimport keepalive_of, keepalive_set
from lb.net.tls.peer cimport Peer

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)
    int inet_pton(int family, const char *text, void *into)


log = logging.getLogger("tidegate.upstream")


cdef class Address:
    """Parses `text`; raises ValueError when it is not an address with a literal IP or a Unix path, or its interface
    is not there.

    `tls`: whom connections to it must prove to be with. `keepalive`: a KeepalivePlan for them, None for none.
    """

    def __cinit__(self, str text, Peer tls=None, keepalive=None):
        self.text = text
        self.tls = tls
        self.keepalive = keepalive_of(keepalive)
        memset(self.storage, 0, sizeof(self.storage))
        if text.startswith("unix:"):
            self.parse_unix(os.fsencode(text[5:]))
            return
        host, separator, port = text.rpartition(":")
        if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"not an address: {text!r}")
        if host.startswith("[") and host.endswith("]"):
            host, _, scope = host[1:len(host) - 1].partition("%")
            self.parse_v6(host.encode(), int(port), scope)
        else:
            self.parse_v4(host.encode(), int(port))

    def parse_unix(self, bytes path):
        cdef sockaddr_un *un = <sockaddr_un *>self.storage
        cdef size_t size = len(path)
        if not path or b"\0" in path or size >= sizeof(un.sun_path):
            raise ValueError(f"not a Unix socket path: {self.text!r}")
        self.family = AF_UNIX
        un.sun_family = AF_UNIX
        memcpy(un.sun_path, <const char *>path, size)
        self.length = <uint32_t>(sizeof(unsigned short) + size + 1)
        if path[:1] == b"@":
            un.sun_path[0] = 0
            self.length -= 1

    def parse_v4(self, bytes host, int port):
        cdef sockaddr_in *v4 = <sockaddr_in *>self.storage
        self.family = AF_INET
        v4.sin_family = AF_INET
        v4.sin_port = htons(<uint16_t>port)
        self.length = sizeof(sockaddr_in)
        if inet_pton(AF_INET, host, &v4.sin_addr) != 1:
            raise ValueError(f"not an IPv4 address: {self.text!r}")

    def parse_v6(self, bytes host, int port, str scope):
        cdef sockaddr_in6 *v6 = <sockaddr_in6 *>self.storage
        self.family = AF_INET6
        v6.sin6_family = AF_INET6
        v6.sin6_port = htons(<uint16_t>port)
        self.length = sizeof(sockaddr_in6)
        if inet_pton(AF_INET6, host, &v6.sin6_addr) != 1:
            raise ValueError(f"not an IPv6 address: {self.text!r}")
        if scope:
            try:
                v6.sin6_scope_id = int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
            except OSError as failure:
                raise ValueError(f"{self.text}: there is no interface {scope}") from failure

    cdef void keep_alive(self, int fd) noexcept:
        cdef int failed
        if not self.keepalive.on or self.family == AF_UNIX:
            return
        failed = keepalive_set(fd, &self.keepalive)
        if failed and not self.complained:
            self.complained = True
            log.warning("endpoint %s: tcp_keepalive: %s", self.text, strerror(failed).decode())

    def __repr__(self):
        return f"<Address {self.text}>"
