"""A policy's choice, in which endpoints whose recent attempts failed take only a part of their turns: see turns.pyx."""

from libc.stdint cimport uint64_t

from lb.balancing.policy cimport Policy


# As the policy's `pick`, -1 for nobody; where the policy raises, so does it. The set's `reluctant` then says whether
# the endpoint was to be passed over, and is chosen as nobody else takes requests.
cdef int pick_in_turn(Policy policy, uint64_t now, uint64_t key, int exclude) except -2
