"""What is counted of a model, as the ModelStatistics call reports it. Durations are nanoseconds. Changed on the event
loop only, so no lock is needed."""

from libc.stdint cimport int64_t, uint64_t


ctypedef struct tg_duration:
    uint64_t count
    uint64_t ns


ctypedef struct tg_phases:
    tg_duration input
    tg_duration infer
    tg_duration output


ctypedef struct tg_batch_size:
    int64_t rows
    tg_phases phases


ctypedef struct tg_counters:
    uint64_t last_ms                  # when a run ended last (wall clock)
    uint64_t inferences               # rows
    uint64_t executions
    tg_duration success
    tg_duration fail
    tg_duration queue
    tg_phases phases
    tg_batch_size *sizes              # in the order of their rows
    int size_count


# One run of `rows` rows has ended well. Of more than a thousand different sizes the rest is not told apart.
cdef void counters_ran(tg_counters *counters, int64_t rows, uint64_t input, uint64_t infer, uint64_t output) noexcept
# One request of `rows` rows was answered by such a run.
cdef void counters_succeeded(tg_counters *counters, int64_t rows, uint64_t total, uint64_t queued, uint64_t input,
                             uint64_t infer, uint64_t output) noexcept
cdef void counters_failed(tg_counters *counters, uint64_t total) noexcept
# Adds what the other one has. Raises MemoryError.
cdef int counters_add(tg_counters *counters, const tg_counters *other) except -1
cdef void counters_free(tg_counters *counters) noexcept
# A ModelStatistics message.
cdef bytes counters_text(const tg_counters *counters, name, version)
