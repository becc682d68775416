"""The rule `auto`: it learns what a pool can do and what its load is like, and follows the way to scale that would have
been best so far.

Hundreds of candidates (`lb.scaling.rules.replay`) are replayed over the requests that really come, beside the rules
that people know. The best of those rules, the one with the fewest late requests, is what a pool may cost; of the
candidates that cost no more, the one with the fewest late requests is followed. Why, and what else was tried:
docs/adr/autoscaling.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from lb.config.units import MILLISECOND, SECOND
from lb.scaling.forecast.combined import LoadForecast
from lb.scaling.plan import is_stale, latest, plan, stay
from lb.scaling.rules.replay import Replay
from lb.scaling.scaler import Decision, Look

INTERVAL = 250 * MILLISECOND
# Looks are replayed once a second; as soon as somebody waits, at once.
SPAN = SECOND
# Means of the rate, s. 0 is the last look alone.
SMOOTHINGS = (0.0, 4.0, 15.0, 60.0)
# Pairs of them that give a slope.
TRENDS = ((1, 2), (2, 3))
# What candidates predict with: the last look, the mean of 4 s, both slopes.
PREDICTORS = (0, 1, 4, 5)
NAMES = ("last look", "4 s", "15 s", "60 s", "trend of 4 s", "trend of 15 s")
# In the order of the replay.
REFERENCES = ("hpa", "kpa", "target_tracking", "step", "ray")
HOLDS = (0.0, 15.0, 60.0, 300.0, 1200.0, 4800.0)
# Parts of the start time in which a backlog is to be served; 0 is one look.
DRAINS = (0.0, 0.33)
HEADROOMS = (0.5, 0.7, 0.85, 1.0, 1.1, 1.25, 1.45, 1.75, 2.2, 3.0, 4.5)
# Followed until there is something to go by: the mean of 4 s, 300 s, a backlog at once, 1.45.
FIRST = (1, 3, 0, 6)
FIRST_SECONDS = 30.0
# What happened five days ago counts for 1/e.
MEMORY = 5 * 86_400.0
CHOOSE_SECONDS = 10.0
# A part of what the best reference has cost; by CAUTION less at first, and by half of it after two hours. What was
# spent too much in the first hour takes as long to be saved.
BUDGET = 0.95
CAUTION = 0.06
CAUTIOUS = 7200.0
HORIZON = 0.3
STRESS = 0.1
TIE = 0.05
# s until which about as good is not good enough by half.
DOUBT = 1800.0
# s of the mean load that are late before there is evidence, divided by the headroom; the longer the hold the fewer.
PRIOR = 20.0
# What a replica second beyond the budget has to save, as a part of the requests that it can serve.
PRICE = 0.05
# Before the first replica has started.
ASSUMED_START = 10.0
# Without an objective a request may wait as long as it is served.
PATIENCE_OF_SERVICE = 1.0
# Answers after which what was learned before counts for 1/e.
ANSWERS = 200.0
LEAST_SERVICE = 1e-6
# Times the replicas that a load needs: those that pools of the replay begin with after a time without any.
AMPLE = 1.45
# Requests that were held while there was no replica; fewer are not seen in what a replica is measured by.
PILE = 4.0
# Time without any request after which a pool that never had one shrinks.
IDLE = 300 * SECOND


class Shape(Struct):
    """What is known of a replica: s from a request's begin to its end there, requests at once, s to start."""

    service: float | None = None
    places: float = 1.0
    saturated: bool = False  # whether `places` was seen with a queue in front
    start: float | None = None


class _Kept(Struct, array_like=True):
    """What `memory` keeps."""

    version: int
    shape: Shape
    replay: list[float]
    forecast: bytes


