"""The route tables of a plan, made in small steps, so that a worker can serve between them.

A reload changes little of a large configuration: routes whose plan is the same to the byte, and whose pools are the
same objects, are taken over from the table before, and where all are, so is the table.
"""

from lb.shared.segment cimport Segment
from lb.proxy.routing.route cimport Route, RouteTable
from lb.upstream.pool cimport Pool

from lb.config.plan.wire import Packed, unpacked

cdef enum:
    STEP = 32                         # routes made in one step: a few tenths of a millisecond
    MANY = 1024                       # routes taken over in one step


cdef class RoutesOfListener:
    """The routes of one listener at work. `sources` are the packed plans that they were made of; None where the plan
    did not come over the wire, and nothing is taken over."""
    cdef readonly RouteTable table
    cdef readonly list sources
    cdef readonly list routes

    cdef bint uses_only(self, set pools):
        cdef Route route
        for route in self.routes:
            if not route.uses_only(pools):
                return False
        return True


cdef Pool pool_of(pools, Py_ssize_t number):
    return pools[number] if number >= 0 else None


def make_routes(plans, pools, set unchanged not None, Segment segment not None, tools, RoutesOfListener old):
    """A generator whose `yield`s end a step each; it returns the RoutesOfListener of `plans` (of RoutePlan).

    `pools` are those of the plan, `tools` the worker's for retries and hedges (HedgeTools), `unchanged` those pools
    that the plan before had at the same place, `old` is what that plan made of the listener, or None. Raises ValueError
    as Route and RouteTable do.
    """
    cdef Route route, first
    cdef RoutesOfListener made
    cdef dict known = {}
    cdef dict forms = {}              # a route of each
    cdef Py_ssize_t fresh = 0, number = 0, i
    sources = plans.items if isinstance(plans, Packed) else None
    if sources is not None and old is not None and old.sources is not None:
        if old.sources == sources and old.uses_only(unchanged):
            return old
        yield
        for i in range(len(old.sources)):
            known[old.sources[i]] = old.routes[i]
            if i % MANY == MANY - 1:
                yield
    made = RoutesOfListener.__new__(RoutesOfListener)
    made.sources = sources
    made.routes = []
    yield
    for source in plans if sources is None else sources:
        number += 1
        route = known.get(source)
        if route is None or not route.uses_only(unchanged):
            if sources is None:
                route = Route(source, pool_of(pools, source.pool), segment, pools, tools)
            else:
                name, series, pool, host, path, form = unpacked(source)
                first = forms.get(form)
                if first is None:
                    route = Route(plans.read(source), pool_of(pools, pool), segment, pools, tools)
                    if route.lends():
                        forms[form] = route
                else:
                    route = first.like(name, series, pool_of(pools, pool), host, path, tools)
            fresh += 1
        made.routes.append(route)
        if fresh == STEP or number % MANY == 0:
            fresh = 0
            yield
    while known:                      # freed in steps, too
        for _ in range(min(MANY, len(known))):
            known.popitem()
        yield
    made.table = RouteTable.__new__(RouteTable)
    yield from made.table.fill(made.routes)
    return made
