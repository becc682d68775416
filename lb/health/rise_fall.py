"""How many answers in a row change an endpoint's state: a table, and a counter that walks it."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class State(Enum):
    UP = "up"
    DOWN = "down"


class Step(Enum):
    """What a result does to the counter of results that contradict the state."""

    RESET = "reset"
    COUNT = "count"


# state, result -> what happens to the counter, and the state that a full counter leads to
TABLE: dict[tuple[State, bool], tuple[Step, State]] = {
    (State.UP, True): (Step.RESET, State.UP),
    (State.UP, False): (Step.COUNT, State.DOWN),
    (State.DOWN, True): (Step.COUNT, State.UP),
    (State.DOWN, False): (Step.RESET, State.DOWN),
}


class Transition(Struct, frozen=True):
    """A change of state at `at` (monotonic ns), after `results` equal results in a row."""

    state: State
    at: int
    results: int


class RiseFall:
    """`rise` passes in a row bring an endpoint up, `fall` failures in a row take it down. While the state is `assumed`,
    each result alone decides, up to the first that passes."""

    def __init__(self, rise: int, fall: int, initial: State, now: int, assumed: bool = False) -> None:
        self._limits = {State.UP: rise, State.DOWN: fall}
        self._count = 0
        self.assumed = assumed
        self.state = initial
        self.since = now

    def __repr__(self) -> str:
        return f"<RiseFall {self.state.value} since={self.since} contradicted={self._count}>"

    def observe(self, ok: bool, now: int) -> Transition | None:
        """Take one result; the change it caused, if any."""
        step, to = TABLE[self.state, ok]
        alone, self.assumed = self.assumed, self.assumed and not ok
        if step is Step.RESET:
            self._count = 0
            return None
        self._count += 1
        if self._count < self._limits[to] and not alone:
            return None
        transition = Transition(to, now, self._count)
        self.state, self.since, self._count = to, now, 0
        return transition

    @property
    def changing(self) -> bool:
        """Whether the last result contradicts the state, and further ones like it will change it."""
        return self._count > 0

    def with_limits(self, rise: int, fall: int) -> RiseFall:
        """The same state and history under new limits, for a changed configuration."""
        other = RiseFall(rise, fall, self.state, self.since, self.assumed)
        other._count = self._count
        return other
