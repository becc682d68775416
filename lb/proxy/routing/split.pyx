"""Requests shared among pools by weight: see split.pxd.

By chance, each request on its own; or by a key, so that one user stays with one version. A key's place does not depend
on the weights: when a canary goes from 5 to 10 percent, those that were with it stay.
"""

from libc.stdint cimport uint64_t
from lb.proxy.random cimport random_below, spread
from lb.proxy.routing.conditions cimport key_of, tg_facts
from lb.upstream.pool cimport KEY_COOKIE, KEY_HEADER, KEY_NONE, KEY_QUERY, KEY_SOURCE, Pool

cdef enum:
    MOST = 64                         # pools of a split; as many bounds has split.pxd

cdef dict KEYS = {
    "": KEY_NONE, "header": KEY_HEADER, "cookie": KEY_COOKIE, "query": KEY_QUERY, "source": KEY_SOURCE,
}


cdef class Split:
    """The split of a plan (`SplitPlan`); `pools` are those of the plan. Raises ValueError where nobody has a weight."""

    def __init__(self, plan, pools):
        cdef uint64_t total = 0
        if len(plan.shares) > MOST:
            raise ValueError(f"a split has at most {MOST} pools")
        self.pools = tuple([<Pool?>pools[share.pool] for share in plan.shares])
        for share in plan.shares:
            total += <uint64_t>share.weight
            self.bounds[self.count] = total
            self.count += 1
        if total == 0:
            raise ValueError("a split needs a weight above 0")
        self.key_kind = KEYS[plan.key]
        self.key_name = plan.key_name.encode()
        self.prefixes.v4, self.prefixes.v6 = plan.ipv4_prefix, plan.ipv6_prefix

    cdef Pool choose(self, tg_facts *facts):
        cdef uint64_t total = self.bounds[self.count - 1]
        cdef uint64_t key = 0, place
        cdef int i
        if self.key_kind != KEY_NONE and key_of(facts, self.key_kind, self.key_name, &self.prefixes, &key):
            # The key as a fraction of 1, times the total: the same fraction whatever the weights. Spread first, since a
            # policy may choose the endpoint by the same hash.
            place = ((spread(key) >> 32) * total) >> 32
        else:
            place = random_below(total)
        for i in range(self.count):
            if place < self.bounds[i]:
                return <Pool>self.pools[i]
        return <Pool>self.pools[self.count - 1]
