"""Past those that have failed: see excluded.pxd."""

from lb.endpoints.choice cimport Choice
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport TAKEN_FULL

cdef void exclude(tg_excluded *excluded, int index) noexcept nogil:
    cdef int i
    if excluded.count and excluded.endpoints[excluded.count - 1] == index:
        return                                # as when it has waited for its turn since
    if excluded.count == EXCLUDED_MOST:
        excluded.count -= 1
        for i in range(EXCLUDED_MOST - 1):
            excluded.endpoints[i] = excluded.endpoints[i + 1]
    excluded.endpoints[excluded.count] = index
    excluded.count += 1


cdef bint others_stand(const tg_excluded *excluded, Choice choice) noexcept nogil:
    """Whether any that was not excluded takes the request, if not now."""
    cdef int i, at
    for i in range(choice.endpoints.size):
        if choice.state_weight(i) > 0:
            for at in range(excluded.count):
                if excluded.endpoints[at] == i:
                    break
            else:
                return True
    return False


cdef int acquire_past(Pool pool, Choice choice, int last, tg_excluded *excluded) noexcept:
    cdef int found, i
    choice.exclude = last
    if last >= 0:
        exclude(excluded, last)
    if excluded.count > 1:
        for i in range(excluded.count):
            choice.rule_out(excluded.endpoints[i])
        found = pool.acquire(choice)
        if found >= 0 or (found == TAKEN_FULL and pool.queue is not None and others_stand(excluded, choice)):
            return found                      # the others are only busy: it waits for one of them
        choice.readmit_all()
    return pool.acquire(choice)
