"""What a scaling rule sees of a managed pool: its traffic, and a reading of each signal over the replicas."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from lb.config.units import SECOND
from lb.control.servers.traffic import Counts, TrafficMeter
from lb.scaling.propose import Reading
from lb.scaling.scaler import Traffic


class Source(Struct, frozen=True):
    """Where the signals of one pool come from. `inflight` takes an endpoint's address, `cpu` gives percent of one core
    by address; `counts` gives None where nothing is counted, `wall` the seconds since the epoch."""

    inflight: Callable[[str], int]
    waiting: Callable[[], int]
    counts: Callable[[], Counts | None]
    cpu: Callable[[], Mapping[str, float]]
    wall: Callable[[], float] = time.time


class Signals:
    """Reads the signals of one pool; call it from look to look."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._meter = TrafficMeter()

    def read(self, ready: Sequence[str], unready: int, now: int) -> tuple[Traffic | None, dict[str, Reading]]:
        """The traffic since the last call, and the readings of the replicas at the addresses `ready`; `unready` more
        are wanted. `now` is monotonic ns."""
        traffic = self._meter.look(self._source.counts(), now)
        if not ready:
            return traffic, {}
        # Endpoints with a limit never have more than that, however many are wanted: those who wait are load, too.
        share = self._source.waiting() / len(ready)
        use = self._source.cpu()
        busy = tuple(use[address] for address in ready if address in use)
        found = {
            "in_flight": Reading(tuple(self._source.inflight(a) + share for a in ready), unready=unready),
            "cpu": Reading(busy, len(ready) - len(busy), unready),
        }
        if traffic is not None:
            found |= {name: Reading((v,) * len(ready), 0, unready) for name, v in _of(traffic, len(ready)).items()}
        return traffic, found


def _of(traffic: Traffic, ready: int) -> dict[str, float]:
    """The signals that traffic alone gives, for each of `ready` replicas or of the whole pool."""
    dispatched = traffic.arrived - traffic.refused
    if dispatched > 0 and traffic.waited > 0:
        wait = traffic.waited / dispatched
    else:  # those who wait have not got anywhere yet (Little's law)
        wait = traffic.waiting * traffic.span / max(1, traffic.arrived)
    return {
        "requests_per_second": traffic.arrived * SECOND / traffic.span / ready,
        "queue_length": traffic.waiting / ready,
        "queue_wait": wait / SECOND,
    }
