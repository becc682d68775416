"""A policy's choice, in which endpoints whose recent attempts failed take only a part of their turns.

Whatever a policy goes by (requests in flight, latencies, turns, keys), an endpoint that fails at once looks idle and
fast to it. So the choice is looked at here, for every policy alike: an endpoint with recent failures
(lb/shared/recent_failures) is passed over in the part of its turns that goes with them, and the policy chooses once
more among the others. A choice that falls on a good endpoint costs one look at its record.
"""

import os

from libc.stdint cimport uint64_t

from lb.balancing.policy cimport Policy
from lb.shared.recent_failures cimport failing_of, has_failed, turns_of
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.shared import seeds

cdef enum:
    MOST = 16                         # endpoints that are passed over in one choice

cdef uint64_t state


def reseed() -> None:
    """Workers are forked: each needs a sequence of its own."""
    global state
    state = seeds.draw()


reseed()
os.register_at_fork(after_in_child=reseed)


cdef inline uint64_t spread(uint64_t key) noexcept nogil:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9ULL
    key = (key ^ (key >> 27)) * 0x94D049BB133111EBULL
    return key ^ (key >> 31)


cdef bint takes_turn(EndpointSet endpoints, int i, uint64_t now, uint64_t key) noexcept:
    """By chance; of a request with a key by the key, so that a share of the keys moves and the others stay."""
    global state
    cdef uint64_t drawn
    if key:
        drawn = spread(key ^ spread(<uint64_t> i + 1))
    else:
        state += 0x9E3779B97F4A7C15ULL
        drawn = spread(state)
    return <double> (drawn >> 11) * (1.0 / 9007199254740992.0) < turns_of(failing_of(endpoints.records[i], now))


cdef int pick_any(Policy policy, Choice choice) except -2:
    cdef int index = policy.pick(choice)
    return index if index >= 0 or choice.exclude < 0 else pick_excluded(policy, choice)


cdef int pick_excluded(Policy policy, Choice choice) except -2:
    cdef int excluded = choice.exclude
    choice.exclude = -1
    try:
        return policy.pick(choice)
    finally:
        choice.exclude = excluded


cdef int pick_in_turn(Policy policy, Choice choice) except -2:
    cdef int index = policy.pick(choice)
    if index < 0 and choice.exclude >= 0:
        index = pick_excluded(policy, choice)
    choice.reluctant = False
    if (index < 0 or index == choice.exclude or index >= choice.endpoints.size
            or not has_failed(choice.endpoints.records[index])):
        return index
    return pick_another(policy, choice, index)


cdef int pick_another(Policy policy, Choice choice, int first) except -2:
    """The policy chose `first`, which has failed of late: that one, or another. Where nobody else takes requests, and
    where all have failed, it is `first`, as the policy would have it."""
    cdef EndpointSet endpoints = choice.endpoints
    cdef int[MOST] passed
    cdef int index = first, count = 0, _turn
    try:
        for _turn in range(<int> MOST):
            if not has_failed(endpoints.records[index]) or takes_turn(endpoints, index, choice.now, choice.key):
                return index
            if not choice.ruled_out[index]:   # as a plug-in's answer may be
                choice.rule_out(index)
                passed[count] = index
                count += 1
            index = policy.pick(choice)
            if not 0 <= index < endpoints.size:
                break
    finally:
        while count:
            count -= 1
            choice.readmit(passed[count])
    choice.reluctant = True
    return first
