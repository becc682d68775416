"""What is known of a tensor while a graph is followed.

A size is a product: a number, and names of sizes that only a run knows (ROWS is the number of rows). Exported models
compute shapes from sizes, so contents of small integer tensors are followed too, as sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from backend.graph.file import Constant

Size = tuple[int, tuple[str, ...]]

ROWS = "N"
ONE: Size = (1, ())
ALL = 10**9  # more rows than a batch can have: how exporters write "to the end"


class Doubt(Exception):
    """Why calls must not be merged."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor. `batch` is the axis that holds the rows, None where no row is in it. `content` has the elements of a
    small tensor of integers. `counts`: it depends on the number of rows."""

    shape: tuple[Size, ...]
    batch: int | None = None
    content: tuple[Size, ...] | None = None
    numbers: tuple[float, ...] | None = None
    counts: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)


def times(*sizes: Size) -> Size:
    return prod(size[0] for size in sizes), tuple(sorted(name for size in sizes for name in size[1]))


def divided(whole: Size, part: Size) -> Size | None:
    """`whole` by `part`; None where that is not a whole product."""
    names = list(whole[1])
    for name in part[1]:
        if name not in names:
            return None
        names.remove(name)
    if part[0] == 0 or whole[0] % part[0]:
        return None
    return whole[0] // part[0], tuple(names)


def value_of(constant: Constant) -> Value:
    shape = tuple((size, ()) for size in constant.shape)
    content = None
    if constant.values is not None and all(float(value).is_integer() for value in constant.values):
        content = tuple((int(value), ()) for value in constant.values)
    return Value(shape, content=content, numbers=constant.values)
