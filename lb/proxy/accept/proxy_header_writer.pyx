"""The PROXY protocol towards an endpoint: see proxy_header_writer.pxd.

What came in a PROXY header goes on: the addresses, and in version 2 all fields, those of unknown types included. What
we have seen ourselves goes before what the header says: the name in the ClientHello that was passed through, and all of
the TLS that ends here.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset
from lb.net.buffer cimport tg_buffer, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.ip cimport AF_INET, AF_INET6, ip_set, tg_ip
from lb.net.proxy_header cimport proxy_parse, proxy_write, tg_ends, tg_proxy, tg_tlvs
from lb.net.proxy_tls cimport proxy_tls
from lb.net.stream cimport Stream
from lb.proxy.accept.first_bytes cimport FirstBytes
from lb.upstream.pool cimport Pool

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *into, size_t size, unsigned int flags)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    int getsockname(int fd, sockaddr *address, socklen_t *size)
    int getpeername(int fd, sockaddr *address, socklen_t *size)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        pass
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t ntohs(uint16_t value)

cdef enum:
    ID_SIZE = 16                      # 128 random bits: no two connections anywhere meet


cdef int write_proxy_header(tg_buffer *out, Pool pool, Stream client, FirstBytes first_bytes) noexcept:
    cdef tg_ends ends
    cdef tg_tlvs tlvs
    cdef tg_buffer secured
    cdef unsigned char fresh[ID_SIZE]
    cdef int version = 1 if pool.send_proxy == "v1" else 2
    cdef int failed
    memset(&tlvs, 0, sizeof(tlvs))
    memset(&secured, 0, sizeof(secured))
    if first_bytes is not None and first_bytes.proxied:
        ends = first_bytes.ends
    elif socket_ends(client.fd, &ends) < 0:
        return -1
    if version == 2:
        if first_bytes is not None:
            append_first_bytes(first_bytes, &tlvs)
        if pool.send_unique_id and tlvs.unique_id_length == 0:
            if random_id(fresh) < 0:
                return -1
            tlvs.unique_id = fresh
            tlvs.unique_id_length = ID_SIZE
        if client.tls is not None and proxy_tls(client.tls.ssl, &secured, &tlvs) < 0:
            tg_buffer_free(&secured)
            return -1
    failed = proxy_write(out, version, &ends, &tlvs, pool.send_checksum, False)
    tg_buffer_free(&secured)
    if first_bytes is not None:
        tg_buffer_free(&first_bytes.header)  # it is told once; a session may live for days
    return failed


cdef void append_first_bytes(FirstBytes first_bytes, tg_tlvs *tlvs) noexcept:
    """What the connection began with; the fields point into `first_bytes`."""
    cdef tg_proxy came
    cdef const unsigned char *header = <const unsigned char *>tg_buffer_head(&first_bytes.header)
    if tg_buffer_size(&first_bytes.header) and proxy_parse(header, tg_buffer_size(&first_bytes.header), &came) > 0:
        tlvs[0] = came.tlvs
    if first_bytes.sni_length:
        tlvs.authority = <const unsigned char *>first_bytes.sni
        tlvs.authority_length = first_bytes.sni_length


cdef int random_id(unsigned char *into) noexcept nogil:
    cdef ssize_t n
    while True:
        n = getrandom(into, ID_SIZE, 0)           # so few bytes come whole, unless a signal comes first
        if n == ID_SIZE:
            return 0
        if n >= 0 or errno != EINTR:
            return -1


cdef int socket_ends(int fd, tg_ends *ends) noexcept nogil:
    """The ends of a socket's own connection; family 0 for a Unix socket. 0 or -1."""
    cdef sockaddr_storage peer, own
    cdef socklen_t peer_size = sizeof(peer), own_size = sizeof(own)
    cdef tg_ip source, target
    memset(ends, 0, sizeof(tg_ends))
    if getpeername(fd, <sockaddr *>&peer, &peer_size) < 0 or getsockname(fd, <sockaddr *>&own, &own_size) < 0:
        return -1
    if peer.ss_family == AF_INET and own.ss_family == AF_INET:
        memcpy(ends.source, &(<sockaddr_in *>&peer).sin_addr, 4)
        memcpy(ends.target, &(<sockaddr_in *>&own).sin_addr, 4)
        ends.source_port = ntohs((<sockaddr_in *>&peer).sin_port)
        ends.target_port = ntohs((<sockaddr_in *>&own).sin_port)
        ends.family = AF_INET
    elif peer.ss_family == AF_INET6 and own.ss_family == AF_INET6:
        ip_set(&source, AF_INET6, &(<sockaddr_in6 *>&peer).sin6_addr)
        ip_set(&target, AF_INET6, &(<sockaddr_in6 *>&own).sin6_addr)
        if source.family != target.family:
            return 0                              # IPv4 on one end only: it cannot be, and could not be told
        memcpy(ends.source, source.octets, 16)
        memcpy(ends.target, target.octets, 16)
        ends.source_port = ntohs((<sockaddr_in6 *>&peer).sin6_port)
        ends.target_port = ntohs((<sockaddr_in6 *>&own).sin6_port)
        ends.family = source.family
    return 0
