"""Who refreshes an entry of the result cache: one process at a time, and nobody for a while after a failure."""

from libc.stdint cimport uint64_t

# `claims` are TG_CLAIMS words of shared memory, of which zeroes are a valid state.
#
# Whether the caller is to refresh the entry of `key`: nobody else is at it, and no pause lasts. The claim ends with
# `claim_settle`, or after `lease` ns.
cdef bint claim_take(uint64_t *claims, const unsigned char *key, uint64_t now, uint64_t lease) noexcept
# The refresh is over, or has failed elsewhere: the next one comes after `pause` ns at the earliest; and `claim_failing`
# says from now on whether it `failed`.
cdef void claim_settle(
    uint64_t *claims, const unsigned char *key, uint64_t now, uint64_t pause, bint failed
) noexcept
# Whether the last that is known of asking the backend for the entry is a failure.
cdef bint claim_failing(uint64_t *claims, const unsigned char *key) noexcept
