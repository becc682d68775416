"""What a choice among the endpoints of a set goes by, told apart: for explanations, not for the data path.

The reasons come in the order in which Choice.effective_weight asks for them. Another process may change a word
between two looks; so each is looked at once, and what remains unexplained says so.
"""

from libc.stdint cimport uint32_t, uint64_t
from lb.shared.atomics cimport tg_load32, tg_load64_relaxed
from lb.shared.segment cimport (
    TG_ADMIN_ENABLED, TG_ADMIN_MAINTENANCE, TG_HEALTH_UP, TG_SHARE_HELD, TG_SHARE_PANIC, TG_SHARE_WHOLE,
    TG_STATE_EJECTED, TG_STATE_MASK, TG_STATE_PROBATION, TG_STATE_WELL, tg_endpoint,
)
from lb.shared.recent_failures cimport failing_of, turns_of
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.endpoints.candidate import Candidate


def candidates(Choice choice not None) -> list[Candidate]:
    """A Candidate for each endpoint of the set: whether it could be chosen, whatever the choice's group and `exclude`.
    Raises ValueError when the segment is closed."""
    cdef int i
    if choice.endpoints.segment.base == NULL:
        raise ValueError("the shared segment is closed")
    return [candidate(choice, i) for i in range(choice.endpoints.size)]


def panicking(EndpointSet endpoints not None) -> list[int]:
    """The indexes of the endpoints that are not left out, whatever their health, as too few of them are healthy."""
    cdef int i
    found = []
    if endpoints.segment.base == NULL:
        raise ValueError("the shared segment is closed")
    if endpoints.shaped:
        for i in range(endpoints.size):
            if tg_load32(&endpoints.records[i].held_back) & TG_SHARE_PANIC:
                found.append(i)
    return found


STATES = {TG_STATE_WELL: "well", TG_STATE_EJECTED: "ejected", TG_STATE_PROBATION: "probation"}


cdef object candidate(Choice choice, int i):
    cdef EndpointSet endpoints = choice.endpoints
    cdef uint64_t now = choice.now
    cdef const tg_endpoint *record = endpoints.records[i]
    cdef uint32_t held_back = tg_load32(&record.held_back) if endpoints.shaped else 0
    cdef uint32_t ejection_state = tg_load32(&record.ejection_state) & TG_STATE_MASK if endpoints.shaped else 0
    cdef uint32_t admin = tg_load32(&record.admin), health = tg_load32(&record.health)
    cdef bint panic = held_back & TG_SHARE_PANIC != 0
    cdef uint32_t kept = min(held_back & TG_SHARE_HELD, <uint32_t>TG_SHARE_WHOLE)
    cdef int running = endpoints.running(i), limit = endpoints.limit_now(i), weight = endpoints.weight(i)
    cdef str why = ""
    cdef bint full = False
    if choice.models and tg_load64_relaxed(&record.models_unready) & choice.models:
        why = "the model is not ready there"
    elif admin == TG_ADMIN_MAINTENANCE:
        why = "in maintenance"
    elif admin != TG_ADMIN_ENABLED:
        why = "draining"
    elif not panic and health != TG_HEALTH_UP:
        why = "down"
    elif not panic and ejection_state == TG_STATE_EJECTED:
        why = "ejected for its answers"
    elif not panic and ejection_state == TG_STATE_PROBATION and running >= endpoints.probes:
        why = f"on probation, with its {endpoints.probes} in flight"
    elif weight == 0:
        why = "its weight is 0"
    elif kept == TG_SHARE_WHOLE:
        why = "others come before it: its share is held back"
    elif limit and running >= limit:
        why, full = f"it has its {limit} requests in flight", True
    elif choice.is_blocked(i):
        why = "it is reserved for the requests in front"
    elif endpoints.limited and endpoints.claimant(i, now) >= 0:
        why = "its next slot is for a request that only it can serve"
    return Candidate(
        i, endpoints.addresses[i], why, not endpoints.unready(i) & choice.models, weight,
        (TG_SHARE_WHOLE - kept) / <double>TG_SHARE_WHOLE,
        STATES[ejection_state], running, limit, endpoints.latency_ns(i), failing_of(record, now),
        turns_of(failing_of(record, now)), full,
    )
