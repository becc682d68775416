"""Cache policies as they are published, in plain Python; sizes are in chunks, as the store has them.

A policy's `access` says whether the key was there, and keeps it otherwise, if the policy wants to.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
"""Multipliers of the sketch's hashes."""


class Policy(Protocol):
    def access(self, key: int, chunks: int, cost: int) -> bool: ...


class Lru:
    def __init__(self, capacity: int) -> None:
        self.capacity = self.room = capacity
        self.held: OrderedDict[int, int] = OrderedDict()

    def access(self, key: int, chunks: int, cost: int) -> bool:
        if key in self.held:
            self.held.move_to_end(key)
            return True
        if chunks > self.capacity:
            return False
        while self.room < chunks:
            self.room += self.held.popitem(last=False)[1]
        self.held[key] = chunks
        self.room -= chunks
        return False


class Gdsf:
    """Greedy-Dual-Size-Frequency (Cherkasova, 1998), exact, with a heap: a reference that needs a lock for each hit."""

    def __init__(self, capacity: int) -> None:
        self.capacity = self.room = capacity
        self.clock = 0.0
        self.held: dict[int, tuple[float, int, int]] = {}  # (priority, hits, chunks)
        self.heap: list[tuple[float, int]] = []

    def access(self, key: int, chunks: int, cost: int) -> bool:
        found = self.held.get(key)
        hits = found[1] + 1 if found else 1
        if found is None:
            if chunks > self.capacity:
                return False
            while self.room < chunks:
                priority, other = heapq.heappop(self.heap)
                if other in self.held and self.held[other][0] == priority:
                    self.clock = priority
                    self.room += self.held.pop(other)[2]
            self.room -= chunks
        priority = self.clock + hits * cost / chunks
        self.held[key] = (priority, hits, chunks)
        heapq.heappush(self.heap, (priority, key))
        return found is not None


class Sketch:
    """TinyLFU's count-min sketch (Einziger et al., 2017): four rows of 4-bit counters, halved after ten times a row."""

    def __init__(self, width: int) -> None:
        self.rows = [bytearray(width) for _ in range(4)]
        self.width = width
        self.left = 10 * width

    def places(self, key: int) -> list[int]:
        return [(key * odd + odd >> 20) % self.width for odd in ODD]

    def add(self, key: int) -> None:
        for row, at in zip(self.rows, self.places(key), strict=True):
            row[at] = min(row[at] + 1, 15)
        self.left -= 1
        if self.left == 0:
            self.left = 10 * self.width
            self.rows = [bytearray(count >> 1 for count in row) for row in self.rows]

    def count(self, key: int) -> int:
        return min(row[at] for row, at in zip(self.rows, self.places(key), strict=True))


class Entry:
    """In a ring in the order of arrival: `newer` and `older` of the ring's own entry are its ends."""

    __slots__ = ("chunks", "cost", "hits", "key", "newer", "older", "small")

    def __init__(self, key: int, chunks: int, cost: int) -> None:
        self.key, self.chunks, self.cost = key, chunks, cost
        self.hits = 0
        self.small = False
        self.newer = self.older = self


class Queue:
    def __init__(self) -> None:
        self.ends = Entry(-1, 0, 0)
        self.chunks = 0

    def add(self, entry: Entry) -> None:
        newest = self.ends.older
        entry.older, entry.newer = newest, self.ends
        newest.newer = self.ends.older = entry
        self.chunks += entry.chunks

    def remove(self, entry: Entry) -> None:
        entry.older.newer, entry.newer.older = entry.newer, entry.older
        self.chunks -= entry.chunks

    def after(self, entry: Entry) -> Entry:
        """The next newer entry, round the ring; the ends' own when there is none."""
        return entry.newer if entry.newer is not self.ends else self.ends.newer


Value = Callable[[int, Entry], float]
"""What an entry is worth per chunk, with a number of requests."""


def by_frequency(count: int, entry: Entry) -> float:
    return count


def by_cost_per_chunk(count: int, entry: Entry) -> float:
    return count * entry.cost / entry.chunks


class Sieve:
    """SIEVE (Zhang et al., NSDI 2024).

    With `value`, a newcomer has to be worth more per chunk than each entry that goes for it, by a sketch."""

    def __init__(self, capacity: int, value: Value | None = None) -> None:
        self.capacity = capacity
        self.queue = Queue()
        self.held: dict[int, Entry] = {}
        self.hand = self.queue.ends
        self.value = value
        self.sketch = Sketch(max(capacity, 1024))

    def access(self, key: int, chunks: int, cost: int) -> bool:
        if self.value is not None:
            self.sketch.add(key)
        if key in self.held:
            self.held[key].hits = 1
            return True
        new = Entry(key, chunks, cost)
        if chunks > self.capacity // 2:
            return False
        while self.queue.chunks + chunks > self.capacity:
            victim = self.victim()
            if self.value is not None and self.value(self.sketch.count(key), new) <= self.value(
                self.sketch.count(victim.key), victim
            ):
                self.hand = victim.newer
                return False
            self.hand = victim.newer
            self.queue.remove(victim)
            del self.held[victim.key]
        self.queue.add(new)
        self.held[key] = new
        return False

    def victim(self) -> Entry:
        at = self.hand if self.hand is not self.queue.ends else self.queue.ends.newer
        while at.hits:
            at.hits = 0
            at = self.queue.after(at)
        return at


