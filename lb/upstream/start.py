"""What the master tells workers of the start of an endpoint, for requests that wait for it."""

from __future__ import annotations

from msgspec import Struct


class Start(Struct, frozen=True):
    """The start of an endpoint of a pool that has none. Times are monotonic ns, 0 = unknown."""

    ready_at: int = 0  # when an endpoint is ready at the earliest
    takes: int = 0  # ns from a start to ready, the shortest of late
    trouble: str = ""  # why no endpoint can be started; "" = nothing is known to be wrong
    lasts: bool = True  # the trouble is also that of requests to come, until something else is told
