"""How many rows the runs of one model server may have and how many of its runs may be at once, by what servers say of
their runs. Pure; time is what the looks span.

A larger batch, or one more run at once, costs latency, memory and cores; so both grow only while requests wait for
longer than a run takes, and only in the way that helps: the batch where runs are full and each row gets cheaper by more
of them, else the runs at once where the present ones never rest and there are cores for more. They double and halve, as
a change of a few percent is not worth the replacement of servers. Growth needs three looks in a row, shrinking thirty.
A batch that made rows dearer halves, whether requests wait or not, and does not come back.

Source of the counts: the statistics extension of Triton's protocol (`batch_stats`, `inference_stats.queue`).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

UP_LOOKS, DOWN_LOOKS = 3, 30
LEAST_RUNS = 20  # of a look that says anything, and of the sizes that are compared
FULL = 0.5  # part of the runs that have as many rows as allowed
CHEAPER = 0.95  # what a row costs in a full run, compared with one of half the rows, where a larger batch is of use
BUSY, IDLE = 0.8, 0.2  # part of the runs at once that are under way on the mean
ROOM = 0.8  # part of their cores that servers may use for there to be room for more runs


class Size(Struct, frozen=True):
    """`batch`: rows up to which a server merges requests; `instances`: runs at once. 0: not known, and left alone."""

    batch: int = 0
    instances: int = 0


class Runs(Struct, frozen=True):
    """What the servers of a pool did in one span of time. Times are ns; all but the last two are of the model that kept
    them busiest."""

    by_rows: Mapping[int, tuple[int, int]]  # rows of a run -> runs, their time
    largest: int  # rows up to which its requests are merged; 1 at most: they are not
    requests: int
    waited: int  # time that the requests waited for a run, in front of the servers and at them
    busy: float  # runs of all models under way, mean per server
    cores: float | None  # part of their cores that servers used; None: unknown

    @property
    def runs(self) -> int:
        return sum(runs for runs, _ in self.by_rows.values())

    @property
    def crowded(self) -> bool:
        """Whether requests wait for longer than a run takes."""
        time = sum(time for _, time in self.by_rows.values())
        return self.requests > 0 and self.waited * self.runs > time * self.requests

    @property
    def full(self) -> bool:
        full = sum(runs for rows, (runs, _) in self.by_rows.items() if rows >= self.largest)
        return self.largest > 0 and full >= FULL * self.runs

    @property
    def gain(self) -> float | None:
        """What a row costs in full runs as a part of what it costs in those of about half the rows; None: unknown."""
        full = self._cost(self.largest, self.largest * 2)
        half = self._cost(max(1, self.largest // 4 + 1), self.largest // 2)
        return full / half if full and half else None

    def _cost(self, least: int, most: int) -> float | None:
        """ns for a row, of runs with so many."""
        found = [(rows * n, n, time) for rows, (n, time) in self.by_rows.items() if least <= rows <= most]
        if sum(n for _, n, _ in found) < LEAST_RUNS:
            return None
        return sum(time for _, _, time in found) / sum(rows for rows, _, _ in found)


class RunSize:
    """Decides for the servers of one pool, which are alike; `most` are the limits, of which 0 leaves a size alone."""

    def __init__(self, most: Size) -> None:
        self._most = most
        self._wish = Size()
        self._looks = 0  # in a row with that wish
        self._dear = 0  # the batch that made rows dearer; 0: none did
        self.reason = "nothing was seen yet"

    def see(self, runs: Runs, size: Size) -> Size:
        """The size that servers are to have after one more look at servers of `size`."""
        wish, reason = self._judge(runs, size)
        self._looks = self._looks + 1 if wish == self._wish else 1
        self._wish, self.reason = wish, reason
        grows = wish.batch > size.batch or wish.instances > size.instances
        if wish == size or self._looks < (UP_LOOKS if grows else DOWN_LOOKS):
            return size
        self._looks = 0
        if wish.batch < size.batch:
            self._dear = size.batch
        return wish

    def _judge(self, runs: Runs, size: Size) -> tuple[Size, str]:
        if runs.runs < LEAST_RUNS:
            return size, f"{runs.runs} runs say little"
        # A model may have a batch of its own, which the server's does not change.
        batch = size.batch if self._most.batch and size.batch == runs.largest > 0 else 0
        instances = size.instances if self._most.instances else 0
        gain = runs.gain
        if batch > 1 and runs.full and gain is not None and gain > 1 / CHEAPER:
            return Size(batch // 2, size.instances), f"a row costs {gain:.2f} times as much with {batch} as with half"
        if runs.crowded:
            larger = min(2 * batch, self._most.batch)
            of_use = (gain is None or gain <= CHEAPER) and not 0 < self._dear <= larger
            if runs.full and larger > batch > 0 and of_use:
                wanted = Size(larger, size.instances)
                return wanted, f"requests wait for longer than a run takes, and runs are full with {batch} rows"
            room = runs.cores is None or runs.cores <= ROOM
            if instances and runs.busy >= BUSY * instances and instances < self._most.instances and room:
                wanted = Size(size.batch, min(2 * instances, self._most.instances))
                return wanted, f"requests wait for longer than a run takes, and {runs.busy:.2g} runs are under way"
            return size, "requests wait for longer than a run takes, and nothing here would help"
        if instances > 1 and runs.busy < IDLE * instances:
            return Size(size.batch, instances // 2), f"{runs.busy:.2g} runs are under way"
        return size, "it fits"
