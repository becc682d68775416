"""How many rows a model is best given at once, learnt from how long its runs take."""

from libc.stdint cimport int64_t, uint64_t


cdef enum:
    BATCH_SIZES = 24                   # of batches that are told apart: powers of two


ctypedef struct tg_batch_sizes:
    double row_ns[BATCH_SIZES]         # time of a run for each of its rows
    uint64_t seen_at[BATCH_SIZES]      # when such a run ended last (monotonic ns); 0 = none has
    int tries[BATCH_SIZES]             # runs since nothing was known of the size; no more are counted than it needs
    uint64_t spent[BATCH_SIZES]        # ns that they took


# A run of `rows` rows took `ns`.
cdef void batch_size_ran(tg_batch_sizes *sizes, int64_t rows, uint64_t ns, uint64_t now) noexcept
# The most rows to run together, `most` at most. A size that was not seen lately is tried.
cdef int64_t batch_size_rows(const tg_batch_sizes *sizes, int64_t most, uint64_t now) noexcept
