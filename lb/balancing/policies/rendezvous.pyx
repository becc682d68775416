"""Rendezvous hashing (Thaler and Ravishankar 1998), weighted: the endpoint with the best score for the key.

The score is -w / ln(u), with the u in (0, 1) that the hashes of key and address give (Schindelhauer and Schomaker 2005,
"Weighted distributed hash tables"). Each endpoint's score depends on nothing but itself and the key.
"""

from array import array

from libc.math cimport log
from libc.stdint cimport uint64_t
from lb.balancing.bound cimport Bound
from lb.balancing.hash_policy cimport HashPolicy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet
from lb.shared.hashing cimport tg_mix64

from lb.balancing.options import HashOptions
from lb.shared.hashing import hash64_bytes

cdef double UNIT = 2.0**-52


cdef class Rendezvous(HashPolicy):
    """Scores all endpoints for every request: no table, shares as even as those of independent hashes, any change of
    weight in effect at once.

    An endpoint that leaves moves its own keys and no others, spread by weight over the rest; one that comes takes its
    share and moves nothing between the others.
    """
    cdef uint64_t[::1] seeds

    def __init__(self, endpoints: EndpointSet, options: HashOptions) -> None:
        HashPolicy.__init__(self, endpoints, options)
        self.seeds = array("Q", (hash64_bytes(b"rendezvous:" + address.encode()) for address in endpoints.addresses))

    cdef int first(self, Choice choice, Bound bound) except -2:
        cdef EndpointSet endpoints = self.endpoints
        cdef int best = -1
        cdef double lowest = 0.0
        cdef int i, weight
        cdef double u, inverse
        for i in range(endpoints.size):
            weight = choice.effective_weight(i)
            if weight == 0:
                continue
            u = ((tg_mix64(choice.key ^ self.seeds[i]) >> 12) + 0.5) * UNIT
            # The lowest -ln(u) / w is the highest score. -ln(u) is more than 1 - u: most need no logarithm.
            if best >= 0 and 1.0 - u >= lowest * weight:
                continue
            inverse = -log(u) / weight
            if (best < 0 or inverse < lowest) and (bound is None or bound.room(i, choice)):
                best, lowest = i, inverse
        return best
