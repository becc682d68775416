"""What is counted of a model: see counters.pxd. Time of a shared run counts for each of its requests."""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from lb.wire import grpc_service_pb2 as wire

cdef enum:
    SIZES = 1024                      # of batches that are told apart

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_REALTIME_COARSE
    int clock_gettime(int clock, timespec *into)


cdef inline void add(tg_duration *duration, uint64_t ns) noexcept:
    duration.count += 1
    duration.ns += ns


cdef inline void add_phases(tg_phases *phases, uint64_t input, uint64_t infer, uint64_t output) noexcept:
    add(&phases.input, input)
    add(&phases.infer, infer)
    add(&phases.output, output)


cdef tg_batch_size *size_of(tg_counters *counters, int64_t rows) noexcept:
    """NULL: it is not told apart."""
    cdef int low = 0, high = counters.size_count, middle
    cdef tg_batch_size *sizes = counters.sizes
    while low < high:
        middle = (low + high) // 2
        if sizes[middle].rows < rows:
            low = middle + 1
        else:
            high = middle
    if low < counters.size_count and sizes[low].rows == rows:
        return &sizes[low]
    if counters.size_count == SIZES:
        return NULL
    sizes = <tg_batch_size *>realloc(sizes, (counters.size_count + 1) * sizeof(tg_batch_size))
    if sizes == NULL:
        return NULL
    counters.sizes = sizes
    memmove(&sizes[low + 1], &sizes[low], (counters.size_count - low) * sizeof(tg_batch_size))
    memset(&sizes[low], 0, sizeof(tg_batch_size))
    sizes[low].rows = rows
    counters.size_count += 1
    return &sizes[low]


cdef void counters_ran(tg_counters *counters, int64_t rows, uint64_t input, uint64_t infer, uint64_t output) noexcept:
    cdef tg_batch_size *size = size_of(counters, rows)
    cdef timespec now
    if clock_gettime(CLOCK_REALTIME_COARSE, &now) == 0:
        counters.last_ms = <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1_000_000
    counters.executions += 1
    if size != NULL:
        add_phases(&size.phases, input, infer, output)


cdef void counters_succeeded(tg_counters *counters, int64_t rows, uint64_t total, uint64_t queued, uint64_t input,
                             uint64_t infer, uint64_t output) noexcept:
    counters.inferences += <uint64_t>rows
    add(&counters.success, total)
    add(&counters.queue, queued)
    add_phases(&counters.phases, input, infer, output)


cdef void counters_failed(tg_counters *counters, uint64_t total) noexcept:
    add(&counters.fail, total)


cdef inline void add_duration(tg_duration *duration, const tg_duration *other) noexcept:
    duration.count += other.count
    duration.ns += other.ns


cdef void add_all_phases(tg_phases *phases, const tg_phases *other) noexcept:
    add_duration(&phases.input, &other.input)
    add_duration(&phases.infer, &other.infer)
    add_duration(&phases.output, &other.output)


cdef int counters_add(tg_counters *counters, const tg_counters *other) except -1:
    cdef tg_batch_size *size
    cdef int i
    counters.last_ms = max(counters.last_ms, other.last_ms)
    counters.inferences += other.inferences
    counters.executions += other.executions
    add_duration(&counters.success, &other.success)
    add_duration(&counters.fail, &other.fail)
    add_duration(&counters.queue, &other.queue)
    add_all_phases(&counters.phases, &other.phases)
    for i in range(other.size_count):
        size = size_of(counters, other.sizes[i].rows)
        if size != NULL:
            add_all_phases(&size.phases, &other.sizes[i].phases)
        elif counters.size_count < SIZES:
            raise MemoryError
    return 0


cdef void counters_free(tg_counters *counters) noexcept:
    free(counters.sizes)
    counters.sizes = NULL
    counters.size_count = 0


cdef object duration(const tg_duration *one):
    return wire.StatisticDuration(count=one.count, ns=one.ns)


cdef dict phases_of(const tg_phases *phases):
    return {
        "compute_input": duration(&phases.input),
        "compute_infer": duration(&phases.infer),
        "compute_output": duration(&phases.output),
    }


cdef bytes counters_text(const tg_counters *counters, name, version):
    cdef int i
    return wire.ModelStatistics(
        name=name,
        version=version,
        last_inference=counters.last_ms,
        inference_count=counters.inferences,
        execution_count=counters.executions,
        inference_stats=wire.InferStatistics(
            success=duration(&counters.success),
            fail=duration(&counters.fail),
            queue=duration(&counters.queue),
            **phases_of(&counters.phases),
        ),
        batch_stats=[
            wire.InferBatchStatistics(batch_size=counters.sizes[i].rows, **phases_of(&counters.sizes[i].phases))
            for i in range(counters.size_count)
        ],
    ).SerializeToString()
