"""X-Forwarded-Client-Cert, in Envoy's format: see client_certificate.pxd.

An endpoint takes this field for the truth, so one that a client sends never gets through, on any listener.
"""

from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.http.head cimport Field, Scan
from lb.http.head_text cimport append_text
from lb.proxy.client.client cimport Client

cdef const char *NAME = "x-forwarded-client-cert"

cdef enum:
    NAME_SIZE = 23


cdef bint is_it(const char *name) noexcept nogil:
    """Whatever is neither letter nor digit counts as a dash: to many an application server (WSGI, CGI) it is one."""
    cdef int i
    cdef char c
    for i in range(NAME_SIZE):
        c = name[i]
        if c'A' <= c <= c'Z':
            c += 32
        elif not (c'a' <= c <= c'z' or c'0' <= c <= c'9'):
            c = c'-'
        if c != NAME[i]:
            return False
    return True


cdef int append_client_certificate(tg_buffer *request, Client client, Scan *scan) noexcept:
    cdef int i
    cdef Field *field
    cdef bytes certificate
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == NAME_SIZE and is_it(field.name):
            field.hop = True
    if client.tls is None or client.tls.context is None or not client.tls.context.client_auth:
        return 0
    try:
        certificate = client.tls.client_certificate()
    except (MemoryError, ValueError):
        return -1
    if certificate is None:
        return 0
    append_text(request, b"X-Forwarded-Client-Cert: ")
    if tg_buffer_append(request, <const char *>certificate, <size_t>len(certificate)) < 0:
        return -1
    return append_text(request, b"\r\n")
