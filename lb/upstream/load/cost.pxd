"""What requests of a pool cost: their units, each as long as it takes the model, so that an average request costs 1."""

from libc.stdint cimport uint64_t
from lb.shared.costs cimport Costs
from lb.shared.segment cimport TG_COST_NAME, Segment, tg_cost


cdef enum:
    UNIT_BATCH = 1
    UNIT_BYTES


cdef class PoolCosts:
    cdef readonly int unit            # UNIT_…
    cdef readonly bint learns         # each model has a cost of its own
    cdef Costs table
    cdef bytes name                   # of the pool
    cdef uint64_t pool_key
    cdef tg_cost *pool                # its record when it was last looked for; NULL = never
    cdef char text[TG_COST_NAME]      # "pool|model", of the model at hand
    cdef size_t prefix

    # The units of a request with a body of so many bytes.
    cdef double units_of_bytes(self, uint64_t size) noexcept
    # What tells a model apart; 0: nothing does, or its name is too long.
    cdef uint64_t model_key(self, const char *model, size_t n) noexcept
    # What a request of `units` for the model `key` costs, in TG_COST_ONE of an average one; 1 at least.
    cdef int price(self, double units, uint64_t key, uint64_t now) noexcept
    # An endpoint answered it well after `latency` ns. It was charged `charged` of `load_at_start`,
    # the load when it came, its own included.
    # `model` is NULL where it was `known` before; else a new one is put in.
    cdef void learn(self, uint64_t key, const char *model, size_t n, double units, uint64_t latency, int charged,
                    int load_at_start, uint64_t now) noexcept
    cdef bint known(self, uint64_t key, uint64_t now) noexcept

    cdef tg_cost *record(self, uint64_t now) noexcept
    cdef double relative(self, uint64_t key, uint64_t now) noexcept
