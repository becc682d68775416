"""The ejection state of a pool's endpoints: well, ejected, or on probation, by their own answers.

An ejection is one compare-and-swap of one word, in whichever process comes first; all that takes time, such as when it
ends and that it is logged, is the master's, who sees the word. So a process that dies between any two instructions
leaves nothing half done.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from lb.shared.atomics cimport (
    tg_cas32,
    tg_fence_full,
    tg_load32,
    tg_load32_relaxed,
    tg_pause,
    tg_store32,
    tg_store32_relaxed,
    tg_store64_relaxed,
)
from lb.shared.hashing cimport tg_mix64
from lb.shared.segment cimport (
    TG_EJECTION_SHIFT,
    TG_SHARE_GROUP,
    TG_SHARE_GROUP_SHIFT,
    TG_SHARE_HELD,
    TG_SHARE_PANIC,
    TG_SHARE_WHOLE,
    TG_STATE_EJECTED,
    TG_STATE_MASK,
    TG_STATE_PROBATION,
    TG_STATE_WELL,
    Segment,
    tg_endpoint,
)

cdef enum:
    TURNS = 4                         # attempts to take the last place, against others that eject at the same moment


cdef class EjectionStates:
    """The endpoints whose records are at `slots` of `segment`. An index into `slots` names an endpoint.

    Methods for Python raise IndexError for an index out of range and ValueError once the segment is closed; the
    constructor IndexError for a slot outside the segment.
    """

    def __init__(self, Segment segment not None, slots: Sequence[int]):
        cdef int i
        if self.records is not NULL:
            raise RuntimeError("EjectionStates are initialised once")
        capacity = segment.endpoint_capacity
        for slot in slots:
            if not 0 <= slot < capacity:
                raise IndexError(f"endpoint slot {slot} is not in 0 to {capacity - 1}")
        self.segment = segment
        # One more than needed: calloc(0) may give NULL.
        self.records = <tg_endpoint **> calloc(len(slots) + 1, sizeof(tg_endpoint *))
        if self.records is NULL:
            raise MemoryError
        for i, slot in enumerate(slots):
            self.records[i] = segment.endpoint(slot)
        self.size = len(slots)

    def __dealloc__(self):
        free(self.records)

    cdef int check(self, int i) except -1:
        if not 0 <= i < self.size:
            raise IndexError(f"endpoint {i} is not in 0 to {self.size - 1}")
        if self.segment.base is NULL:
            raise ValueError("the shared segment is closed")
        return 0

    cdef uint32_t ejection_state(self, int i) noexcept nogil:
        return tg_load32_relaxed(&self.records[i].ejection_state) & TG_STATE_MASK

    cdef int count_ejected(self) noexcept nogil:
        cdef int i, count = 0
        for i in range(self.size):
            count += self.ejection_state(i) == TG_STATE_EJECTED
        return count

    cdef bint eject(self, int i, uint32_t reason, int most, int rank) noexcept nogil:
        """Exact among processes without a lock, as EndpointSet.take: each ejects, then counts. Of those that eject at
        the same moment the last sees all others, so that no more than `most` stay ejected; it may be that each sees the
        others and all step back, and so they try again, some a little later than others. One that dies before it could
        step back leaves one too many, which the master undoes when it looks (lb.health.outlier)."""
        cdef tg_endpoint *record = self.records[i]
        cdef uint32_t before, after = TG_STATE_EJECTED | (reason << TG_EJECTION_SHIFT)
        cdef int turn, _pause
        for turn in range(TURNS):
            before = tg_load32(&record.ejection_state)
            if before & TG_STATE_MASK == TG_STATE_EJECTED:
                return False              # somebody else was first
            if not tg_cas32(&record.ejection_state, before, after):
                continue
            tg_fence_full()
            if self.count_ejected() <= most:
                return True
            tg_cas32(&record.ejection_state, after, before)
            if self.count_ejected() >= most:
                return False
            for _pause in range((rank + 1) << turn):
                tg_pause()
        return False

    # For Python: the master, and tests.

    def state(self, int i) -> tuple[int, int]:
        """(enum tg_ejection_state, enum tg_ejection) of the endpoint."""
        self.check(i)
        cdef uint32_t word = tg_load32(&self.records[i].ejection_state)
        return word & TG_STATE_MASK, word >> TG_EJECTION_SHIFT

    def ejected(self) -> int:
        """How many are ejected."""
        if self.segment.base is NULL:
            raise ValueError("the shared segment is closed")
        return self.count_ejected()

    def fingerprint(self) -> int:
        """A number that is another when a health state, an operator's state, a weight, or an ejection state changed.
        Good answers on probation change it, too."""
        if self.segment.base is NULL:
            raise ValueError("the shared segment is closed")
        cdef uint64_t mixed = 0xCBF29CE484222325ULL
        cdef const tg_endpoint *record
        cdef int i
        for i in range(self.size):
            record = self.records[i]
            mixed = tg_mix64(mixed ^ (<uint64_t> tg_load32_relaxed(&record.weight) << 32
                                      | tg_load32_relaxed(&record.ejection_state)))
            mixed = tg_mix64(mixed ^ (<uint64_t> tg_load32_relaxed(&record.probation_good) << 32
                                      | tg_load32(&record.health) << 8 | tg_load32(&record.admin)))
        return mixed

    def eject_endpoint(self, int i, uint32_t reason, int most) -> bool:
        """Eject the endpoint for `reason` (enum tg_ejection), unless more than `most` would then be: whether it did."""
        self.check(i)
        return self.eject(i, reason, most, self.segment.worker + 1)

    def release(self, int i) -> None:
        """Makes the endpoint well, whatever its ejection state was."""
        self.check(i)
        self.forget(i)
        tg_store32(&self.records[i].ejection_state, TG_STATE_WELL)

    def begin_probation(self, int i, uint64_t now) -> bool:
        """From ejected to on probation, of requests that begin at `now` (monotonic ns) or later: False when it was not
        ejected."""
        self.check(i)
        cdef uint32_t before = tg_load32(&self.records[i].ejection_state)
        if before & TG_STATE_MASK != TG_STATE_EJECTED:
            return False
        self.forget(i)
        tg_store64_relaxed(&self.records[i].probation_ns, now)
        return bool(tg_cas32(&self.records[i].ejection_state, before, TG_STATE_PROBATION))

    def reinstate(self, int i) -> bool:
        """From probation to well: False when it was not on probation (any more)."""
        self.check(i)
        return bool(tg_cas32(&self.records[i].ejection_state, TG_STATE_PROBATION, TG_STATE_WELL))

    def answered_well(self, int i) -> int:
        """Good answers since the probation began."""
        self.check(i)
        return tg_load32_relaxed(&self.records[i].probation_good)

    def hold_back(self, int i, uint32_t thousandths, bint panic, uint32_t group=0) -> None:
        """Of the endpoint's weight, what it does not get. In a `panic`, health and ejection state have no say. `group`:
        thousandths of the pool's requests that are for the endpoint's group (lb.endpoints.groups)."""
        self.check(i)
        if thousandths > TG_SHARE_WHOLE or group > TG_SHARE_WHOLE:
            raise ValueError(f"{max(thousandths, group)} is more than {TG_SHARE_WHOLE} thousandths")
        cdef uint32_t word = thousandths | (group << TG_SHARE_GROUP_SHIFT) | (TG_SHARE_PANIC if panic else 0)
        # Look first: all workers read this line, and a write would take it from them.
        if tg_load32_relaxed(&self.records[i].held_back) != word:
            tg_store32(&self.records[i].held_back, word)

    def held_back(self, int i) -> tuple[int, bool, int]:
        """(thousandths, whether in a panic, thousandths of its group), as `hold_back` was told."""
        self.check(i)
        cdef uint32_t word = tg_load32(&self.records[i].held_back)
        return word & TG_SHARE_HELD, bool(word & TG_SHARE_PANIC), word >> TG_SHARE_GROUP_SHIFT & TG_SHARE_GROUP

    cdef void forget(self, int i) noexcept:
        tg_store32_relaxed(&self.records[i].consecutive_5xx, 0)
        tg_store32_relaxed(&self.records[i].consecutive_gateway, 0)
        tg_store32_relaxed(&self.records[i].probation_good, 0)
        tg_store64_relaxed(&self.records[i].recent_failures, 0)
