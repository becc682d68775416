"""Single flight over all workers: identical misses of several workers become one request (docs/adr/result-cache.md).

The table is in the cache's region (cache.h). A flight's claim is one word, and every step is one instruction on it:

    0 → claim              the worker leads
    claim → 0              the leader has put the answer into the store, or gives up
    claim → another claim  the leader's worker is dead or hangs, and another takes over

A worker that follows sets its bit and then looks at the claim again; the leader ends the claim and then takes the
bits, so that one of them sees the other. What a killed process leaves undone is found out by all who wait, every
LOOK_NS: they compare the claim with the one that they follow. The answer itself is always read from the store, by the
whole key, so that nothing in the table can make an answer wrong: in doubt a backend is asked once more.

A worker has one lease for all that it leads. It renews the lease while it leads anything, so that it may wait for a
slow model as long as that takes; only a worker that is dead or hangs loses what it claimed.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from lb.cache.layout cimport (
    TG_FLIGHT_WAYS,
    tg_claim_check,
    tg_claim_incarnation,
    tg_claim_of,
    tg_claim_worker,
    tg_flight,
    tg_flight_check,
    tg_flight_set,
    tg_key_flight,
)
from lb.cache.store cimport ResultCache
from lb.net.wakeups cimport Wakeups
from lb.shared.atomics cimport (
    tg_cas64,
    tg_exchange64,
    tg_fence_full,
    tg_fetch_and64,
    tg_fetch_or64,
    tg_load64,
    tg_load64_relaxed,
    tg_pause,
    tg_store64,
)
from lb.shared.segment cimport tg_add

cdef enum:
    # Turns of `join`. Each fails only because another process has made its own step meanwhile.
    TURNS = 8


@cython.freelist(64)
cdef class Claim:
    pass


cdef inline uint64_t *bit_word(tg_flight *at, uint32_t worker) noexcept nogil:
    return &at.waiting[worker >> 6 & 1]


cdef inline uint64_t bit_of(uint32_t worker) noexcept nogil:
    return <uint64_t> 1 << (worker & 63)


cdef class SharedFlights:
    """The part of one worker in the flights of all; `wakeups` tells the others. A flight is named by the 32-byte digest
    of the request, and by words of 8 bytes behind it: what else tells apart flights of the same request.

    To be made once in a worker's process: what a process before it claimed is another's to take from then on. Raises
    ValueError in the master, which asks nothing.
    """

    def __init__(self, ResultCache cache not None, Wakeups wakeups):
        cache.segment.check_open()
        if cache.segment.worker < 0:
            raise ValueError("only a worker takes part in flights; attach the segment with the worker's number")
        self.cache = cache
        self.wakeups = wakeups
        self.workers = cache.flight_workers
        self.sets = cache.flights
        self.mask = cache.flight_mask
        self.worker = cache.segment.worker
        self.worker_count = cache.segment.header.workers
        self.own = &self.workers[self.worker]
        self.led = {}
        self.followed = {}
        tg_store64(&self.own.lease_until, 0)
        tg_store64(&self.own.incarnation, self.own.incarnation + 1)

    cdef bint lost(self, uint64_t claim, uint64_t now) noexcept:
        cdef uint32_t worker = tg_claim_worker(claim)
        return (worker >= self.worker_count  # damage
                or now >= tg_load64(&self.workers[worker].lease_until)
                or tg_claim_incarnation(claim) != (tg_load64(&self.workers[worker].incarnation) & 0xfffu))

    cdef void renew(self, uint64_t now) noexcept:
        if tg_load64_relaxed(&self.own.lease_until) < now + LEASE_NS // 2:
            tg_store64(&self.own.lease_until, now + LEASE_NS)

    cdef int join(self, bytes flight, uint64_t now) noexcept:
        cdef Claim claim = self.led.get(flight)
        cdef const unsigned char *key = <const unsigned char *> <const char *> flight
        cdef tg_flight_set *ways = &self.sets[tg_key_flight(key) & self.mask]
        cdef uint32_t check = tg_flight_check(key, <size_t> len(flight))
        cdef tg_flight *at
        cdef uint64_t word, seen, own
        cdef int way
        if claim is not None:
            if tg_load64(&claim.at.claim) == claim.word:
                return FLIGHT_LEADS
            del self.led[flight]  # it hung, and another has taken over
        self.followed.pop(flight, None)
        self.renew(now)  # before anybody can see the claim
        for _ in range(TURNS):
            at = NULL
            seen = 0
            for way in range(<int> TG_FLIGHT_WAYS):
                word = tg_load64(&ways.ways[way].claim)
                if word and tg_claim_check(word) == check:
                    at, seen = &ways.ways[way], word
                    break
                if (at is NULL or seen) and (word == 0 or at is NULL and self.lost(word, now)):
                    at, seen = &ways.ways[way], word  # free; or else what the dead have left
            if at is NULL:
                break
            if seen and tg_claim_check(seen) == check and not self.lost(seen, now):
                if tg_claim_worker(seen) == self.worker:
                    break  # it leads another key with the same bits: nobody would wake it
                if self.follow(flight, at, seen):
                    return FLIGHT_FOLLOWS
                continue
            self.claims += 1
            own = tg_claim_of(check, self.claims, self.own.incarnation, self.worker)
            if not tg_cas64(&at.claim, seen, own):
                continue
            if self.led_elsewhere(ways, at, check, now):
                self.lead(flight, at, own)
                self.end(flight, True)
                tg_pause()
                continue
            if seen:
                tg_fetch_and64(bit_word(at, self.worker), ~bit_of(self.worker))
                if tg_claim_check(seen) == check:
                    tg_add(&self.own.promoted, 1)
            self.lead(flight, at, own)
            return FLIGHT_LEADS
        tg_add(&self.own.full, 1)
        return FLIGHT_FULL

    cdef bint led_elsewhere(self, tg_flight_set *ways, tg_flight *at, uint32_t check, uint64_t now) noexcept:
        """Two workers may claim two places of the set for one key when a third place becomes free between their looks.
        At least one sees the other here; it takes its claim back."""
        cdef uint64_t word
        cdef int way
        tg_fence_full()
        for way in range(<int> TG_FLIGHT_WAYS):
            word = tg_load64(&ways.ways[way].claim)
            if word and &ways.ways[way] != at and tg_claim_check(word) == check and not self.lost(word, now):
                return True
        return False

    cdef void lead(self, bytes flight, tg_flight *at, uint64_t word) noexcept:
        cdef Claim claim = Claim.__new__(Claim)
        claim.at, claim.word = at, word
        self.led[flight] = claim

    cdef bint follow(self, bytes flight, tg_flight *at, uint64_t word) noexcept:
        cdef Claim claim
        tg_fetch_or64(bit_word(at, self.worker), bit_of(self.worker))
        tg_fence_full()
        if tg_load64(&at.claim) != word:
            return False  # the bit costs a wakeup for nothing at most
        claim = Claim.__new__(Claim)
        claim.at, claim.word = at, word
        self.followed[flight] = claim
        tg_add(&self.own.followed, 1)
        return True

    cdef int look(self, bytes flight, uint64_t now) noexcept:
        cdef Claim claim = self.followed.get(flight)
        if claim is None:
            return FLIGHT_OVER
        if tg_load64(&claim.at.claim) == claim.word:
            if self.lost(claim.word, now):
                return FLIGHT_OVER
            # Who ended the flight before in this place may have taken the bit with those of that one.
            if not tg_load64(bit_word(claim.at, self.worker)) & bit_of(self.worker):
                tg_fetch_or64(bit_word(claim.at, self.worker), bit_of(self.worker))
                tg_fence_full()
            if tg_load64(&claim.at.claim) == claim.word:
                return FLIGHT_GOES_ON
        return FLIGHT_UNSHARED if tg_load64(&claim.at.unshared) == claim.word else FLIGHT_OVER

    cdef bint awaited(self, bytes flight) noexcept:
        cdef Claim claim = self.led.get(flight)
        return claim is not None and (
            tg_load64_relaxed(&claim.at.waiting[0]) | tg_load64_relaxed(&claim.at.waiting[1])) != 0

    cdef void end(self, bytes flight, bint shared) noexcept:
        cdef Claim claim = self.led.pop(flight, None)
        if claim is None:
            return
        if not shared:
            tg_add(&self.own.unshared, 1)
            tg_store64(&claim.at.unshared, claim.word)
        # It fails where the worker hung and another has taken over, who wakes those who wait.
        if tg_cas64(&claim.at.claim, claim.word, 0):
            self.wake(claim.at)

    cdef void wake(self, tg_flight *at) noexcept:
        cdef uint64_t bits
        cdef uint32_t half, worker
        tg_fence_full()
        for half in range(2):
            if tg_load64_relaxed(&at.waiting[half]) == 0:
                continue
            bits = tg_exchange64(&at.waiting[half], 0)
            for worker in range(64):
                if bits >> worker & 1 and self.wakeups is not None:
                    self.wakeups.ring(half * 64 + worker)

    cdef void forget(self, bytes flight) noexcept:
        cdef Claim claim = self.followed.pop(flight, None)
        if claim is not None and tg_load64(&claim.at.claim) == claim.word:
            tg_fetch_and64(bit_word(claim.at, self.worker), ~bit_of(self.worker))

    def __repr__(self):
        return f"<SharedFlights leads={len(self.led)} follows={len(self.followed)}>"
