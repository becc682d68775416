"""What a choice among a pool's endpoints went by, and why it fell as it did: for `tidegate explain`, and for requests
that are explained as they come."""

from __future__ import annotations

from collections.abc import Callable, Container, Set
from typing import Any

from msgspec import Struct

from lb.balancing.explained import Explained, Score
from lb.endpoints.candidate import Candidate
from lb.endpoints.candidates import candidates
from lb.endpoints.choice import Choice

ONLY_ONE = "no other endpoint takes requests now"
ONLY_ONE_THERE = "no other endpoint of its priority and zone takes requests now"
LOWEST = "it has the lowest score"
NOBODY = "no endpoint takes requests now"
TRIED = "it has just been asked"
FAILING = "others that are as good or better have failed of late, and take only a part of their turns"
OTHERS = "the choice is made in another priority or zone"

_HALF = 0.5  # an endpoint that takes fewer of its turns is more likely passed over


class View(Struct):
    """A pool at one moment, before anything was counted for the request."""

    explained: Explained
    best: list[int]
    scores: dict[int, Score]
    candidates: list[Candidate]
    group: int  # that the choice is made in (lb.endpoints.groups); -1: the endpoints are all of one
    elsewhere: Set[int]  # the endpoints of the others
    passed: list[int]  # those that the policy would choose, but that fail and take less than half of their turns

    @classmethod
    def of(cls, pool: Any, now: int, key: int, exclude: int, **more: Any) -> View:
        """Of a Pool (lb.upstream.pool), for a request as the arguments of a Choice tell it. Changes nothing."""

        def choice(group: int = -1, exclude: int = exclude) -> Choice:
            return Choice(pool.endpoints, now, key, exclude, group=group, **more)

        group, explained = _look(pool, key, choice)
        scores = {one.index: one for one in explained.scores}
        elsewhere = (
            {i for i, of in enumerate(pool.groups.group_of) if of != group} if pool.groups is not None else set()
        )
        seen = candidates(choice())
        best = explained.best()
        passed: list[int] = []
        if pool.avoids:
            best, passed = _past_failing(explained, seen)
        return cls(explained, best, scores, seen, group, elsewhere, passed)

    def order(self, chosen: int) -> list[Candidate]:
        """The one that was chosen, then the others from the best on, then those that take nothing."""

        def place(one: Candidate) -> tuple[bool, bool, bool, float]:
            score = self.scores.get(one.index)
            worth = 0.0 if score is None else score.score
            return one.index != chosen, one.index not in self.best, score is None, worth

        return sorted(self.candidates, key=place)

    def row(self, one: Candidate, exclude: int) -> dict[str, Any]:
        """A candidate in plain types; what does not apply is left out."""
        score = self.scores.get(one.index)
        tried = one.index == exclude and score is None
        made = {
            "address": one.address,
            "score": None if score is None else round(score.score, 6),
            "note": "" if score is None else score.note,
            "not": one.why_not
            or (OTHERS if one.index in self.elsewhere else "it has just been asked" if tried else ""),
            "weight": one.weight,
            "share": round(one.share, 3) if one.share < 1 else None,
            "ejection_state": one.ejection_state if one.ejection_state != "well" else None,
            "in_flight": one.in_flight,
            "max_in_flight": one.max_in_flight or None,
            "latency_ms": round(one.latency_ns / 1e6, 3) or None,
            "failing": round(one.failing, 3) or None,
            "turns": round(one.turns, 3) if one.turns < 1 else None,
        }
        return {name: value for name, value in made.items() if value is not None and value != ""}

    def why(self, index: int, spared: Container[int] = ()) -> str:
        """Why a request went to endpoint `index`. `spared` are those that are left alone for a while, since requests to
        them had to be given up."""
        explained = self.explained
        if index in self.scores:
            if len(self.scores) == 1:
                return ONLY_ONE_THERE if self.elsewhere else ONLY_ONE
            if explained.random:
                return "it was drawn" if index not in self.best else "it was drawn, and no other would be better"
            if index in self.best:
                if self.passed:
                    return FAILING
                return LOWEST if len(self.best) == 1 else f"of {len(self.best)} that are equally good it is its turn"
            if any(one in spared for one in self.best):
                return "better ones keep their requests waiting"
            if self.candidates[index].turns < 1:
                return "it has failed of late, and takes one of its turns"
            if any(self.candidates[one].turns < 1 for one in self.best):
                return FAILING
            return "better ones had no room any more"
        if self.scores:
            return "those with a score had no room any more"
        if self.candidates[index].ejection_state == "probation" and self.candidates[index].why_not:
            return "nobody else is left, so endpoints on probation take what there is"
        if not self.candidates[index].why_not:
            return explained.rule if len(self.candidates) > 1 else ONLY_ONE
        return "it took requests a moment later"


def _past_failing(explained: Explained, seen: list[Candidate]) -> tuple[list[int], list[int]]:
    """The best, and those that would be but for their failures. Where all fail alike, nobody is passed over."""
    passed: list[int] = []
    scores = explained.scores
    while scores:
        best = Explained("", scores).best()
        failing = [i for i in best if seen[i].turns < _HALF]
        passed += failing
        if len(failing) < len(best):
            return [i for i in best if i not in failing], passed
        scores = [one for one in scores if one.index not in failing]
    return explained.best(), []


def _look(pool: Any, key: int, choice_in: Callable[..., Choice]) -> tuple[int, Explained]:
    """What the policy says: of the first group that has somebody for such a request, and which that is; -1: the
    endpoints are not divided into groups."""
    if pool.groups is None:
        return -1, _explained(pool, choice_in())
    order, _ = pool.groups.next_order(key)
    for group in order:
        pool.enter(group)
        explained = _explained(pool, choice_in(group))
        anyone = choice_in(group, -1)
        if explained.scores or any(anyone.available(i) for i in range(len(pool.endpoints))):
            return group, explained
    return order[0], Explained(explained.rule, [])


def _explained(pool: Any, choice: Choice) -> Explained:
    try:
        explained: Explained = pool.policy.explain(choice)
        explained.best()
    except BaseException as error:  # a plug-in's, which must not end the worker
        return Explained(f"the policy failed to explain itself: {type(error).__name__}: {error}", [])
    return explained
