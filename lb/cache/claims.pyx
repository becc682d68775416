"""Who refreshes an entry of the result cache: one process at a time, and nobody for a while after a failure.

A claim is a word: 32 bits of the key, the time until which it keeps others away, and whether the last refresh failed.
It is a lease, so that a process that is killed keeps nobody away for long. The words are a small set-associative table.
A key whose set is full of others' claims goes without: then several processes may refresh it, which is no harm.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from lb.cache.layout cimport TG_CLAIMS
from lb.shared.atomics cimport tg_cas64, tg_load64_relaxed

cdef enum:
    WAYS = 4
    UNIT_BITS = 26                    # of time: 67 ms
    ROUNDS = 8                        # after so many lost races there is no claim
    OWN = 0
    FREE = 1                          # a word to take: nobody's, or one whose time is over
    NONE = 2

cdef uint64_t TIME_MASK = 0x7fffffff


cdef inline uint64_t word_of(uint32_t tag, uint64_t until, bint failed) noexcept nogil:
    return <uint64_t>tag << 32 | (((until >> UNIT_BITS) + 1) & TIME_MASK) << 1 | failed


cdef inline bint lasts(uint64_t word, uint64_t now) noexcept nogil:
    return (word >> 1 & TIME_MASK) > (now >> UNIT_BITS & TIME_MASK)


cdef inline uint32_t tag_of(const unsigned char *key) noexcept nogil:
    cdef uint32_t tag
    memcpy(&tag, key + 16, sizeof(tag))
    return tag


cdef int look(uint64_t *claims, const unsigned char *key, uint64_t now, uint64_t **place, uint64_t *word) noexcept:
    """The word of the key (OWN), or one that may become so (FREE)."""
    cdef uint32_t at, i
    cdef uint64_t seen
    cdef int found = NONE
    memcpy(&at, key + 20, sizeof(at))
    claims += at % (TG_CLAIMS // WAYS) * WAYS
    for i in range(WAYS):
        seen = tg_load64_relaxed(&claims[i])
        if seen and seen >> 32 == tag_of(key):
            place[0], word[0] = &claims[i], seen
            return OWN
        if found == NONE and not lasts(seen, now):
            place[0], word[0] = &claims[i], seen
            found = FREE
    return found


cdef bint claim_take(uint64_t *claims, const unsigned char *key, uint64_t now, uint64_t lease) noexcept:
    cdef uint64_t *place = NULL
    cdef uint64_t word = 0
    cdef int found, _
    for _ in range(ROUNDS):
        found = look(claims, key, now, &place, &word)
        if found == NONE:
            return True
        if found == OWN and lasts(word, now):
            return False
        if tg_cas64(place, word, word_of(tag_of(key), now + lease, found == OWN and word & 1)):
            return True
    return False


cdef void claim_settle(
    uint64_t *claims, const unsigned char *key, uint64_t now, uint64_t pause, bint failed
) noexcept:
    cdef uint64_t *place = NULL
    cdef uint64_t word = 0, then
    cdef int found, _
    for _ in range(ROUNDS):
        found = look(claims, key, now, &place, &word)
        if found == NONE or found == FREE and not pause:
            return
        then = word_of(tag_of(key), now + pause, failed) if pause else 0
        if tg_cas64(place, word, then):
            return


cdef bint claim_failing(uint64_t *claims, const unsigned char *key) noexcept:
    cdef uint64_t *place = NULL
    cdef uint64_t word = 0
    # Time is of no matter for a word of the key itself.
    return look(claims, key, 0, &place, &word) == OWN and word & 1
