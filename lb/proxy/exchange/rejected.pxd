"""Records of requests that never became an exchange: no route took them, or they could not be understood."""

from libc.stdint cimport uint64_t
from lb.failure cimport COUNT_UNROUTED, failure_of
from lb.http.head cimport Scan
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport LISTENER_REJECTED_REQUESTS_MALFORMED, LISTENER_REJECTED_REQUESTS_UNROUTED
from lb.proxy.client.client cimport Client


# In the series of its listener.
cdef inline void count_rejected(uint64_t *words, int kind) noexcept nogil:
    cdef bint unrouted = failure_of(kind).counter == COUNT_UNROUTED
    tg_add(&words[LISTENER_REJECTED_REQUESTS_UNROUTED if unrouted else LISTENER_REJECTED_REQUESTS_MALFORMED], 1)


# Writes one, where the access log is on. `scan` has the request's head, NULL = it was not understood; `version` is of
# HTTP, times ten, 0 = not known; `grpc`: the client speaks gRPC, and is told a status of that.
cdef void log_rejected(Client client, const Scan *scan, int version, int kind, bint grpc) noexcept
