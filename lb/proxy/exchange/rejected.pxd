"""Records of requests that never became an exchange: no route took them, or they could not be understood."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport LISTENER_DECLINED_MALFORMED, LISTENER_DECLINED_UNROUTED
from lb.proxy.client.client cimport Client


# In the series of its listener.
cdef inline void count_declined(uint64_t *words, int status) noexcept nogil:
    cdef bint unrouted = status == 404 or status == 405 or status == 415
    tg_add(&words[LISTENER_DECLINED_UNROUTED if unrouted else LISTENER_DECLINED_MALFORMED], 1)


# Writes one, where the access log is on. `scan` has the request's head, NULL = it was not understood; `version` is of
# HTTP, times ten, 0 = not known; `grpc_status` is -1 where the client does not speak gRPC.
cdef void log_declined(Client client, const Scan *scan, int version, int status, int grpc_status) noexcept
