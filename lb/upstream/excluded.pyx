"""Past those that have failed: see excluded.pxd."""

from libc.stdint cimport uint64_t
from lb.endpoints.set cimport EndpointSet
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport TAKEN_FULL

cdef enum:
    SHUT = -1                         # a limit that whatever is in flight has reached


cdef void tried_add(tg_tried *tried, int index) noexcept nogil:
    cdef int i
    if tried.count and tried.endpoints[tried.count - 1] == index:
        return                                # as when it has waited for its turn since
    if tried.count == TRIED_MOST:
        tried.count -= 1
        for i in range(TRIED_MOST - 1):
            tried.endpoints[i] = tried.endpoints[i + 1]
    tried.endpoints[tried.count] = index
    tried.count += 1


cdef void tried_shut(tg_tried *tried, EndpointSet endpoints) noexcept nogil:
    cdef int i
    for i in range(tried.count):
        tried.limits[i] = endpoints.limits[tried.endpoints[i]]
        endpoints.limits[tried.endpoints[i]] = SHUT


cdef void tried_open(tg_tried *tried, EndpointSet endpoints) noexcept nogil:
    cdef int i
    for i in range(tried.count - 1, -1, -1):      # the reverse: one may be there twice
        endpoints.limits[tried.endpoints[i]] = tried.limits[i]


cdef bint others_stand(const tg_tried *tried, EndpointSet endpoints) noexcept nogil:
    """Whether any that was not tried takes requests, if not now."""
    cdef int i, at
    for i in range(endpoints.size):
        if endpoints.standing_weight(i) > 0:
            for at in range(tried.count):
                if tried.endpoints[at] == i:
                    break
            else:
                return True
    return False


cdef int acquire_untried(Pool pool, uint64_t now, uint64_t key, int last, tg_tried *tried, uint64_t wanted,
                         bint turn) noexcept:
    cdef int found
    if last >= 0:
        tried_add(tried, last)
    if tried.count > 1:
        tried_shut(tried, pool.endpoints)
        found = pool.acquire_wanted(now, key, last, wanted, turn)
        tried_open(tried, pool.endpoints)
        if found >= 0 or (found == TAKEN_FULL and pool.queue is not None and others_stand(tried, pool.endpoints)):
            return found                      # the others are only busy: it waits for one of them
    return pool.acquire_wanted(now, key, last, wanted, turn)
