"""GPUs and CPU cores of this machine, and which server has them: none is given away twice.

The GPUs are those that the daemon may use: CUDA_VISIBLE_DEVICES of its environment, else all that NVIDIA's driver
names. The cores are those of the daemon's CPU affinity.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from msgspec import Struct

_DRIVER = Path("/proc/driver/nvidia/gpus")
_EPSILON = 1e-6  # of a GPU: shares such as a third add up to a little more or less than one


class Place(Struct, frozen=True):
    """What one server has: names of GPUs for CUDA_VISIBLE_DEVICES, the share of each, and numbers of CPU cores."""

    gpus: tuple[str, ...] = ()
    share: float = 1.0
    cores: tuple[int, ...] = ()


NOWHERE = Place()


class Claim:
    """A server's wish for a place, from `Placement.claim` to `release`. `place` is None while it waits, and `why` says
    for what."""

    def __init__(self, owner: Placement, gpus: float, cores: int, granted: Callable[[], None]) -> None:
        self.place: Place | None = None
        self.why = ""
        self.gpus = gpus
        self.cores = cores
        self.granted = granted
        self._owner = owner

    def release(self) -> None:
        """Gives the place back, or waits no more. Again: without effect."""
        self._owner.drop(self)


class Placement:
    """Whoever waited longest is first. A later claim overtakes one that waits only when the two want different
    things, so that a claim for many GPUs is not put off for ever by small ones."""

    def __init__(self, gpus: Sequence[str] | None = None, cores: Sequence[int] | None = None) -> None:
        """Default: those of this machine."""
        self._given_gpus = gpus
        self._given_cores = cores
        self._holding: list[Claim] = []
        self._waiting: list[Claim] = []

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """Names of the GPUs that servers can have."""
        return tuple(visible_gpus() if self._given_gpus is None else self._given_gpus)

    @cached_property
    def cores(self) -> tuple[int, ...]:
        """Numbers of the cores that servers can have."""
        return tuple(sorted(os.sched_getaffinity(0)) if self._given_cores is None else self._given_cores)

    def claim(self, gpus: float, cores: int, granted: Callable[[], None]) -> Claim:
        """Asks for GPUs (below 1: for a share of one) and cores. The claim has its place at once, or else `granted` is
        called when it gets it."""
        claim = Claim(self, gpus, cores, granted)
        self._waiting.append(claim)
        self._serve(told=claim)
        return claim

    def drop(self, claim: Claim) -> None:
        """See Claim.release."""
        if claim in self._waiting:
            self._waiting.remove(claim)
        elif claim in self._holding:
            self._holding.remove(claim)
            claim.place = None
        else:
            return
        self._serve()

    def _serve(self, told: Claim | None = None) -> None:
        """Gives places to those that wait; `told` is asked by its caller, not called."""
        granted, short_of = [], {"gpus": False, "cores": False}
        for claim in tuple(self._waiting):
            if (claim.gpus and short_of["gpus"]) or (claim.cores and short_of["cores"]):
                claim.why = self._reason(claim, behind=True)
                place = None
            else:
                place = self._find(claim)
                claim.why = "" if place else self._reason(claim)
            if place is None:
                short_of["gpus"] = short_of["gpus"] or claim.gpus > 0
                short_of["cores"] = short_of["cores"] or claim.cores > 0
                continue
            claim.place = place
            self._waiting.remove(claim)
            self._holding.append(claim)
            if claim is not told:
                granted.append(claim)
        for claim in granted:
            if claim in self._holding:  # one before it may have ended it
                claim.granted()

    def _find(self, claim: Claim) -> Place | None:
        taken = self._taken_gpus()
        if claim.gpus >= 1:
            gpus = [gpu for gpu in self.gpus if not taken[gpu]][: int(claim.gpus)]
            enough = len(gpus) == claim.gpus
        elif claim.gpus > 0:
            # The fullest that has room: whole ones stay whole.
            room = [gpu for gpu in self.gpus if taken[gpu] + claim.gpus <= 1 + _EPSILON]
            gpus = sorted(room, key=lambda gpu: -taken[gpu])[:1]
            enough = bool(gpus)
        else:
            gpus, enough = [], True
        used = {core for other in self._holding if other.place for core in other.place.cores}
        cores = [core for core in self.cores if core not in used][: claim.cores]
        if not enough or len(cores) < claim.cores:
            return None
        return Place(tuple(gpus), min(claim.gpus, 1.0) if claim.gpus else 1.0, tuple(cores))

    def _taken_gpus(self) -> dict[str, float]:
        taken = dict.fromkeys(self.gpus, 0.0)
        for other in self._holding:
            if other.place is not None:
                for gpu in other.place.gpus:
                    taken[gpu] += other.place.share
        return taken

    def _reason(self, claim: Claim, behind: bool = False) -> str:
        """What a claim waits for."""
        parts = []
        if claim.gpus:
            taken = sum(self._taken_gpus().values())
            parts.append(f"{claim.gpus:g} of {len(self.gpus)} GPUs, of which {taken:g} are taken")
        if claim.cores:
            held = sum(len(other.place.cores) for other in self._holding if other.place)
            parts.append(f"{claim.cores} of {len(self.cores)} cores, of which {held} are taken")
        return f"waits for {' and '.join(parts)}" + (", behind others" if behind else "")


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        names = []
        for name in (part.strip() for part in said.split(",")):
            if not name or name.startswith("-"):  # CUDA ignores what follows a device that there is none of
                break
            names.append(name)
        return names
    try:
        return [str(number) for number in range(len(list(_DRIVER.iterdir())))]
    except OSError:
        return []
