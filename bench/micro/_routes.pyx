"""Route matching by itself: `RouteTable.find` is for compiled callers only."""

from lb.proxy.route cimport RouteTable


def find(RouteTable table not None, host: bytes, path: bytes, method: int):
    """The matching route or None, and whether only the method was wrong. `method` is llhttp's number."""
    cdef bint other_method = False
    route = table.find(host, len(host), path, len(path), method, &other_method)
    return route, bool(other_method)
