"""What else a path could mean to an endpoint, and which route that would take.

The normal form of a path (lb.proxy.routing.normalize) is what routes compare and endpoints get. Where it still has an
escape, a backslash or a semicolon, endpoints differ: some decode `%2F` before they split the path, some decode twice,
some take a backslash for a slash, some cut `;parameters` off each segment, and some merge slashes after that. A path is
passed on where each of its readings takes the route that it takes itself.
"""

from lb.proxy.routing.conditions cimport tg_facts
from lb.proxy.routing.route cimport Route, RouteTable


# Whether every reading of the path takes `taken`, which the table has found for it.
cdef bint reads_alike(RouteTable table, const tg_facts *facts, Route taken) noexcept
