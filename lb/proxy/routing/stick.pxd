"""Stick tables of a route: which entries its requests count in, and what its rules make of the counts."""

from libc.stdint cimport uint64_t
from lb.proxy.routing.values.format cimport Format, tg_values
from lb.shared.stick_tables cimport StickTable, tg_stick_ref


cdef enum:
    TRACKED_MOST = 4                  # tables that a request counts in

cdef enum:
    RULE_PASSED = 0                   # no rule denies the request
    RULE_DENIED
    RULE_NO_MEMORY
    RULE_TOO_LONG                     # a key is longer than a text may be: FORMAT_TOO_LONG


cdef struct tg_rule:
    # What a rule says of a request that it denies.
    int status
    uint64_t tarpit                   # nanoseconds; 0 = at once
    int number                        # of the rule, from 0


cdef class Comparison:
    """A condition on an entry of a table."""
    cdef StickTable table
    cdef Format key
    cdef int field
    cdef int how
    cdef uint64_t number

    cdef bint accepts(self, uint64_t value) noexcept nogil


cdef class TableRule:
    cdef tuple when                   # of Comparison
    cdef tg_rule what
    cdef tuple sets                   # of (StickTable, value of gpt0)
    cdef tuple adds                   # of StickTable: gpc0
    cdef bint late                    # it has to do with a table whose key has the client's identity


cdef class Tracking:
    """What a route has to do with tables. Immutable; its requests share it."""
    cdef tuple tables                 # of StickTable: that requests count in
    cdef tuple keys                   # of Format
    cdef tuple rules                  # of TableRule
    cdef readonly uint64_t kinds      # values of the request that keys ask for
    cdef unsigned char late_tables    # bits of those in whose keys is the client's identity
    cdef readonly bint early          # there is something to do before that is known
    cdef readonly bint late           # and once it is known

    # Counts the request, whose values are `values`, and asks the rules: RULE_… into `result`, and where that is
    # RULE_DENIED, into `what` what the rule says. `late`: of tables and rules, those that have to do with the client's
    # identity, otherwise the others. `made` is what it counts in already, or None. None: it counts nowhere.
    cdef Tracked track(self, Tracked made, bint late, const tg_values *values, int *result, tg_rule *what)
    cdef int begin(self, Tracked made, bint late, const tg_values *values, uint64_t now) noexcept
    cdef int decide(self, Tracked made, bint late, const tg_values *values, tg_rule *what, uint64_t now) noexcept


cdef class Tracked:
    """The entries that a request counts in until it is over."""
    cdef Tracking tracking
    cdef tg_stick_ref[4] refs
    cdef int count
    cdef unsigned char[4] at          # of each of `refs`, its table in Tracking.tables

    # The request is over. `error`: its answer was one for a fault of the client's, `failure`: for another.
    cdef void end(self, bint error, bint failure, uint64_t received, uint64_t sent) noexcept
    cdef tg_stick_ref *ref_of(self, StickTable table) noexcept
