"""How many rows a model is best given at once: see batch_size.pxd.

Merging pays where a row costs less time in a batch than alone: the queue empties sooner, and the last of those that
wait is answered sooner. It does not pay for every model (convolutions on a CPU fill its caches and all of its cores
with one row), and the answer changes with the machine. So the time of a row is kept, of inferences that run alone and
for each size of batch, and the size in which a row costs least is the most that is merged. Sizes are told apart by
powers of two. A run that was held up by something else says nothing of the model: a longer time moves what is known by
an eighth at most, a shorter one replaces it. What was not seen for ten seconds is tried again, when as many rows wait,
the largest first. One try would be too few: a size that is no longer used is judged by its tries alone, and whatever
held up the only one would decide for ten seconds.
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


cdef inline bint seen(const tg_row_time *known, uint64_t now) noexcept:
    return known.seen_at != 0 and now - known.seen_at <= FRESH_NS


cdef inline bint fresh(const tg_row_time *known, uint64_t now) noexcept:
    """Whether enough is known."""
    return seen(known, now) and (known.tries == TRIES or known.spent >= ENOUGH_NS)


cdef void batch_size_ran(tg_batch_sizes *sizes, int64_t rows, bint merged, uint64_t ns, uint64_t now) noexcept:
    cdef tg_row_time *known = &sizes.merged[size_of(rows)] if merged else &sizes.alone
    cdef double row = <double>ns / <double>max(rows, <int64_t>1)
    if not merged:
        sizes.rows_alone = rows
    if not seen(known, now):
        known.ns = row
        known.tries = 0
        known.spent = 0
    elif row < known.ns:
        known.ns = row
    else:
        known.ns += (min(row, 2 * known.ns) - known.ns) / SLOWER
    known.seen_at = max(now, <uint64_t>1)
    known.tries = min(known.tries + 1, <int>TRIES)
    known.spent += ns


cdef int64_t batch_size_rows(const tg_batch_sizes *sizes, int64_t waiting, int64_t most, uint64_t now) noexcept:
    cdef int64_t best = 1
    cdef double least = GAIN * sizes.alone.ns
    cdef int size = size_of(min(waiting, most))
    cdef int smallest = size_of(2 * sizes.rows_alone)
    if size == 0 or not fresh(&sizes.alone, now):
        return 1                              # first of all: what a row costs alone
    # A size that cannot be filled now says nothing of what waits now, and trying it would merge for ever.
    while size >= max(smallest, 1):
        if not fresh(&sizes.merged[size], now):
            return min(<int64_t>1 << size, most)
        if sizes.merged[size].ns < least:
            least = sizes.merged[size].ns
            best = <int64_t>1 << size
        size -= 1
    return min(best, most)
