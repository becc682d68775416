"""How many rows a model is best given at once, learnt from how long its runs take."""

from libc.stdint cimport int64_t, uint64_t


cdef enum:
    PACE_SIZES = 24                   # of batches that are told apart: powers of two


ctypedef struct tg_pace:
    double row_ns[PACE_SIZES]         # time of a run for each of its rows
    uint64_t seen_at[PACE_SIZES]      # when such a run ended last (monotonic ns); 0 = none has


# A run of `rows` rows took `ns`.
cdef void pace_ran(tg_pace *pace, int64_t rows, uint64_t ns, uint64_t now) noexcept
# The most rows to run together, `most` at most. A size that was not seen lately is tried.
cdef int64_t pace_rows(const tg_pace *pace, int64_t most, uint64_t now) noexcept
