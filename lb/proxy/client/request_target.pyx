"""The target of an HTTP/1.1 request: see request_target.pxd."""

from libc.stdint cimport uint32_t
from lb.http.authority cimport read_authority
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_HOST, M_OTHER, Field, Scan, same_name, scan_field, worker_scan
from lb.http.http1 cimport Parser, new_request_parser

cdef enum:
    M_OPTIONS = 6                     # llhttp's number

# The target of a request whose own has no path but a query, until the next one.
cdef tg_buffer rooted


cdef size_t head_size(Scan *scan) noexcept:
    cdef Field *last
    cdef size_t method = scan.method_length if scan.method == M_OTHER else 0
    if scan.field_count == 0:
        return method + scan.target_length
    last = &scan.fields[scan.field_count - 1]
    return method + <size_t>(last.name + last.name_length + last.value_length - scan.target)


def read_target(bytes head not None) -> tuple[bytes, bytes] | None:
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
    cdef const char *end
    cdef Field *field
    cdef size_t n, own = 0
    host[0] = b""
    host_length[0] = 0
    if scan.first[H_HOST] >= 0:
        field = &scan.fields[scan.first[H_HOST]]
        host[0] = field.value
        host_length[0] = field.value_length
        if not read_authority(host[0], host_length[0], &own):
            return False                              # RFC 9112 section 3.2, even where the target names another
    if scan.target_length == 1 and scan.target[0] == 42:
        if scan.method != M_OPTIONS:
            return False                              # asterisk-form is for it alone (RFC 9112 section 3.2.4)
    elif scan.target_length and scan.target[0] != 47:
        # absolute-form (RFC 9112 section 3.2.2): its authority replaces Host.
        n = scan.target_length
        if n > 7 and same_name(scan.target, 7, b"http://"):
            n = 7
        elif n > 8 and same_name(scan.target, 8, b"https://"):
            n = 8
        else:
            return False
        host[0] = scan.target + n
        end = scan.target + scan.target_length
        while n < scan.target_length and scan.target[n] != 47 and scan.target[n] != 63:
            n += 1
        host_length[0] = <size_t>(scan.target + n - host[0])
        scan.target += n
        scan.target_length = <uint32_t>(end - scan.target)
        if scan.target_length == 0:
            # OPTIONS without a path asks about the server as a whole (RFC 9112 section 3.2.4).
            scan.target = b"*" if scan.method == M_OPTIONS else b"/"
            scan.target_length = 1
        elif scan.target[0] == 63 and not root_target(scan):
            return False
        if host_length[0] == 0:
            return False
        if scan.first[H_HOST] >= 0:
            scan.fields[scan.first[H_HOST]].value = host[0]
            scan.fields[scan.first[H_HOST]].value_length = <uint32_t>host_length[0]
        elif scan_field(scan, b"Host", 4, host[0], host_length[0]) < 0:
            return False                          # HTTP/1.0, which has it nowhere else
        return read_authority(host[0], host_length[0], host_length)
    host_length[0] = own
    return True


cdef bint root_target(Scan *scan) noexcept:
    """A query behind no path is one of the root (RFC 9112 section 3.2.1)."""
    tg_buffer_clear(&rooted)
    if (tg_buffer_append(&rooted, b"/", 1) < 0
            or tg_buffer_append(&rooted, scan.target, scan.target_length) < 0):
        return False
    scan.target = tg_buffer_head(&rooted)
    scan.target_length = <uint32_t>tg_buffer_size(&rooted)
    return True
