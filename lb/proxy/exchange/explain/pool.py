"""What a pool would do with a request that is only described: where it is bound to, the queue, the policy's choice.

`steps` are what has a say before the policy, in the order in which the data path asks: the sequence, affinity, the
model, panic, the queue. Each part adds its own sentence; one that decides the endpoint makes the `choice`, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from lb.config.plan.plan import PoolPlan, RoutePlan
from lb.endpoints.candidates import panicking
from lb.proxy.exchange.explain.affinity import sticky
from lb.proxy.exchange.explain.choices import FAILING, LOWEST, NOBODY, ONLY_ONE, ONLY_ONE_THERE, View

_NEVER = 2**64 - 1
_MESSAGES = ("grpc", "oip")  # protocols of pools whose endpoints get messages of gRPC
_NORMAL = 1  # the priority of a request without a route
_REFUSED = {
    "queue-full": "the queue is full",
    "queue-late": "its turn would come too late",
    "queue-shed": "the queue is kept short in an overload",
}


_STARTS = {"queue-late": "one cannot be ready in time"}


class Question(Struct):
    """What is known of a request when its pool is."""

    key: dict[str, str] | None  # where it is from, and its value
    hashed: int
    model: str
    version: str
    sequence: str
    route: RoutePlan | None
    value_of: Callable[[str, str], str | None]  # what it has of a header or cookie of that name


class Outcome(Struct):
    """What the steps so far come to: sentences, and a choice where one of them has made it, or the status that it is
    refused with."""

    steps: list[str]
    choice: dict[str, Any] | None = None
    refused: int | None = None

    def decide(self, address: str | None, why: str) -> None:
        """The first that decides does."""
        if self.choice is None:
            self.choice = {"address": address, "why": why}

    def refuse(self, status: int, why: str) -> None:
        if self.choice is None:
            self.refused = status
            self.decide(None, f"{status}{why}")


def explain_pool(plan: PoolPlan, pool: Any, question: Question, now: int) -> dict[str, Any]:
    """The part `pool` of an explanation, as plain types; `pool` is the plan's Pool (lb.upstream.pool)."""
    known = pool.models or {}
    wanted = known.get(question.model.encode(), 0)
    view = View.of(pool, now, question.hashed, -1, models=wanted)
    outcome = Outcome([])
    _sequence(outcome, pool, question, now)
    stays = sticky(plan, pool, question.value_of, now)
    _stay(outcome, stays)
    _model(outcome, view, question, wanted)
    _panic(outcome, plan, panicking(pool.endpoints))
    queue = _queue(outcome, pool, view, question, wanted, now)
    if outcome.choice is None:
        outcome.choice = _choice(plan, view)
    return {
        "name": plan.name,
        "policy": plan.policy.type,
        "key": question.key,
        "sticky": stays,
        "model": {"name": question.model, "known": wanted != 0} if question.model else None,
        "queue": queue,
        "steps": outcome.steps,
        "rule": view.explained.rule,
        "endpoints": _rows(view, plan, pool, outcome.choice["address"]),
        "choice": outcome.choice,
        "refused": outcome.refused,
    }


def _rows(view: View, plan: PoolPlan, pool: Any, chosen: str | None) -> list[dict[str, Any]]:
    rows = []
    for one in view.candidates:
        score = view.scores.get(one.index)
        rows.append(
            {
                "address": one.address,
                "priority": plan.endpoints[one.index].priority,
                "zone": plan.endpoints[one.index].zone or None,
                "available": not one.why_not,
                "why_not": one.why_not,
                "weight": one.weight,
                "share": round(one.share, 3),
                "ejection_state": one.ejection_state,
                "in_flight": one.in_flight,
                "outstanding_cost": None if plan.cost is None else pool.endpoints.load(one.index),
                "max_in_flight": one.max_in_flight or None,
                "latency_ms": round(one.latency_ns / 1e6, 3) or None,
                "score": None if score is None else round(score.score, 6),
                "failing": round(one.failing, 3),
                "turns": round(one.turns, 3),
                "local_transport": _local_transport(plan, pool.channels[one.index]),
                "note": _elsewhere(plan, pool.groups, one.index, view.group) if score is None else score.note,
                "best": one.address == chosen if chosen is not None else one.index in view.best,
            }
        )
    return rows


def _local_transport(plan: PoolPlan, channel: Any) -> dict[str, Any] | None:
    """Whether large messages go through shared memory; None where the pool's protocol has no such messages."""
    if plan.protocol not in _MESSAGES:
        return None
    why_not = channel.local_transport()
    return {"used": not why_not, "why_not": why_not or None}


def _elsewhere(plan: PoolPlan, groups: Any, i: int, group: int) -> str:
    """Why the endpoint at place `i` is not looked at where the choice is among another group than its own."""
    if groups is None or plan.groups[i] == group:
        return ""
    mine = plan.groups[i]
    place = f"priority {plan.endpoints[i].priority}"
    if mine // 2 == group // 2:
        place = "another zone" if mine % 2 else "the own zone"
    return f"{place}: {groups.share_of(mine) / 10:g} % of the requests, not this one"


