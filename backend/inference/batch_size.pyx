"""How many rows a model is best given at once: see batch_size.pxd.

Merging pays where a row costs less time in a batch than alone: the queue empties sooner, and the last of those that
wait is answered sooner. It does not pay for every model (convolutions on a CPU fill its caches and all of its cores
with one row), and the answer changes with the machine. So the time of a row is kept for each size of batch, and the
size in which a row costs least is the most that is merged. Sizes are told apart by powers of two. A run that was held
up by something else says nothing of the model: a longer time moves what is known by an eighth at most, a shorter one
replaces it. What was not seen for ten seconds is tried again, when as many rows wait. One try would be too few: a size
that is no longer used is judged by its tries alone, and whatever held up the only one would decide for ten seconds.
"""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    FRESH_NS = 10_000_000_000
    SLOWER = 8                        # a longer time counts for one part of so many
    TRIES = 4                         # runs of a size before it is judged,
    ENOUGH_NS = 20_000_000            # or less, when they have taken so long: a long run is held up by little

cdef double GAIN = 0.9                # of the time of a row alone, that a row in a batch may cost at most


cdef inline int size_of(int64_t rows) noexcept:
    """The least power of two that holds so many rows."""
    cdef int size = 0
    while size < BATCH_SIZES - 1 and (<int64_t>1 << size) < rows:
        size += 1
    return size


cdef void batch_size_ran(tg_batch_sizes *sizes, int64_t rows, uint64_t ns, uint64_t now) noexcept:
    cdef int size = size_of(rows)
    cdef double row = <double>ns / <double>max(rows, <int64_t>1)
    cdef double *known = &sizes.row_ns[size]
    if sizes.seen_at[size] == 0 or now - sizes.seen_at[size] > FRESH_NS:
        known[0] = row
        sizes.tries[size] = 0
        sizes.spent[size] = 0
    elif row < known[0]:
        known[0] = row
    else:
        known[0] += (min(row, 2 * known[0]) - known[0]) / SLOWER
    sizes.seen_at[size] = max(now, <uint64_t>1)
    sizes.tries[size] = min(sizes.tries[size] + 1, <int>TRIES)
    sizes.spent[size] += ns


cdef inline bint fresh(const tg_batch_sizes *sizes, int size, uint64_t now) noexcept:
    """Whether enough is known of a size."""
    return (sizes.seen_at[size] != 0 and now - sizes.seen_at[size] <= FRESH_NS
            and (sizes.tries[size] == TRIES or sizes.spent[size] >= ENOUGH_NS))


cdef int64_t batch_size_rows(const tg_batch_sizes *sizes, int64_t most, uint64_t now) noexcept:
    cdef int last = size_of(most), best = 0, size
    if last == 0 or not fresh(sizes, 0, now):
        return 1                              # first of all: what a row costs alone
    for size in range(1, last + 1):
        if not fresh(sizes, size, now):
            best = size
            break
        if sizes.row_ns[size] < GAIN * sizes.row_ns[0] and (
                best == 0 or sizes.row_ns[size] < sizes.row_ns[best]):
            best = size
    return min(<int64_t>1 << best, most)
