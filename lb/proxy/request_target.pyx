"""The target of an HTTP/1.1 request: see request_target.pxd."""

from libc.stdint cimport uint32_t
from libc.string cimport memchr
from lb.core.head cimport H_HOST, M_OTHER, Field, Scan, same_name, scan_field, worker_scan
from lb.core.http1 cimport Parser, new_request_parser
from lb.proxy.admission cimport routing_host

cdef enum:
    M_OPTIONS = 6                     # llhttp's number


cdef size_t head_size(Scan *scan) noexcept:
    cdef Field *last
    cdef size_t method = scan.method_length if scan.method == M_OTHER else 0
    if scan.field_count == 0:
        return method + scan.target_length
    last = &scan.fields[scan.field_count - 1]
    return method + <size_t>(last.name + last.name_length + last.value_length - scan.target)


def read_target(bytes head not None):
    """(host, target) by which a request is routed whose HTTP/1.1 head is `head`, before the path's normal form; None:
    it is answered with 400. ValueError when `head` is not a whole head."""
    cdef Parser parser = new_request_parser()
    cdef Scan *scan = worker_scan()
    cdef const char *host
    cdef size_t n
    if parser.execute(scan, <const char *>head, <size_t>len(head)) != len(head):
        raise ValueError("not a whole head")
    if scan.host_count != 1 or not request_target(scan, &host, &n):
        return None
    return host[:n], scan.target[:scan.target_length]


cdef bint request_target(Scan *scan, const char **host, size_t *host_length) noexcept:
    cdef const char *slash
    cdef Field *field
    cdef size_t n
    host[0] = NULL
    host_length[0] = 0
    if scan.first[H_HOST] >= 0:
        field = &scan.fields[scan.first[H_HOST]]
        host[0] = field.value
        host_length[0] = field.value_length
    if scan.target_length == 1 and scan.target[0] == 42:
        if scan.method != M_OPTIONS:
            return False                              # asterisk-form is for it alone (RFC 9112 section 3.2.4)
    elif scan.target_length and scan.target[0] != 47:
        # absolute-form (RFC 9112 section 3.2.2): its authority replaces Host. A query right behind it is
        # refused below, as part of the host.
        n = scan.target_length
        if n > 7 and same_name(scan.target, 7, b"http://"):
            n = 7
        elif n > 8 and same_name(scan.target, 8, b"https://"):
            n = 8
        else:
            return False
        host[0] = scan.target + n
        slash = <const char *>memchr(host[0], 47, scan.target_length - n)
        if slash == NULL:
            host_length[0] = scan.target_length - n
            # OPTIONS without a path asks about the server as a whole (RFC 9112 section 3.2.4).
            scan.target = b"*" if scan.method == M_OPTIONS else b"/"
            scan.target_length = 1
        else:
            host_length[0] = <size_t>(slash - host[0])
            scan.target_length -= <uint32_t>(slash - scan.target)
            scan.target = slash
        if host_length[0] == 0:
            return False
        if scan.first[H_HOST] >= 0:
            scan.fields[scan.first[H_HOST]].value = host[0]
            scan.fields[scan.first[H_HOST]].value_length = <uint32_t>host_length[0]
        elif scan_field(scan, b"Host", 4, host[0], host_length[0]) < 0:
            return False                          # HTTP/1.0, which has it nowhere else
    return routing_host(host[0], host_length)
