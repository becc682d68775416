"""What a client is told whose exchange gets no endpoint: see no_endpoint.pxd."""

from lb.failure cimport (
    FAIL_NO_ENDPOINT, FAIL_QUEUE_FULL, FAIL_QUEUE_LATE, FAIL_QUEUE_SHED, FAIL_QUEUE_TIMEOUT, FAIL_TIMEOUT,
)
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport Q_FULL, Q_HOPELESS, Q_NO_START, Q_NOBODY, Q_SHED, Q_TIMEOUT


cdef bint is_at_zero(Pool pool, int why) noexcept:
    return why == Q_NO_START or pool.queue is not None and pool.queue.at_zero()


cdef tuple no_endpoint(Pool pool, int why, bint late):
    cdef str name = pool.name
    if is_at_zero(pool, why):
        return at_zero(pool, why, late)
    if why == Q_HOPELESS and late:
        return FAIL_TIMEOUT, f"no endpoint of pool {name} had room in time"
    if why == Q_NOBODY and pool.trouble is not None and not pool.takes_requests():
        return FAIL_NO_ENDPOINT, f"no endpoint of pool {name} is available: {pool.trouble}"
    if why == Q_NOBODY:
        return FAIL_NO_ENDPOINT, f"no endpoint of pool {name} is available"
    if why == Q_HOPELESS:
        return FAIL_QUEUE_LATE, f"the queue of pool {name} is too long to answer in time"
    if why == Q_SHED:
        return FAIL_QUEUE_SHED, f"pool {name} is overloaded"
    if why == Q_TIMEOUT:
        return FAIL_QUEUE_TIMEOUT, f"the endpoints of pool {name} were busy for too long"
    return FAIL_QUEUE_FULL, f"the endpoints of pool {name} are busy, and its queue is full"


cdef tuple at_zero(Pool pool, int why, bint late):
    """The pool has no model server that takes requests, and the exchange no time or place to wait for one."""
    cdef str name = pool.name
    if why == Q_NO_START:
        return FAIL_NO_ENDPOINT, f"no endpoint of pool {name} is available: {pool.queue.trouble}"
    if why == Q_HOPELESS and late:
        return FAIL_TIMEOUT, f"no endpoint of pool {name} was ready in time"
    if why == Q_HOPELESS:
        return FAIL_QUEUE_LATE, f"pool {name} has no endpoint yet, whose start takes too long to answer in time"
    if why == Q_TIMEOUT:
        return FAIL_QUEUE_TIMEOUT, f"no endpoint of pool {name} was ready for too long"
    if why == Q_FULL:
        return FAIL_QUEUE_FULL, f"pool {name} has no endpoint yet, and its queue is full"
    return FAIL_NO_ENDPOINT, f"no endpoint of pool {name} is available"
