"""X-Forwarded-Client-Cert: the client's certificate, for the endpoint."""

from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.proxy.client.client cimport Client


# Keeps the client's own fields of this name out, and appends ours where a certificate was shown. 0 or -1.
cdef int append_client_certificate(tg_buffer *request, Client client, Scan *scan) noexcept
