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
    """A server's wish for a place, from `Placement.claim` to `release`. `place` is None while it waits; then `why` says
    for what, and `soon` whether servers that stop are about to give it back."""

    def __init__(
        self,
        owner: Placement,
        gpus: float,
        cores: int,
        granted: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self.place: Place | None = None
        self.why = ""
        self.soon = False
        self.ending = False  # its server stops
        self.gpus = gpus
        self.cores = cores
        self.granted = granted
        self.changed = changed
        self._owner = owner

    @property
    def wants(self) -> str:
        """What it is a claim for, without numbers: GPUs, cores, or both."""
        return " and ".join(filter(None, ("GPUs" if self.gpus else "", "cores" if self.cores else "")))

    def end_soon(self) -> None:
        """The server that has the place has begun to stop. Again: without effect."""
        if self.place is not None and not self.ending:
            self.ending = True
            self._owner.foresee()

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

    def claim(
        self, gpus: float, cores: int, granted: Callable[[], None], changed: Callable[[], None] = lambda: None
    ) -> Claim:
        """Asks for GPUs (below 1: for a share of one) and cores. The claim has its place at once, or else `granted` is
        called when it gets it. `changed` is called when it waits for another reason than before."""
        claim = Claim(self, gpus, cores, granted, changed)
        self._waiting.append(claim)
        self._serve(told=claim)
        return claim

    def keep(self, place: Place, gpus: float, cores: int) -> Claim:
        """The claim of a server that has had its place from before; to be told of before others claim anything."""
        claim = Claim(self, gpus, cores, lambda: None, lambda: None)
        claim.place = place
        self._holding.append(claim)
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

    def foresee(self, told: Claim | None = None) -> None:
        """Tells those that wait what they wait for now; `told` is asked by its caller, not called."""
        now, later = self._turns(self._places()), self._turns(self._places(staying=True))
        changed = []
        for (claim, _, behind), (_, place, _) in zip(now, later, strict=True):
            found = self._reason(claim, behind), place is not None
            if found != (claim.why, claim.soon):
                claim.why, claim.soon = found
                changed.append(claim)
        for claim in changed:
            if claim is not told and claim in self._waiting:  # one before it may have ended it
                claim.changed()

    def _serve(self, told: Claim | None = None) -> None:
        """Gives places to those that wait; `told` is asked by its caller, not called."""
        granted = []
        for claim, place, _ in self._turns(self._places()):
            if place is None:
                continue
            claim.place, claim.why, claim.soon = place, "", False
            self._waiting.remove(claim)
            self._holding.append(claim)
            if claim is not told:
                granted.append(claim)
        for claim in granted:
            if claim in self._holding:  # one before it may have ended it
                claim.granted()
        self.foresee(told)

    def _places(self, staying: bool = False) -> list[Place]:
        """Those that servers have, or only those of servers that stay."""
        return [c.place for c in self._holding if c.place is not None and not (staying and c.ending)]

    def _turns(self, taken: Sequence[Place]) -> list[tuple[Claim, Place | None, bool]]:
        """What each that waits gets where others have `taken` theirs; and whether it is kept from it by those in
        front."""
        turns, taken = [], list(taken)
        short_of = {"gpus": False, "cores": False}
        for claim in self._waiting:
            behind = bool((claim.gpus and short_of["gpus"]) or (claim.cores and short_of["cores"]))
            place = None if behind else self._find(claim, taken)
            if place is None:
                short_of["gpus"] = short_of["gpus"] or claim.gpus > 0
                short_of["cores"] = short_of["cores"] or claim.cores > 0
            else:
                taken.append(place)
            turns.append((claim, place, behind))
        return turns

    def _find(self, claim: Claim, taken: Sequence[Place]) -> Place | None:
        shares = self._shares(taken)
        if claim.gpus >= 1:
            gpus = [gpu for gpu in self.gpus if not shares[gpu]][: int(claim.gpus)]
            enough = len(gpus) == claim.gpus
        elif claim.gpus > 0:
            # The fullest that has room: whole ones stay whole.
            room = [gpu for gpu in self.gpus if shares[gpu] + claim.gpus <= 1 + _EPSILON]
            gpus = sorted(room, key=lambda gpu: -shares[gpu])[:1]
            enough = bool(gpus)
        else:
            gpus, enough = [], True
        used = {core for place in taken for core in place.cores}
        cores = [core for core in self.cores if core not in used][: claim.cores]
        if not enough or len(cores) < claim.cores:
            return None
        return Place(tuple(gpus), min(claim.gpus, 1.0) if claim.gpus else 1.0, tuple(cores))

    def _shares(self, taken: Sequence[Place]) -> dict[str, float]:
        shares = dict.fromkeys(self.gpus, 0.0)
        for place in taken:
            for gpu in place.gpus:
                shares[gpu] += place.share
        return shares

    def _reason(self, claim: Claim, behind: bool) -> str:
        """What a claim waits for."""
        taken = self._places()
        parts = []
        if claim.gpus:
            held = sum(self._shares(taken).values())
            parts.append(f"{claim.gpus:g} of {len(self.gpus)} GPUs, of which {held:g} are taken")
        if claim.cores:
            held = sum(len(place.cores) for place in taken)
            parts.append(f"{claim.cores} of {len(self.cores)} cores, of which {held:g} are taken")
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
