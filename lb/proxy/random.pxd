"""Random numbers of a worker, for choices that nobody gains by guessing: which share, which copy."""

from libc.stdint cimport uint64_t

cdef uint64_t random64() noexcept nogil
# A number below n (n > 0); the bias is below n / 2**64.
cdef uint64_t random_below(uint64_t n) noexcept nogil
# SplitMix64's finaliser: spreads a key over all bits, so that two choices by one key do not go together.
cdef uint64_t spread(uint64_t key) noexcept nogil
