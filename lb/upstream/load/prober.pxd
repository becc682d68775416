"""Probes: questions to a pool's endpoints about their load, for policies that want to know (`Policy.probes`).

They go out after a choice, at the end of the batch of events, over the connections that requests have; nothing waits
for them, and none counts as a request. Each endpoint has one probe, which is sent again and again and is under way once
at most: so their number is bounded, and none is allocated. docs/adr/probes.md has the reasons.
"""

from libc.stdint cimport uint64_t
from lb.balancing.policy cimport Policy
from lb.net.poller cimport Source
from lb.endpoints.set cimport EndpointSet
from lb.upstream.load.load_report cimport tg_load


cdef enum probed:
    PROBE_ANSWERED = 0
    PROBE_LATE                        # not in time
    PROBE_FAILED                      # no connection, or it broke
    PROBE_VOID                        # the answer does not say what is in flight


cdef class Probe:
    """That of one endpoint."""
    cdef Prober prober                # None: it is not under way
    cdef int index
    cdef uint64_t *words              # of the endpoint's series
    cdef uint64_t sent

    # For the subclasses. False: that failed at once.
    cdef bint send(self, uint64_t deadline) noexcept
    # The answer has come: its report as REPORT_…, or none.
    cdef void answered(self, int kind, const char *report, size_t n) noexcept
    cdef void failed(self, bint late) noexcept
    cdef void finish(self, int result, tg_load *load) noexcept


cdef class Prober(Source):
    cdef str name                     # of the pool
    cdef Policy policy
    cdef EndpointSet endpoints
    cdef list probes                  # of each endpoint
    cdef int *order                   # a permutation of the endpoints, of which draws are made
    cdef double rate                  # probes for each choice
    cdef double due
    cdef uint64_t timeout
    cdef uint64_t max_idle            # 0 = no probes without choices
    cdef uint64_t state               # of the random numbers
    cdef readonly int under_way
    cdef bint stopped
    cdef bint complained

    # A choice was made.
    cdef void ask(self) noexcept
    # To `count` endpoints that take requests, drawn without replacement.
    cdef void send(self, int count) noexcept
    cdef void over(self, Probe probe, int result, tg_load *load) noexcept
    cdef int below(self, int n) noexcept
