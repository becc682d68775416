"""Rendezvous hashing (Thaler and Ravishankar 1998), weighted: the endpoint with the best score for the key.

The score is -w / ln(u), with the u in (0, 1) that the hashes of key and address give (Schindelhauer and Schomaker 2005,
"Weighted distributed hash tables"). Each endpoint's score depends on nothing but itself and the key.
"""

from __future__ import annotations

from array import array

from cython.cimports.lb.shared.hashing import tg_mix64
from cython.cimports.libc.math import log

from lb.balancing.bound import Bound
from lb.balancing.hash_policy import HashPolicy
from lb.balancing.options import HashOptions
from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet
from lb.shared.hashing import hash64_bytes

_UNIT = 2.0**-52


class Rendezvous(HashPolicy):
    """Scores all endpoints for every request: no table, shares as even as those of independent hashes, any change of
    weight in effect at once.

    An endpoint that leaves moves its own keys and no others, spread by weight over the rest; one that comes takes its
    share and moves nothing between the others.
    """

    def __init__(self, endpoints: EndpointSet, options: HashOptions) -> None:
        HashPolicy.__init__(self, endpoints, options)
        self.seeds = array("Q", (hash64_bytes(b"rendezvous:" + address.encode()) for address in endpoints.addresses))

    def first(self, choice: Choice, bound: Bound | None) -> int:
        endpoints = self.endpoints
        best = -1
        lowest = 0.0
        for i in range(endpoints.size):
            weight = choice.effective_weight(i)
            if weight == 0:
                continue
            u = ((tg_mix64(choice.key ^ self.seeds[i]) >> 12) + 0.5) * _UNIT
            # The lowest -ln(u) / w is the highest score. -ln(u) is more than 1 - u: most need no logarithm.
            if best >= 0 and 1.0 - u >= lowest * weight:
                continue
            inverse = -log(u) / weight
            if (best < 0 or inverse < lowest) and (bound is None or bound.room(i, choice)):
                best, lowest = i, inverse
        return best
