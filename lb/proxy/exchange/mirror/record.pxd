"""What became of a copy, in the counters and in the standing of its endpoint: as of any other attempt there."""

from libc.stdint cimport uint64_t
from lb.net.poller cimport monotonic_ns
from lb.proxy.tally cimport count_try
from lb.upstream.pool cimport Pool


# It began at `started` and ended with `status`, of ours (502, 504) where no answer came; `code` is of gRPC, -1 = none,
# and `verdict` what that says of the endpoint (lb.upstream.load.outlier).
cdef inline void record_copy(Pool pool, int endpoint, uint64_t started, int status, int code, int verdict) noexcept:
    cdef uint64_t now = monotonic_ns()
    count_try(pool.series[endpoint], status, code, verdict, now - started)
    pool.judge(endpoint, verdict, started, now)
