"""Past those that have failed: see excluded.pxd."""

from lb.endpoints.choice cimport Choice
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport TAKEN_FULL

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


cdef bint others_stand(const tg_tried *tried, Choice choice) noexcept nogil:
    """Whether any that was not tried takes the request, if not now."""
    cdef int i, at
    for i in range(choice.endpoints.size):
        if choice.standing_weight(i) > 0:
            for at in range(tried.count):
                if tried.endpoints[at] == i:
                    break
            else:
                return True
    return False


cdef int acquire_untried(Pool pool, Choice choice, int last, tg_tried *tried) noexcept:
    cdef int found, i
    choice.exclude = last
    if last >= 0:
        tried_add(tried, last)
    if tried.count > 1:
        for i in range(tried.count):
            choice.rule_out(tried.endpoints[i])
        found = pool.acquire(choice)
        if found >= 0 or (found == TAKEN_FULL and pool.queue is not None and others_stand(tried, choice)):
            return found                      # the others are only busy: it waits for one of them
        choice.readmit_all()
    return pool.acquire(choice)
