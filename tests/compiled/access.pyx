"""What a provider of identities knows, for tests."""

from libc.stdint cimport uint64_t
from lb.http.head cimport MAX_FIELDS, Scan, worker_scan
from lb.http.http1 cimport Parser, new_request_parser
from lb.proxy.access.known cimport ACCESS_BAD, ACCESS_GRANTED, ACCESS_NONE, ACCESS_UNKNOWN, Known
from lb.proxy.access.provider cimport Provider

cdef dict STATES = {ACCESS_GRANTED: "granted", ACCESS_NONE: "none", ACCESS_BAD: "bad", ACCESS_UNKNOWN: "unknown"}


cdef Known looked(Provider provider, bytes request, uint64_t now):
    cdef Parser parser = new_request_parser()
    cdef Scan *scan = worker_scan()
    scan.max_fields = MAX_FIELDS - 1
    if parser.execute(scan, <const char *>request, <size_t>len(request)) < 0 or not scan.head:
        raise ValueError("not a request with its whole head")
    return provider.look(scan, None, now)


def look(Provider provider not None, bytes request not None, uint64_t now=0) -> tuple[str, bytes]:
    """State and identity of a request, given as HTTP/1.1."""
    cdef Known found = looked(provider, request, now)
    return STATES[found.state], found.identity


def settle(Provider provider not None, bytes request not None, outcome, uint64_t now=0) -> None:
    """What a check of the request's credential, which is unknown, has found."""
    cdef Known found = looked(provider, request, now)
    if found.state != ACCESS_UNKNOWN:
        raise ValueError("nothing is to be checked")
    provider.settle(found.digest, outcome, now)


def remembered(Provider provider not None) -> tuple[int, int, int]:
    """Credentials in the tables: asked for last, before them, and refused."""
    return len(provider.recent), len(provider.older), len(provider.refused)
