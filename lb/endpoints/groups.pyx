"""The groups of a pool's endpoints, in a worker: see groups.pxd, and docs/adr/failover.md for the reasons."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from lb.shared.atomics cimport tg_load32_relaxed
from lb.shared.hashing cimport tg_mix64
from lb.shared.segment cimport TG_SHARE_GROUP, TG_SHARE_GROUP_SHIFT, TG_SHARE_WHOLE, Segment, tg_endpoint

# The golden ratio's part of 2**32: multiples of it, modulo 2**32, are spread as evenly as can be from the first on.
cdef uint32_t STEP = 0x9E3779B9
# So that a key's group says nothing of its place among the endpoints of the group.
cdef uint64_t SALT = 0x6A09E667F3BCC909


cdef class Groups:
    """Of the endpoints whose records are at `slots` of `segment`; `groups` has the group of each.

    `keyed`: the key decides for a group, so that a share that changes moves as few keys as can be; else requests
    alternate, evenly. Raises ValueError for a group below 0 or from TG_GROUPS on, and without endpoints.
    """

    def __init__(self, Segment segment not None, slots, groups, bint keyed):
        if self.members is not NULL:
            raise RuntimeError("Groups are initialised once")
        if not groups or min(groups) < 0 or max(groups) >= TG_GROUPS:
            raise ValueError(f"groups are numbers from 0 to {TG_GROUPS - 1}, at least one")
        self.segment = segment
        self.keyed = keyed
        self.count = max(groups) + 1
        self.group_of = tuple(groups)
        # Workers begin at different points: else the first requests of all would be for one group.
        self.turn = <uint32_t>(segment.worker + 1) * 0x85EBCA6Bu
        self.members = <tg_endpoint **> calloc(self.count, sizeof(tg_endpoint *))
        if self.members is NULL:
            raise MemoryError
        for slot, group in zip(slots, groups, strict=True):
            self.members[group] = segment.endpoint(slot)

    def __dealloc__(self):
        free(self.members)

    cdef uint32_t share(self, int group) noexcept nogil:
        if group >= self.count or self.members[group] is NULL:
            return 0
        return tg_load32_relaxed(&self.members[group].held_back) >> TG_SHARE_GROUP_SHIFT & TG_SHARE_GROUP

    cdef bint active(self, int level) noexcept nogil:
        return self.share(2 * level) > 0 or self.share(2 * level + 1) > 0

    cdef int draw(self, uint64_t key) noexcept nogil:
        if self.keyed:
            return self.at_point(<uint32_t>(tg_mix64(key ^ SALT) >> 32))
        self.turn += STEP
        return self.at_point(self.turn)

    cdef int at_point(self, uint32_t point) noexcept nogil:
        """Shares are laid end to end, in the order of the groups: as one shrinks, what it loses goes to those behind.
        They are of one moment only as long as the master does not write: the last one takes what is left over."""
        cdef uint32_t shares[TG_GROUPS]
        cdef uint32_t total = 0, rest
        cdef int group, last = -1
        for group in range(self.count):
            shares[group] = self.share(group)
            if shares[group] == TG_SHARE_WHOLE:
                return group
            total += shares[group]
        if total == 0:
            return 0 if self.members[0] is not NULL else 1
        rest = <uint32_t>((<uint64_t>point * total) >> 32)
        for group in range(self.count):
            if shares[group]:
                last = group
                if rest < shares[group]:
                    break
                rest -= shares[group]
        return last

    cdef int order(self, int drawn, short *order, int *active) noexcept nogil:
        """First what is in the same level, then the other levels that get requests, then those that get none."""
        cdef int turn, level, group, wanted, count = 0
        active[0] = 0
        for turn in range(3):
            for level in range((self.count + 1) // 2):
                wanted = 0 if level == drawn // 2 else 1 if self.active(level) else 2
                if wanted != turn:
                    continue
                for group in range(2 * level, min(2 * level + 2, self.count)):
                    if self.members[group] is NULL:
                        continue
                    order[count] = <short>group
                    if turn == 0 and group == drawn:
                        order[count] = order[0]
                        order[0] = <short>drawn
                    count += 1
            if turn == 1:
                active[0] = count
        return count

    # For Python: tools and tests.

    def next_order(self, uint64_t key):
        """(the groups in the order in which the next request with `key` asks them, how many of them are of the levels
        that get requests); changes nothing."""
        cdef short order[TG_GROUPS]
        cdef int active = 0, count, at
        cdef uint32_t turn = self.turn
        self.check()
        count = self.order(self.draw(key), order, &active)
        self.turn = turn
        return [order[at] for at in range(count)], active

    def share_of(self, int group):
        """Thousandths of the requests; 0 for a group that there is not."""
        self.check()
        return self.share(group) if group >= 0 else 0

    cdef int check(self) except -1:
        if self.segment.base is NULL:
            raise ValueError("the shared segment is closed")
        return 0
