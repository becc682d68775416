"""Series of models, in the shared segment: counters of what a pool's clients ask of each model, by its name."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from lb.shared.segment cimport Segment, tg_model_head


@cython.final
cdef class ModelTable:
    """The models of a segment as one process sees them. Keeps the segment, and so its mapping, alive."""
    cdef readonly Segment segment
    cdef tg_model_head *head
    cdef uint64_t *slots
    cdef char *names
    cdef uint64_t mask

    # The row of the model `name` of a pool; row 0 where it has none and gets none. `proven`: one that has none may get
    # one, as the model is known to exist.
    cdef uint64_t row(self, str pool, uint64_t pool_key, const char *name, size_t n, bint proven) noexcept
    cdef uint64_t add(self, str pool, const char *name, size_t n, uint64_t hashed, uint64_t at) noexcept


cdef enum:
    RECENT = 16                       # a power of two
    RECENT_NAME = 52

# A model that was asked for of late, for the next look-up of its name; words are NULL before the first.
cdef struct tg_recent:
    uint64_t *words
    uint32_t size
    char name[RECENT_NAME]


@cython.final
cdef class PoolModels:
    """Those of one pool."""
    cdef tg_recent recent[RECENT]
    cdef ModelTable table
    cdef str pool
    cdef uint64_t pool_key
    cdef uint64_t other               # the row of those without one; 0 before the first

    # This worker's words of the model (ANSWER_…, MODEL_…). Those of the pool's model "other" where `name` is empty, too
    # long or no UTF-8, where there is no room, and where it is unknown and not `proven`. NULL in the master.
    cdef uint64_t *words(self, const char *name, size_t n, bint proven) noexcept
    # Of a row; 0: of "other".
    cdef uint64_t *words_of(self, uint64_t row) noexcept
