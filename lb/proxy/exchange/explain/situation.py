"""What an exchange that looks for an endpoint has behind it, and in words what came of its choice."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from msgspec import Struct

from lb.proxy.exchange.explain.choices import View


class Situation(Struct, frozen=True, kw_only=True):
    """Times are monotonic nanoseconds, indices those of the pool."""

    now: int
    started: int
    retry: bool  # an attempt has failed
    queued_at: int  # when it began to wait in the pool's queue; 0 = it does not
    in_sequence: bool
    sequence_at: int  # endpoint that has the sequence's state; -1 = none: it begins
    sticky: int  # endpoint that a cookie or a session names; -1 = none
    sticky_address: str
    model: str  # that the endpoint has to have ready; "" = any will do
    failed: str  # address of the endpoint that failed last; "" = none has
    beside: str  # a hedge's: address of the endpoint that has not answered yet; "" = it is no hedge
    beside_since: int  # and when that was asked

    def steps(self) -> list[str]:
        """What narrowed the choice before the policy had a say, in this order."""
        steps = []
        if self.in_sequence:
            steps.append("sequence: it begins" if self.sequence_at == -1 else "sequence: it is open")
        if self.sticky >= 0:
            steps.append(f"affinity: the cookie names {self.sticky_address}")
        if self.model:
            steps.append(f"model {self.model}: only where it is ready")
        if self.queued_at:
            steps.append(f"queue: it waited {_milliseconds(self.now, self.queued_at)} ms")
        if self.beside:
            waited = _milliseconds(self.now, self.beside_since)
            steps.append(f"hedge: {self.beside} has not answered for {waited} ms")
        elif self.retry and self.failed:
            steps.append(f"retry: other than {self.failed}")
        return steps

    def chosen(self, index: int, address: str, view: View | None, spared: Container[int]) -> dict[str, Any]:
        """The choice fell on endpoint `index`; `spared` are those that get less than their share."""
        if self.sequence_at == index:
            why = "it has the sequence's state"
        elif self.sticky == index:
            why = "its cookie names it"
        elif view is None:
            why = "the policy chose it"
        else:
            why = view.why(index, spared)
        return self._words(address, "hedge" if self.beside else "", why)

    def none_chosen(self, why: str) -> dict[str, Any]:
        """The choice fell on nobody."""
        return self._words(None, "", why)

    def _words(self, address: str | None, purpose: str, why: str) -> dict[str, Any]:
        return {
            "endpoint": address,
            "for": purpose or ("retry" if self.retry else "first attempt"),
            "why": why,
            "after_ms": _milliseconds(self.now, self.started),
            "steps": self.steps(),
        }


def _milliseconds(now: int, since: int) -> float:
    return round((now - since) / 1e6, 3) if now > since else 0.0
