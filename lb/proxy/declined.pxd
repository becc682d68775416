"""Records of requests that never became an exchange: no route took them, or they could not be understood."""

from lb.core.head cimport Scan
from lb.proxy.client cimport Client


# Writes one, where the access log is on. `scan` has the request's head, NULL = it was not understood; `version` is of
# HTTP, times ten, 0 = not known; `grpc_status` is -1 where the client does not speak gRPC.
cdef void log_declined(Client client, const Scan *scan, int version, int status, int grpc_status) noexcept
