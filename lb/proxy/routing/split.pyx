"""Requests, connections and sessions shared among pools by weight: see split.pxd.

By chance, each request on its own; or by a key, so that one user stays with one version. A key's place does not depend
on the weights: when a canary goes from 5 to 10 percent, those that were with it stay.
"""

import logging
from typing import TYPE_CHECKING, Any

from libc.stdint cimport uint64_t
from lb.net.poller cimport monotonic_ns
from lb.net.source_key cimport hash_source
from lb.proxy.random cimport random_below, spread
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.proxy.routing.conditions cimport gather_facts, key_of, tg_facts
from lb.proxy.routing.values.format cimport FORMAT_NO_MEMORY, V_LITERAL, Format, RequestValues, tg_values
from lb.proxy.routing.keys cimport first_part
from lb.proxy.routing.text_key cimport TextKey
from lb.shared.hashing cimport hash64
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport ROUTE_UNKNOWN_POOLS
from lb.upstream.pool cimport (
    KEY_COOKIE, KEY_HEADER, KEY_NONE, KEY_PATH, KEY_QUERY, KEY_SOURCE, KEY_TEXT, KEY_URI, Pool,
)

if TYPE_CHECKING:
    from lb.config.plan.routes import SplitPlan

log = logging.getLogger("tidegate.proxy")

cdef enum:
    MOST = 64                         # pools of a split; as many bounds has split.pxd
    SHOWN = 64                        # bytes of a name in the log

cdef uint64_t QUIET_NS = 60_000_000_000

cdef tg_buffer name                   # that a text has for a request, until it is looked up

cdef dict KEYS = {
    "": KEY_NONE, "header": KEY_HEADER, "cookie": KEY_COOKIE, "query": KEY_QUERY, "source": KEY_SOURCE,
    "path": KEY_PATH, "uri": KEY_URI, "text": KEY_TEXT,
}


cdef class Split:
    """The split of a plan (`SplitPlan`); `pools` are those of the plan, `path_kind` and `path` the route's, `maps` as
    in Format. Raises ValueError where nobody has a weight."""

    def __init__(
        self, plan: SplitPlan, pools: Sequence[Any], path_kind: str = "", path: str = "",
        maps: Mapping[str, Any] | None = None
    ) -> None:
        cdef uint64_t total = 0
        cdef Pool pool
        cdef int i
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
        self.key_depth, self.key_length = plan.key_depth, plan.key_length
        if self.key_kind == KEY_TEXT:
            self.key_text = TextKey(plan.key_name)
        if plan.by:
            self.by = Format(plan.by, "text", maps)
            self.wanted = RequestValues(self.by.kinds, path_kind, path)
            self.named = {pool.name.encode(): pool for pool in self.pools}
            for i in range(self.by.count):
                if self.by.parts[i].kind == V_LITERAL:
                    self.fixed += self.by.parts[i].n
        self.prefixes.v4, self.prefixes.v6 = plan.ipv4_prefix, plan.ipv6_prefix

    cdef Pool choose(self, tg_facts *facts, uint64_t *series, str route):
        cdef uint64_t total = self.bounds[self.count - 1]
        cdef uint64_t key = 0
        cdef Pool named
        if self.by is not None:
            named = self.by_name(facts, series, route)
            if named is not None:
                return named
        if self.key_kind != KEY_NONE and self.find_key(facts, &key):
            return self.at_key(key)
        return self.at(random_below(total))

    cdef Pool choose_for(self, const char *ip, size_t n):
        if self.key_kind == KEY_SOURCE and n:
            return self.at_key(hash_source(ip, n, &self.prefixes))
        return self.at(random_below(self.bounds[self.count - 1]))

    cdef Pool at_key(self, uint64_t key):
        # The key as a fraction of 1, times the total: the same fraction whatever the weights. Spread first, since a
        # policy may choose the endpoint by the same hash.
        return self.at(((spread(key) >> 32) * self.bounds[self.count - 1]) >> 32)

    cdef Pool at(self, uint64_t place):
        cdef int i
        for i in range(self.count):
            if place < self.bounds[i]:
                return <Pool>self.pools[i]
        return <Pool>self.pools[self.count - 1]

    cdef bint find_key(self, tg_facts *facts, uint64_t *key) noexcept:
        cdef tg_values values
        cdef const char *text = facts.scan.target
        cdef size_t n = facts.scan.target_length
        if self.key_kind < KEY_PATH:
            return key_of(facts, self.key_kind, self.key_name, &self.prefixes, key)
        if self.key_kind != KEY_TEXT:
            n = first_part(text, n, self.key_kind == KEY_URI, self.key_depth, self.key_length)
        else:
            gather_facts(&values, facts, self.key_text.wanted)
            if not self.key_text.find(&values, &text, &n):
                return False
        key[0] = hash64(text, n)
        return n != 0

    cdef Pool by_name(self, tg_facts *facts, uint64_t *series, str route):
        """The pool that the text of `by` names, if it is one of these; else None. A request without a value names
        none; what is too long for a text, or names another pool, is a mistake of whoever made the value."""
        cdef tg_values values
        cdef Pool named = None
        cdef uint64_t now
        cdef int failed
        gather_facts(&values, facts, self.wanted)
        tg_buffer_clear(&name)
        failed = self.by.append(&name, &values)
        if failed == 0:
            named = <Pool>self.named.get(tg_buffer_head(&name)[:tg_buffer_size(&name)])
        if named is not None or failed == FORMAT_NO_MEMORY or tg_buffer_size(&name) <= self.fixed:
            return named
        tg_add(&series[ROUTE_UNKNOWN_POOLS], 1)
        now = monotonic_ns()
        if now >= self.quiet_until:
            self.quiet_until = now + QUIET_NS
            said = tg_buffer_head(&name)[:min(tg_buffer_size(&name), <size_t>SHOWN)].decode("utf-8", "replace")
            log.warning("route %s: pool_by names %r, which is none of its pools: weights choose (told once a minute; "
                        "tidegate_route_unknown_pools_total counts them)", route, said)
        return None


cdef Pool pool_for(object table, const char *ip, size_t n):
    if type(table) is Split:
        return (<Split>table).choose_for(ip, n)
    return <Pool?>table
