"""Traces of keys: made by Zipf's law with scans, or read from a file."""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

OBJECTS = 6_000
REQUESTS = 60_000
SCAN = 400
PERIODS = 20
SMALLEST, LARGEST = 100, 1_000_000
COSTS = (1_000, 1_000_000)


@dataclass(frozen=True)
class Access:
    """One request: its key, the answer's bytes, and the µs that making the answer takes."""

    key: int
    size: int
    cost: int


@dataclass(frozen=True)
class Trace:
    name: str
    accesses: tuple[Access, ...]

    def footprint(self) -> int:
        """Bytes of all different answers."""
        return sum({access.key: access.size for access in self.accesses}.values())


def zipf(
    alpha: float,
    *,
    scans: bool,
    mixed: bool,
    objects: int = OBJECTS,
    requests: int = REQUESTS,
    largest: int = LARGEST,
    seed: int = 1,
) -> Trace:
    """Requests by Zipf's law; `scans`: every fifth belongs to a row of keys that come once. `mixed`: answers from 100 B
    to `largest` bytes and from 1 ms to 1 s, both log-uniform and independent; else 1 KB and 10 ms."""
    rng = random.Random(seed)
    keys = rng.choices(range(objects), cum_weights=_weights(alpha, objects), k=requests)
    if scans:
        once = itertools.count(objects)
        keys = [next(once) if at // SCAN % 5 == 4 else key for at, key in enumerate(keys)]
    name = f"zipf {alpha}{', scans' if scans else ''}{'' if mixed else ', one size'}"
    return _trace(name, keys, mixed, largest, rng)


def drift(alpha: float, *, mixed: bool, objects: int = OBJECTS, requests: int = REQUESTS, seed: int = 1) -> Trace:
    """Zipf's law among keys of which a tenth is replaced by new ones twenty times, popular ones as well as others."""
    rng = random.Random(seed)
    weights, names, keys = _weights(alpha, objects), list(range(objects)), []
    new = itertools.count(objects)
    for _ in range(PERIODS):
        keys += [names[rank] for rank in rng.choices(range(objects), cum_weights=weights, k=requests // PERIODS)]
        for rank in rng.sample(range(objects), objects // 10):
            names[rank] = next(new)
    return _trace(f"zipf {alpha}, drift{'' if mixed else ', one size'}", keys, mixed, LARGEST, rng)


def _weights(alpha: float, objects: int) -> list[float]:
    return list(itertools.accumulate(rank**-alpha for rank in range(1, objects + 1)))


def _trace(name: str, keys: list[int], mixed: bool, largest: int, rng: random.Random) -> Trace:
    facts = {
        key: (_between(rng, SMALLEST, largest), _between(rng, *COSTS)) if mixed else (1000, 10_000)
        for key in sorted({*keys})
    }
    return Trace(name, tuple(Access(key, *facts[key]) for key in keys))


def _between(rng: random.Random, low: int, high: int) -> int:
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def read(path: Path) -> Trace:
    """A CSV file with columns `key`, `size` (bytes) and, if it has one, `cost` (µs, else 10 ms). Raises BenchError."""
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if not {"key", "size"} <= {*(rows.fieldnames or ())}:
                raise BenchError(f"{path}: has no columns key and size")
            return Trace(path.name, tuple(_rows(rows)))
    except (OSError, ValueError) as failure:
        raise BenchError(f"{path}: {failure}") from None


def _rows(rows: Iterable[dict[str, str]]) -> Iterable[Access]:
    numbers: dict[str, int] = {}
    for row in rows:
        key = numbers.setdefault(row["key"], len(numbers))
        yield Access(key, int(row["size"]), int(row.get("cost") or 10_000))
