"""What a policy says of a choice, for `tidegate explain`."""

from __future__ import annotations

from msgspec import Struct, field


class Score(Struct):
    """An endpoint that could be chosen: of all scores the lowest is. `note` has what went into it."""

    index: int
    score: float
    note: str = ""


class Explained(Struct):
    """`rule` says in words what decides. `random`: only some that are drawn are compared, or none."""

    rule: str
    scores: list[Score] = field(default_factory=list)
    random: bool = False

    def best(self) -> list[int]:
        """The indices with the lowest score."""
        lowest = min((one.score for one in self.scores), default=0.0)
        return [one.index for one in self.scores if one.score == lowest]
