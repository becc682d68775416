"""Texts with values, and maps, by themselves: they are for compiled callers only."""

from libc.string cimport memset
from lb.http.head cimport MAX_FIELDS, Scan, worker_scan
from lb.http.http1 cimport Parser, new_request_parser
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_free
from lb.proxy.routing.values.format cimport V_CLIENT_ADDRESS, Format, tg_values
from lb.proxy.routing.values.lookup cimport Lookup


def fill(text: Format, request: bytes, client: bytes, times: int) -> None:
    """Makes the text of a request, whose client's address is `client`, so many times. Raises ValueError where it is
    refused."""
    cdef tg_values values
    cdef tg_buffer out
    cdef Format made = text
    cdef Parser parser = new_request_parser()
    cdef Scan *scan = worker_scan()
    cdef int failed = 0, _i, count = times
    memset(&values, 0, sizeof(values))
    memset(&out, 0, sizeof(out))
    scan.max_fields = MAX_FIELDS - 1
    parser.execute(scan, <const char *>request, <size_t>len(request))
    values.scan = scan
    values.known[V_CLIENT_ADDRESS].at = <const char *>client
    values.known[V_CLIENT_ADDRESS].n = <size_t>len(client)
    for _i in range(count):
        tg_buffer_clear(&out)
        failed |= made.append(&out, &values)
    tg_buffer_free(&out)
    if failed:
        raise ValueError("the text is refused")


def find(lookup: Lookup, texts: list[bytes]) -> int:
    """How many of `texts` the map has."""
    cdef Lookup known = lookup
    cdef const char *value = NULL
    cdef size_t n = 0
    cdef int count = 0
    cdef bytes text
    for text in texts:
        count += known.find(<const char *>text, <size_t>len(text), &value, &n)
    return count