class Auto:
    """A Scaler. `objective` is from a request to its answer, ns; None: the queue's wait is to be no longer than the
    service. With `forecast` False forecasts are made and shown, and not followed."""

    name = "auto"
    interval = INTERVAL

    def __init__(self, objective: int | None = None, forecast: bool = True) -> None:
        self._objective = objective
        self._follow = forecast
        self._replay = Replay(SMOOTHINGS, TRENDS, PREDICTORS, HOLDS, DRAINS, HEADROOMS, MEMORY)
        self._shape = Shape()
        self._forecast = LoadForecast()
        predictor, hold, drain, headroom = FIRST
        self._candidate = ((PREDICTORS.index(predictor) * len(HOLDS) + hold) * len(DRAINS) + drain) * len(
            HEADROOMS
        ) + headroom
        self._look: Look | None = None
        self._sums = _Sums()
        self._since_choice = 0.0
        self._shaped = False  # whether a look was replayed
        self._empty = False  # whether there was no replica when the replay saw the load last
        self._held = 0.0  # requests that came while there was no replica, and are not answered yet
        self._piled = False  # whether the service was measured by these alone
        self._asked_at = 0
        self._ready = 0  # replicas that were ready in the look before
        self._queued_at = 0  # replicas that were ready in the look before, if requests queued in it

    def see(self, look: Look) -> None:
        if self._look is None:
            self._asked_at = look.at
        self._look = look
        traffic = look.traffic
        if traffic is not None and (traffic.arrived or traffic.in_flight or traffic.waiting):
            self._asked_at = look.at
        if traffic is None or traffic.span <= 0:
            return
        sums = self._sums
        sums.span += traffic.span
        sums.arrived += traffic.arrived
        sums.over += traffic.answered + traffic.failed
        sums.served += traffic.served
        sums.in_flight += traffic.in_flight * traffic.span
        sums.waiting += traffic.waiting * traffic.span
        sums.wanted += look.wanted * traffic.span
        if sums.span >= SPAN or traffic.waiting > look.ready * self._shape.places > 0:
            self._learn(look, sums)
            self._sums = _Sums()

    def decide(self, now: int) -> Decision:
        look = latest(self._look)
        if look.traffic is None or is_stale(look, now):
            return stay(look, "traffic is missing")
        if not self._shaped:
            if look.at - self._asked_at < IDLE:
                return stay(look, "nothing was answered yet")
            return plan(look, 0, 0, f"no request for {IDLE // SECOND} s")
        replicas = self._replay.wanted(self._candidate, look.traffic.waiting, look.ready, look.wanted)
        reason = f"{self._told()}: {replicas}"
        foreseen = 0
        forecast = self._forecast.forecast()
        if forecast is not None and forecast.used and self._follow:
            expected = math.ceil(forecast.quantile / self._rate() - 1e-9)
            if forecast.quantile * self._start() >= 1.0:
                foreseen = expected
            if expected > replicas:
                replicas, reason = expected, f"forecast of {forecast.quantile:.4g} requests/s: {expected}"
        allowed = replicas if self._known() else max(replicas, look.wanted)
        return replace(plan(look, replicas, allowed, reason, "too little that was seen"), foreseen=foreseen)

    def learned(self) -> Mapping[str, Any]:
        replay, shape = self._replay, self._shape
        if shape.service is None or not replay.seconds:
            return {}
        predictor, hold, headroom, drain = replay.parameters(self._candidate)
        followed = replay.late(self._candidate), replay.paid(self._candidate)
        return {
            "service_ms": round(shape.service * 1e3, 3),
            "concurrency": round(shape.places, 2),
            "start_s": shape.start,
            "predictor": NAMES[predictor],
            "hold_s": HOLDS[hold],
            "headroom": headroom,
            "drain_s": drain * self._start(),
            "replayed": [
                self._score("followed", *followed),
                *(self._score(name, *replay.reference(i)) for i, name in enumerate(REFERENCES)),
            ],
            "spent_replicas": round(replay.spent / replay.seconds, 2),
            **{f"forecast_{name}": value for name, value in self._forecast.learned().items()},
        }

    def _score(self, name: str, late: float, paid: float) -> str:
        replay = self._replay
        percent = 100 * late / replay.requests if replay.requests else 0.0
        return f"{name}: {percent:.3g} % late, {paid / replay.seconds:.3g} replicas"

    def memory(self) -> bytes:
        """What was learned of replicas, what the replay found of each candidate, and the history of the load."""
        if self._shape.service is None:
            return b""
        return msgspec.msgpack.encode(_Kept(1, self._shape, self._replay.kept(), self._forecast.memory()))

    def restore(self, memory: bytes) -> None:
        if not memory:
            return
        try:
            kept = msgspec.msgpack.decode(memory, type=_Kept)
        except msgspec.MsgspecError as error:
            raise ValueError(f"no memory of the rule auto: {error}") from None
        shape = kept.shape
        if kept.version != 1 or not (shape.service or 0) > 0 or not shape.places > 0:
            raise ValueError("no memory of the rule auto")
        forecast = LoadForecast()
        forecast.restore(kept.forecast)
        self._replay.take_over(kept.replay)
        self._shape, self._forecast = shape, forecast

    def _learn(self, look: Look, sums: _Sums) -> None:
        """A look is complete."""
        shape, span = self._shape, sums.span / SECOND
        replay, start = self._replay, self._start()
        self._measure(look, sums)
        if not look.ready:
            # What is late before there is a replica is late whatever the way to scale, and says nothing of any.
            self._empty = True
            replay.note(span, sums.arrived)
        if shape.service is None:
            return
        service, objective = shape.service, self._objective
        patience = PATIENCE_OF_SERVICE * service if objective is None else objective / SECOND - service
        replay.shaped(service, shape.places, patience, start, look.minimum, look.maximum)
        self._forecast.see(look.wall, span, sums.arrived, start + INTERVAL / SECOND)
        if look.ready:
            if self._empty:
                # The backlog is nobody's, and all begin with what the load needs.
                needed = math.ceil(AMPLE * replay.steady() / self._rate())
                replay.begin(min(max(needed, look.minimum, 1), look.maximum))
            elif not self._shaped:
                replay.begin(look.wanted)
            self._empty = False
            replay.spend(sums.wanted / SECOND)
            replay.see(span, sums.arrived)
        self._shaped = True
        self._since_choice += span if look.ready else 0.0
        if self._since_choice >= CHOOSE_SECONDS and self._known():
            self._since_choice = 0.0
            budget = BUDGET - CAUTION * CAUTIOUS / (CAUTIOUS + replay.seconds)
            self._candidate = replay.choose(self._candidate, budget, HORIZON, STRESS, TIE, DOUBT, PRIOR, PRICE)

    def _measure(self, look: Look, sums: _Sums) -> None:
        shape = self._shape
        if look.start_time is not None:
            shape.start = look.start_time / SECOND
        queued = sums.waiting >= sums.span * look.ready * shape.places
        if not look.ready:
            self._held = sums.waiting / sums.span
        elif self._held > PILE and not queued:
            self._measure_pile(look, sums)
            return
        if sums.over:
            # Where times are not added up, by Little's law.
            seen = (sums.served or sums.in_flight) / sums.over / SECOND
            share = 1.0 if self._piled else 1.0 - math.exp(-sums.over / ANSWERS)
            self._piled = False
            seen = max(seen, LEAST_SERVICE)
            shape.service = seen if shape.service is None else shape.service + share * (seen - shape.service)
        if not look.ready:
            return
        each = sums.in_flight / sums.span / look.ready
        if queued and self._queued_at == look.ready and each > 0:
            # With a queue in front of them for all of the look, replicas have all that they can work on at once.
            shape.places = shape.places + 0.2 * (each - shape.places) if shape.saturated else each
            shape.saturated = True
        elif each > shape.places and self._ready == look.ready:
            shape.places = each
        self._queued_at = look.ready if queued else 0
        self._ready = look.ready

    def _measure_pile(self, look: Look, sums: _Sums) -> None:
        """All requests that were held for the first replica are there at once: neither how many these are nor how long
        they take says what a replica is like. How many it answers does, and that is gone by until they are over."""
        shape = self._shape
        if sums.over and (shape.service is None or self._piled):
            seen = max(sums.span * look.ready / sums.over / SECOND, LEAST_SERVICE)
            shape.service = seen if shape.service is None else min(shape.service, seen)
            self._piled = True
        self._held = max(0.0, self._held - sums.over)
        self._queued_at, self._ready = 0, look.ready

    def _start(self) -> float:
        """s that a replica takes to start."""
        return self._shape.start or ASSUMED_START

    def _known(self) -> bool:
        """Whether there is enough to choose a candidate by, and to remove replicas: some time, and where replicas start
        the first of them, since what a start takes is most of what candidates differ in."""
        start, look = self._shape.start, self._look
        if start is None and look is not None and look.wanted > look.ready:
            return False
        return self._replay.seconds >= max(FIRST_SECONDS, 2 * (start or 0.0))

    def _rate(self) -> float:
        """Requests/s that a replica can serve."""
        return self._shape.places / (self._shape.service or 1.0)

    def _told(self) -> str:
        predictor, hold, headroom, _ = self._replay.parameters(self._candidate)
        of = f"the highest of {HOLDS[hold]:g} s" if HOLDS[hold] else "the rate"
        return f"{headroom:g} times {of} ({NAMES[predictor]}), {self._rate():.4g} requests/s each"


class _Sums(Struct):
    """Of the look that is not complete: ns, requests, and products of both."""

    span: int = 0
    arrived: int = 0
    over: int = 0
    served: int = 0
    in_flight: float = 0.0
    waiting: float = 0.0
    wanted: int = 0
