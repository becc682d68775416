"""The limits of a worker as a whole."""

from __future__ import annotations

from collections.abc import Callable

from compiled.exchange import would_refuse

from lb.proxy.accept.overload import Overload

MIB = 1 << 20


class Loop:
    """Only what the tick needs of a loop."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.cancelled = 0

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Loop:
        self.calls.append((seconds, callback))
        return self

    def cancel(self) -> None:
        self.cancelled += 1


def test_no_limits_at_first() -> None:
    overload = Overload(Loop())
    assert not would_refuse(overload, 10**9)
    overload.limit(0, 0)
    assert not would_refuse(overload, 10**9)
    overload.close()


def test_in_flight() -> None:
    overload = Overload(Loop())
    overload.limit(3, 0)
    assert [would_refuse(overload, n) for n in (1, 3, 4)] == [False, False, True]
    assert overload.refused == 1
    overload.limit(0, 0)
    assert not would_refuse(overload, 4)


def test_memory_and_its_hysteresis() -> None:
    overload = Overload(Loop())
    overload.limit(0, 1 << 50)
    for memory, refuses in (
        (1 << 49, False),
        (1 << 50, True),
        ((1 << 50) - 1, True),
        ((1 << 50) // 20 * 19 - 1, False),
    ):
        overload.see(memory)
        assert would_refuse(overload, 1) == refuses
    overload.close()


def test_the_real_memory_is_seen() -> None:
    loop = Loop()
    overload = Overload(loop)
    overload.limit(0, MIB)  # any Python has more
    assert overload.memory > MIB
    assert would_refuse(overload, 1)
    assert [seconds for seconds, _ in loop.calls] == [0.1]
    loop.calls[0][1]()
    assert len(loop.calls) == 2
    overload.limit(0, 1 << 50)
    assert not would_refuse(overload, 1)
    assert loop.cancelled == 1
    overload.close()
    assert loop.cancelled == 2
    overload.close()
