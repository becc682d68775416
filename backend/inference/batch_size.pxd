"""How many rows a model is best given at once, learnt from how long its runs take."""

from libc.stdint cimport int64_t, uint64_t


cdef enum:
    BATCH_SIZES = 24                   # of batches that are told apart: powers of two


ctypedef struct tg_row_time:
    double ns                          # of a run, for each of its rows
    uint64_t seen_at                   # when such a run ended last (monotonic ns); 0 = none has
    int tries                          # runs since nothing was known; no more are counted than are needed
    uint64_t spent                     # ns that they took


ctypedef struct tg_batch_sizes:
    tg_row_time alone                  # of inferences that ran alone
    int64_t rows_alone                 # of the one that did so last
    tg_row_time merged[BATCH_SIZES]    # of batches of several inferences


# A run of `rows` rows, of several inferences if `merged`, took `ns`.
cdef void batch_size_ran(tg_batch_sizes *sizes, int64_t rows, bint merged, uint64_t ns, uint64_t now) noexcept
# The most rows to run together, of `waiting` rows that wait, and `most` at most. A size that was not seen lately is
# tried.
cdef int64_t batch_size_rows(const tg_batch_sizes *sizes, int64_t waiting, int64_t most, uint64_t now) noexcept
