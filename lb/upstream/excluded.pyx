"""Past those that have failed: see excluded.pxd."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc
from lb.endpoints.choice cimport Choice
from lb.upstream.pool cimport Pool
from lb.upstream.queue cimport TAKEN_FULL

cdef void exclude(tg_excluded **excluded, int index) noexcept nogil:
    cdef tg_excluded *known = excluded[0]
    cdef int i, at
    if known == NULL:
        known = excluded[0] = <tg_excluded *>calloc(1, sizeof(tg_excluded))
        if known == NULL:
            return
    if known.count and known.endpoints[known.count - 1] == index:
        return                                # as when it has waited for its turn since
    at = place_of(known, index)
    if at < 0 and known.count == EXCLUDED_MOST:
        at = 0
    if at >= 0:
        known.count -= 1
        for i in range(at, known.count):
            known.endpoints[i] = known.endpoints[i + 1]
            known.until[i] = known.until[i + 1]
    known.endpoints[known.count] = index
    known.until[known.count] = 0
    known.count += 1


cdef void forget_excluded(tg_excluded *excluded) noexcept nogil:
    if excluded != NULL:
        excluded.count = 0


cdef int place_of(const tg_excluded *excluded, int index) noexcept nogil:
    """Where `index` stands among them, -1 where it does not."""
    cdef int at
    for at in range(excluded.count):
        if excluded.endpoints[at] == index:
            return at
    return -1


cdef uint64_t exclude_until(tg_excluded **excluded, Choice choice, int index, uint64_t until) noexcept nogil:
    cdef tg_excluded *known
    cdef uint64_t soonest = until
    cdef int i, at
    exclude(excluded, index)
    known = excluded[0]
    if known == NULL:
        return until
    known.until[known.count - 1] = until
    for i in range(choice.endpoints.size):
        if choice.state_weight(i) > 0:
            at = place_of(known, i)
            if at < 0:
                return 0
            soonest = min(soonest, known.until[at])
    return soonest


cdef bint others_stand(const tg_excluded *excluded, Choice choice) noexcept nogil:
    """Whether any that was not excluded takes the request, if not now."""
    cdef int i
    for i in range(choice.endpoints.size):
        if choice.state_weight(i) > 0 and place_of(excluded, i) < 0:
            return True
    return False


cdef bint rule_out_early(const tg_excluded *excluded, Choice choice) noexcept:
    """Rules out those that may not be asked yet; whether there are any."""
    cdef bint any_early = False
    cdef int i
    for i in range(excluded.count):
        if excluded.until[i] > choice.now:
            choice.rule_out(excluded.endpoints[i])
            any_early = True
    return any_early


cdef int acquire_past(Pool pool, Choice choice, int last, tg_excluded **excluded) noexcept:
    cdef tg_excluded *known
    cdef int found, i
    choice.exclude = last
    if last >= 0:
        exclude(excluded, last)
    known = excluded[0]
    if known != NULL and known.count > 1:
        for i in range(known.count):
            choice.rule_out(known.endpoints[i])
        found = pool.acquire(choice)
        if found >= 0 or (found == TAKEN_FULL and pool.queue is not None and others_stand(known, choice)):
            return found                      # the others are only busy: it waits for one of them
        choice.readmit_all()
        if rule_out_early(known, choice):
            found = pool.acquire(choice)
            if found >= 0:
                return found
            choice.readmit_all()
    return pool.acquire(choice)
