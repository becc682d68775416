"""Locks that name their owner and can be taken from a dead one."""

from libc.stdint cimport uint64_t

# This process as a token: its pid and its start time. 0 when /proc cannot tell.
cdef uint64_t owner_token() noexcept nogil
# True only when the process behind the token certainly does not run any more.
cdef bint owner_is_dead(uint64_t token) noexcept nogil
cdef int owner_pid(uint64_t token) noexcept nogil