class S3Fifo:
    """S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth, a main one, and a ghost queue of keys.

    With `value`, a newcomer has to be worth as much per chunk as each entry that goes for it, by a sketch; an
    entry that is worth more goes on to the main queue, or round it."""

    def __init__(self, capacity: int, value: Value | None = None) -> None:
        self.capacity = capacity
        self.small, self.main = Queue(), Queue()
        self.held: dict[int, Entry] = {}
        self.ghosts: OrderedDict[int, int] = OrderedDict()
        self.ghost_chunks = 0
        self.value = value
        self.sketch = Sketch(max(capacity, 1024))

    def access(self, key: int, chunks: int, cost: int) -> bool:
        if self.value is not None:
            self.sketch.add(key)
        if key in self.held:
            entry = self.held[key]
            entry.hits = min(entry.hits + 1, 3)
            return True
        if chunks > self.capacity // 2:
            return False
        new = Entry(key, chunks, cost)
        seen = key in self.ghosts
        if seen:
            self.ghost_chunks -= self.ghosts.pop(key)
        while self.small.chunks + self.main.chunks + chunks > self.capacity:
            if not (self.evict_small(new) if self.turn_of_small() else self.evict_main(new)):
                return False
        new.small = not seen
        (self.small if new.small else self.main).add(new)
        self.held[key] = new
        return False

    def turn_of_small(self) -> bool:
        return self.small.chunks * 10 > self.capacity or self.main.chunks == 0

    def keeps(self, entry: Entry, new: Entry) -> bool:
        return self.value is not None and self.value(self.sketch.count(new.key), new) < self.value(
            self.sketch.count(entry.key), entry
        )

    def evict_small(self, new: Entry) -> bool:
        """Whether to go on with the newcomer; so does the next."""
        entry = self.small.ends.newer
        self.small.remove(entry)
        kept = self.keeps(entry, new)
        if entry.hits > 1 or kept:
            kept = kept and entry.hits <= 1
            entry.hits, entry.small = 0, False
            self.main.add(entry)
            return not kept
        del self.held[entry.key]
        self.ghosts[entry.key] = entry.chunks
        self.ghost_chunks += entry.chunks
        while self.ghost_chunks > self.capacity * 9 // 10:
            self.ghost_chunks -= self.ghosts.popitem(last=False)[1]
        return True

    def evict_main(self, new: Entry) -> bool:
        while True:
            entry = self.main.ends.newer
            self.main.remove(entry)
            if entry.hits == 0:
                if self.keeps(entry, new):
                    self.main.add(entry)
                    return False
                del self.held[entry.key]
                return True
            entry.hits -= 1
            self.main.add(entry)


class Store(Sieve):
    """The daemon's (`lb/cache/shard.pyx`): SIEVE behind a sketch, as its readers can have it.

    A hit sets one bit. The sketch counts misses, and a hit when the hand takes the bit away. The hand spares 64 entries
    at most. A newcomer that is worth as much as the entry at the hand takes its place. The sketch is halved after ten
    requests for each entry."""

    LOOKS, AGE, LEAST = 64, 10, 64

    def access(self, key: int, chunks: int, cost: int) -> bool:
        if key in self.held:
            self.held[key].hits = 1
            return True
        self.count(key)
        new = Entry(key, chunks, cost)
        if chunks > self.capacity // 2:
            return False
        worth = by_cost_per_chunk(self.sketch.count(key), new)
        while self.queue.chunks + chunks > self.capacity:
            victim = self.victim()
            self.hand = victim.newer
            if worth < by_cost_per_chunk(self.sketch.count(victim.key), victim):
                return False
            self.queue.remove(victim)
            del self.held[victim.key]
        self.queue.add(new)
        self.held[key] = new
        return False

    def count(self, key: int) -> None:
        self.sketch.left = min(self.sketch.left, self.AGE * len(self.held) + self.LEAST)
        self.sketch.add(key)

    def victim(self) -> Entry:
        at = self.hand if self.hand is not self.queue.ends else self.queue.ends.newer
        for _ in range(self.LOOKS):
            if not at.hits:
                break
            at.hits = 0
            self.count(at.key)
            at = self.queue.after(at)
        return at


POLICIES: dict[str, Callable[[int], Policy]] = {
    "LRU": Lru,
    "SIEVE": Sieve,
    "S3-FIFO": S3Fifo,
    "SIEVE, TinyLFU": lambda capacity: Sieve(capacity, by_frequency),
    "S3-FIFO, TinyLFU": lambda capacity: S3Fifo(capacity, by_frequency),
    "SIEVE, cost per byte": lambda capacity: Sieve(capacity, by_cost_per_chunk),
    "S3-FIFO, cost per byte": lambda capacity: S3Fifo(capacity, by_cost_per_chunk),
    "GDSF": Gdsf,
    "the store": Store,
}
