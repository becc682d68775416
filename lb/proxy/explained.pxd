"""Explanations of exchanges that `explained` says are to have one, while they run. Plain Python, as few are."""

from libc.stdint cimport uint64_t
from lb.core.buffer cimport tg_buffer
from lb.proxy.exchange cimport Exchange
from lb.telemetry.accesslog cimport tg_access

# An endpoint other than `exclude` is about to be chosen, or (`turn`) tried for one whose turn in the queue it may be.
cdef void before_choice(Exchange exchange, uint64_t now, int exclude, bint turn) noexcept
# This one was (an index of the pool; counted in flight by now), or none (TAKEN_…). `beside`: for a second try beside
# that at this address, else None.
cdef void after_choice(Exchange exchange, uint64_t now, int found, str beside) noexcept
# Exchange.choose between these two.
cdef int explain_choice(Exchange exchange, uint64_t now, bint turn) noexcept
# There is none for it: `why` is Q_….
cdef void no_choice(Exchange exchange, uint64_t now, int why) noexcept
# X-Tidegate-Explain, where the client asked for it.
cdef void append_explanation(Exchange exchange, tg_buffer *head) noexcept
# For its line in the access log.
cdef void explain_record(Exchange exchange, tg_access *record) noexcept
# It is over.
cdef void forget_explanation(Exchange exchange) noexcept
