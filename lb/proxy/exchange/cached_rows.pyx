"""The result cache row by row: see cached_rows.pxd."""

from libc.stdint cimport uint64_t
from lb.cache.layout cimport TG_FRESH, TG_NEGATIVE, tg_fill, tg_found
from lb.cache.store cimport ResultCache
from lb.inference.request cimport InferRequest
from lb.inference.rows cimport Rows, split_rows
from lb.net.buffer cimport tg_buffer, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.proxy.exchange.exchange cimport Exchange
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport (
    ROUTE_CACHE_ROWS_HIT, ROUTE_CACHE_ROWS_MISS, ROUTE_CACHE_ROWS_REPEATED, ROUTE_CACHE_WHOLE_BATCHES_REQUEST,
)

# Of what is found of a batch; rows beyond that are asked for.
cdef size_t MOST_FOUND = 256 * 1024 * 1024


cdef Rows rows_to_look_up(Exchange exchange, InferRequest request):
    cdef frozenset models = exchange.pool.cached_rows
    cdef Rows rows
    if models is None or request.batch < 2 or request.model not in models:
        return None
    rows = split_rows(request, <const unsigned char *><const char *>exchange.pool.cache_key)
    if rows is None:
        tg_add(&exchange.route.series[ROUTE_CACHE_WHOLE_BATCHES_REQUEST], 1)
    return rows


cdef int look_up_rows(Rows rows, ResultCache store, Exchange exchange) noexcept:
    cdef uint64_t *words = exchange.route.series
    cdef uint64_t now = exchange.client.poller.now
    cdef tg_found found
    cdef Py_ssize_t size
    cdef int missing, i
    rows.forget()
    for i in range(rows.count):
        if rows.rows[i].same != i or rows.found.end > MOST_FOUND:
            continue
        size = store.get(rows.rows[i].key, now, False, &rows.found, &found)
        if size >= 0 and (found.state != TG_FRESH or found.flags & TG_NEGATIVE):
            rows.found.end -= <size_t>size    # a stale row is asked for with the others, and an error is no row
        elif size >= 0:
            rows.take(i, <size_t>size)
    missing = rows.settle()
    tg_add(&words[ROUTE_CACHE_ROWS_HIT], <uint64_t>(rows.distinct - missing))
    tg_add(&words[ROUTE_CACHE_ROWS_MISS], <uint64_t>missing)
    tg_add(&words[ROUTE_CACHE_ROWS_REPEATED], <uint64_t>(rows.count - rows.distinct))
    return missing


cdef int keep_rows(Rows rows, ResultCache store, tg_buffer *scratch, uint64_t now, const tg_fill *fill) noexcept:
    cdef int kept = 0
    cdef int i, row
    for i in range(rows.asked_count):
        row = rows.asked[i]
        if rows.rows[row].same != row:
            continue
        tg_buffer_clear(scratch)
        if rows.row_answer(row, scratch) < 0:
            break
        kept += store.put(rows.rows[row].key, tg_buffer_head(scratch), tg_buffer_size(scratch), now, fill) == 1
    return kept
