"""Token buckets in the shared segment: see buckets.pxd for the contract and segment.h for the layout.

A key has its place in one set of eight buckets. Its bucket is the first whose key is its own; where there is none,
the bucket that has been full for longest makes room, or the one nearest to full when all eight are in use. So an
attacker who invents keys pushes out the buckets of those who ask seldom, and never that of the one who is over the
limit.

A process may die after any instruction: every word is always valid on its own. What a death loses is the token, or the
excess, that was under way; between a claim's two steps it leaves the new key with the old one's excess. Two things can
go wrong between live processes, and neither adds tokens for good:

- A bucket changes hands while its old owner comes back. Whoever took a token looks at the key again, and takes it
  elsewhere when it has changed; the new owner has one token less than it could have. Only an owner who took its token
  before the change loses the memory of it, and its bucket was full just before.
- Two workers make a bucket of the same key at once, in two places. Each looks through the set again behind its claim,
  so at least one sees both, gives the higher place up and moves what was taken there to the lower.
"""

cimport cython
from libc.stdint cimport UINT64_MAX, uint64_t
from lb.shared.atomics cimport (
    tg_cas64, tg_fence_full, tg_fetch_add64, tg_load64, tg_load64_relaxed, tg_pause,
)
from lb.shared.hashing cimport hash64_keyed
from lb.shared.segment cimport TG_BUCKET_WAYS, Segment, tg_bucket_head, tg_bucket_set

cdef enum:
    # Every lost race means that another process got on, so this many in a row do not happen while the others live.
    TURNS = 4096

cdef uint64_t MAX_DEPTH = <uint64_t> 1 << 62


cdef tg_limit make_limit(interval, burst) except *:
    cdef tg_limit limit
    if interval < 1 or burst < 1 or interval * burst >= MAX_DEPTH:
        raise ValueError(f"not a rate limit: {burst} tokens, one every {interval} ns")
    limit.interval = interval
    limit.depth = interval * burst
    return limit


cdef inline int find(tg_bucket_set *group, uint64_t key) noexcept nogil:
    cdef int way
    for way in range(<int> TG_BUCKET_WAYS):
        if tg_load64_relaxed(&group.keys[way]) == key:
            return way
    return -1


cdef inline int other_than(tg_bucket_set *group, uint64_t key, int place) noexcept nogil:
    cdef int way
    for way in range(<int> TG_BUCKET_WAYS):
        if way != place and tg_load64_relaxed(&group.keys[way]) == key:
            return way
    return -1


cdef void move_excess(tg_bucket_set *group, int source, int target, uint64_t now) noexcept nogil:
    """What was taken from one bucket of a key is taken from the other instead."""
    cdef uint64_t time, other, base
    cdef int _turn
    for _turn in range(TURNS):
        time = tg_load64(&group.times[source])
        if time <= now:
            return
        if tg_cas64(&group.times[source], time, 0):
            break
    else:
        return
    for _turn in range(TURNS):
        other = tg_load64(&group.times[target])
        base = other if other > now else now
        if tg_cas64(&group.times[target], other, base + (time - now)):
            return


cdef inline int charge(
    tg_bucket_set *group, int way, uint64_t key, const tg_limit *limit, uint64_t now, tg_verdict *verdict
) noexcept nogil:
    """One token from this bucket: 1 decided, 0 the bucket changed meanwhile."""
    cdef uint64_t time = tg_load64(&group.times[way])
    cdef uint64_t ahead = time - now if time > now else 0
    if ahead > limit.depth - limit.interval:
        verdict.admitted = False
        verdict.wait = ahead - (limit.depth - limit.interval)
        verdict.remaining = 0
        verdict.reset = ahead
        return 1
    if not tg_cas64(&group.times[way], time, now + ahead + limit.interval):
        return 0
    if tg_load64(&group.keys[way]) != key:
        return 0
    ahead += limit.interval
    verdict.admitted = True
    verdict.wait = 0
    verdict.remaining = (limit.depth - ahead) // limit.interval
    verdict.reset = ahead
    return 1


@cython.final
cdef class Buckets:
    """The buckets of `segment`. Any process may charge them, the master too."""

    def __init__(self, Segment segment not None):
        segment.check_open()
        self.segment = segment
        self.head = <tg_bucket_head *> (segment.base + segment.header.buckets_offset)
        self.sets = <tg_bucket_set *> (self.head + 1)
        self.mask = segment.header.bucket_sets - 1

    cdef uint64_t key_of(self, const void *data, size_t n) noexcept nogil:
        cdef uint64_t key = hash64_keyed(data, n, self.segment.header.bucket_secret)
        return key if key else 1

    cdef void take(self, uint64_t key, const tg_limit *limit, uint64_t now, tg_verdict *verdict) noexcept nogil:
        cdef tg_bucket_set *group = self.sets + (key & self.mask)
        cdef int way, _turn
        for _turn in range(TURNS):
            way = find(group, key)
            if way < 0:
                way = self.claim(group, key, now)
            if way >= 0 and charge(group, way, key, limit, now, verdict):
                return
            tg_pause()
        # Refusing is the safe side of a limit.
        verdict.admitted = False
        verdict.wait = limit.interval
        verdict.remaining = 0
        verdict.reset = limit.depth

    cdef void put_back(self, uint64_t key, const tg_limit *limit, uint64_t now) noexcept nogil:
        cdef tg_bucket_set *group = self.sets + (key & self.mask)
        cdef uint64_t time
        cdef int way = find(group, key), _turn
        if way < 0:
            return                            # it made room for another, and owes nothing
        for _turn in range(TURNS):
            time = tg_load64(&group.times[way])
            if time < now + limit.interval:
                return                        # the token has come back by itself
            if tg_cas64(&group.times[way], time, time - limit.interval):
                if tg_load64(&group.keys[way]) != key:
                    tg_fetch_add64(&group.times[way], limit.interval)      # it was another's
                return
            tg_pause()

    cdef int claim(self, tg_bucket_set *group, uint64_t key, uint64_t now) noexcept nogil:
        """A bucket for a key that has none: its place, or -1 when another process was faster."""
        cdef uint64_t time, old, least = UINT64_MAX
        cdef int way, place = 0, twin
        for way in range(<int> TG_BUCKET_WAYS):
            time = tg_load64_relaxed(&group.times[way])
            if time < least:
                least = time
                place = way
        old = tg_load64_relaxed(&group.keys[place])
        if old == key:
            return place
        if not tg_cas64(&group.keys[place], old, key):
            return -1
        if least > now:
            # It was in use. If this fails, it has just been charged once more: the excess is ours until it has passed.
            tg_cas64(&group.times[place], least, 0)
            tg_fetch_add64(&self.head.evicted, 1)
        tg_fence_full()
        twin = other_than(group, key, place)
        if twin < 0:
            return place
        way = place if place > twin else twin
        place = twin if place > twin else place
        if tg_cas64(&group.keys[way], key, 0):
            move_excess(group, way, place, now)
        return place

    # From Python: tests, tools, the metrics page.

    @property
    def evicted(self) -> int:
        """Buckets that made room for others before they were full again, since the segment was made."""
        self.segment.check_open()
        return tg_load64_relaxed(&self.head.evicted)

    @property
    def capacity(self) -> int:
        """How many buckets there are."""
        return (self.mask + 1) * TG_BUCKET_WAYS

    def key(self, bytes name) -> int:
        """The key of what `name` names, as an int of 64 bits."""
        self.segment.check_open()
        return self.key_of(<const char *> name, <size_t> len(name))