def _panic(outcome: Outcome, plan: PoolPlan, places: list[int]) -> None:
    """`places` are those of the endpoints in a panic: the pool's, or of some levels."""
    if not places:
        return
    where = "too few endpoints are healthy, so health and ejection have no say"
    priorities = {plan.endpoints[place].priority for place in places}
    if priorities != {endpoint.priority for endpoint in plan.endpoints}:
        where += f" among those of priority {' and '.join(map(str, sorted(priorities)))}"
    outcome.steps.append(f"panic: {where}")


def _sequence(outcome: Outcome, pool: Any, question: Question, now: int) -> None:
    if not question.sequence:
        return
    if pool.sequences is None:
        outcome.steps.append("sequence: the pool keeps none together, so it is as good as any request")
        return
    parts = (question.model.encode(), question.version.encode(), question.sequence.encode())
    state, address = pool.sequences.place_of(*parts, now)
    if address:
        outcome.steps.append(f"sequence: it is open at {address}")
        outcome.decide(address, "it has the sequence's state")
    elif state == "lost":
        outcome.steps.append("sequence: the endpoint that has its state is gone")
        outcome.refuse(409, ": the sequence has to begin anew")
    else:
        outcome.steps.append("sequence: it is not open")
        outcome.refuse(409, ", unless the request says sequence_start: then it goes by the policy")


def _stay(outcome: Outcome, stays: dict[str, Any] | None) -> None:
    if stays is None:
        return
    names = f" names {stays['address']}:" if stays["address"] else ""
    outcome.steps.append(f"affinity: its {stays['by']}{names} {stays['why']}")
    if stays["taken"]:
        outcome.decide(stays["address"], f"its {stays['by']} names it")


def _model(outcome: Outcome, view: View, question: Question, wanted: int) -> None:
    if not question.model:
        return
    if not wanted:
        outcome.steps.append(f"model {question.model}: nothing is known of where it is ready")
        return
    ready = sum(one.ready for one in view.candidates)
    outcome.steps.append(f"model {question.model}: ready at {ready} of {len(view.candidates)} endpoints")
    if not ready:
        outcome.refuse(503, ": the model is ready nowhere")


def _queue(outcome: Outcome, pool: Any, view: View, question: Question, wanted: int, now: int) -> dict[str, Any] | None:
    free = any(not one.why_not for one in view.candidates)
    full = any(one.full for one in view.candidates)
    if pool.queue is None:
        if full and not free:
            outcome.refuse(503, ": all that take requests have as many as they may, and there is no queue")
        return None
    route = question.route
    due = now + route.timeout_ns if route is not None and route.timeout_ns else _NEVER
    found = pool.queue.outlook(_NORMAL if route is None else route.priority, due, wanted, now)
    wait_ms = round(found.pop("wait_ns") / 1e6, 3) or None
    refused = found["refused"]
    if found["waiting"]:
        outcome.steps.append(f"queue: {found['waiting']} wait, {found['before']} of them in front of it")
        if free:
            outcome.decide(None, "others wait: it gets an endpoint that none of those in front could use, or its turn")
    if found["at_zero"]:
        _at_zero(outcome, pool.queue.trouble, refused, wait_ms)
    elif full and not free and refused:
        outcome.steps.append(f"queue: {_REFUSED[refused]}")
        outcome.refuse(503, f": all that take requests have as many as they may, and {_REFUSED[refused]}")
    elif full and not free:
        expected = f", about {wait_ms} ms" if wait_ms else ""
        outcome.steps.append(f"queue: it would wait{expected}")
        outcome.decide(None, "all that take requests have as many as they may: it would wait for its turn")
    waits = ((not free and full) or found["waiting"] > 0 or found["at_zero"]) and not refused
    return {**found, "refused": refused or None, "would_wait": waits, "expected_wait_ms": wait_ms}


def _at_zero(outcome: Outcome, trouble: str | None, refused: str, wait_ms: float | None) -> None:
    """The pool has no endpoint, and one is started when a request comes."""
    if trouble or refused:
        why = trouble or _STARTS.get(refused) or _REFUSED[refused]
        outcome.steps.append(f"start: it has no endpoint, and {why}")
        outcome.refuse(503, f": it has no endpoint, and {why}")
        return
    expected = f", about {wait_ms} ms" if wait_ms else ""
    outcome.steps.append(f"start: it would wait for the start of an endpoint{expected}")
    outcome.decide(None, "it has no endpoint: the request would wait while one starts")


def _choice(plan: PoolPlan, view: View) -> dict[str, Any]:
    """The endpoint by the policy, if there is only one that it can be, and why."""
    explained = view.explained
    names = [plan.endpoints[i].address for i in view.best]
    if not names:
        free = any(not one.why_not for one in view.candidates)
        return {"address": None, "why": explained.rule if free else NOBODY}
    if len(explained.scores) == 1:
        return {"address": names[0], "why": ONLY_ONE_THERE if plan.groups else ONLY_ONE}
    if view.passed and not explained.random:
        return {"address": names[0] if len(names) == 1 else None, "why": FAILING}
    if explained.random:
        return {"address": None, "why": f"at random; of those that are drawn the best is taken, at best {names[0]}"}
    if len(names) > 1:
        return {"address": None, "why": f"{len(names)} are equally good: whose turn it is"}
    return {"address": names[0], "why": LOWEST}
