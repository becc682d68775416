"""Whether requests that find no model server wait for one, or are refused, and why: the one place that decides.

They wait while a model server is on its way: it starts, or does so after the pause that follows the end of one that was
ready, or waits for a place that a server which stops is about to give back. Where nothing is on its way, or only the
next try of what has just failed, they are refused at once: their clients can still do something about it.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from lb.control.servers.replica import Prospect, State
from lb.upstream.start import Start


class Coming(Struct, frozen=True):
    """What workers are told, and the trouble in the words for operators."""

    start: Start
    detail: str = ""


def coming(wanted: Sequence[Prospect], takes: int) -> Coming:
    """For requests that find none of `wanted` serving; `takes` is the time from a start to ready, 0 = unknown.

    Nobody wanted: the first request has one started."""
    starting = [one.begun_at for one in wanted if one.state is State.STARTING]
    if starting:
        return Coming(Start(min(starting) + takes if takes else 0, takes))
    ready = [one.begun_at for one in wanted if one.state is State.READY]
    if ready:  # workers are about to hear of it
        return Coming(Start(min(ready), takes))
    if any(one.soon for one in wanted):
        return Coming(Start(takes=takes))
    pausing = [one for one in wanted if one.state in (State.BACKOFF, State.CRASH_LOOP)]
    first = min(pausing, key=lambda one: one.due_at, default=None)
    ready_at = first.due_at + takes if first is not None else 0
    if not wanted or not all(_is_stuck(one) for one in wanted):
        return Coming(Start(ready_at, takes))
    told = first or wanted[0]
    return Coming(Start(ready_at, takes, told.trouble), told.detail)


def _is_stuck(one: Prospect) -> bool:
    """Whether no start is under way, and none is to be counted on."""
    match one.state:
        case State.WAITING:
            return not one.soon
        case State.BACKOFF:
            return one.failed_to_start
        case State.CRASH_LOOP:
            return True
        case State.STOPPING:  # it was not ready in time
            return True
        case _:
            return False
