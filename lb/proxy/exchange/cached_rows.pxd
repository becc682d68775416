"""The result cache row by row: what is found of a batch, and keeping the answers to its rows."""

from libc.stdint cimport uint64_t
from lb.cache.layout cimport tg_fill
from lb.cache.store cimport ResultCache
from lb.inference.request cimport InferRequest
from lb.inference.rows cimport Rows
from lb.net.buffer cimport tg_buffer
from lb.proxy.exchange.exchange cimport Exchange

# The rows of a request, where its pool's model is cached by rows and it is a batch of them; else None.
cdef Rows rows_to_look_up(Exchange exchange, InferRequest request)
# Looks all rows up, and takes what is found and goes together. The number of rows to ask for.
cdef int look_up_rows(Rows rows, ResultCache store, Exchange exchange) noexcept
# Puts the answers to the rows that were asked for into the cache, each under its key. `scratch` is overwritten. How
# many were kept.
cdef int keep_rows(Rows rows, ResultCache store, tg_buffer *scratch, uint64_t now, const tg_fill *fill) noexcept
