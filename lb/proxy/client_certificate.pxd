"""X-Forwarded-Client-Cert: the client's certificate, for the endpoint."""

from lb.core.buffer cimport tg_buffer
from lb.core.head cimport Scan
from lb.proxy.client cimport Client


# Keeps the client's own fields of this name out, and appends ours where a certificate was shown. 0 or -1.
cdef int append_client_certificate(tg_buffer *request, Client client, Scan *scan) noexcept
