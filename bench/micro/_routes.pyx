"""Route matching by itself: `RouteTable.find` is for compiled callers only."""

from libc.string cimport memset
from lb.http.head cimport Scan, worker_scan
from lb.proxy.routing.conditions cimport facts_of, tg_facts
from lb.proxy.routing.route cimport RouteTable


def find(RouteTable table not None, host: bytes, path: bytes, method: int) -> tuple[Any, bool]:
    """The matching route or None, and whether only the method was wrong. `method` is llhttp's number."""
    cdef bint other_method = False
    cdef tg_facts facts
    cdef Scan *scan = worker_scan()
    cdef const char *name = host
    scan.target = path
    scan.target_length = <unsigned int>len(path)
    scan.field_count = 0
    memset(scan.first, 0xff, sizeof(scan.first))
    facts_of(&facts, scan, name, <size_t>len(host), method, b"", 0)
    route = table.find(&facts, &other_method)
    return route, bool(other_method)
