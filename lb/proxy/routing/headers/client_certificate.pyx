"""X-Forwarded-Client-Cert, in Envoy's format: see client_certificate.pxd.

An endpoint takes this field for the truth, so one that a client sends never gets through, on any listener.
"""

from lb.net.buffer cimport tg_buffer, tg_buffer_append
from lb.http.head cimport Field, Scan
from lb.http.head_text cimport append_text
from lb.proxy.client.client cimport Client
from lb.proxy.routing.headers.aliases cimport is_spelling

cdef const char *NAME = "x-forwarded-client-cert"

cdef enum:
    NAME_SIZE = 23


cdef int append_client_certificate(tg_buffer *request, Client client, Scan *scan) noexcept:
    cdef int i
    cdef Field *field
    cdef bytes certificate
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == NAME_SIZE and is_spelling(field.name, NAME, NAME_SIZE):
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
