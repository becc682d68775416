"""One operator of a graph, and the rules of all of them by name.

A rule gives the operator's outputs. It raises Doubt where rows may meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from backend.graph.values import ONE, ROWS, Doubt, Size, Value


class Step:
    """One operator of the graph."""

    def __init__(self, node: Any, values: dict[str, Value], opset: int, names: Iterator[str]) -> None:
        self.node = node
        self.opset = opset
        self.attributes = {attribute.name: attribute for attribute in node.attribute}
        self._names = names
        self.what = node.op_type + (f" of domain {node.domain}" if node.domain not in ("", "ai.onnx") else "")
        self.inputs: list[Value | None] = []
        for name in node.input:
            if name and name not in values:
                raise Doubt(f"{self.what} has an input '{name}' from nowhere")
            self.inputs.append(values[name] if name else None)

    def run(self) -> Sequence[Value]:
        key = self.node.op_type if self.node.domain in ("", "ai.onnx") else f"{self.node.domain}.{self.node.op_type}"
        rule = RULES.get(key)
        if rule is None:
            raise self.doubt("is not known to keep rows apart")
        if self.node.op_type not in OF_SIZES and any(value is not None and value.counts for value in self.inputs):
            raise self.doubt("computes with the number of rows")
        try:
            return rule(self)
        except (ArithmeticError, IndexError, KeyError, ValueError) as error:  # ONNX Runtime would not load it
            raise self.doubt("does not fit its inputs") from error

    # What a rule asks.

    def doubt(self, why: str) -> Doubt:
        return Doubt(f"{self.what} {why}")

    def mixes(self) -> Doubt:
        return self.doubt("works over the rows")

    def fresh(self) -> Size:
        return 1, (next(self._names),)

    def value(self, index: int) -> Value:
        """An input that must be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise self.doubt(f"lacks its input {index}")
        return found

    def optional(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def constants(self, first: int, end: int | None = None) -> None:
        """The inputs from `first` on depend on no row and not on their number."""
        for value in self.inputs[first:end]:
            if value is not None and (value.batch is not None or value.counts):
                raise self.doubt("has a parameter that depends on the rows")

    def integer(self, name: str, default: int) -> int:
        return self.attributes[name].i if name in self.attributes else default

    def integers(self, name: str) -> tuple[int, ...] | None:
        return tuple(self.attributes[name].ints) if name in self.attributes else None

    def text(self, name: str, default: str = "") -> str:
        return self.attributes[name].s.decode() if name in self.attributes else default

    def axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < max(rank, 1):
            raise self.doubt(f"has axis {axis} of {rank}")
        return axis % rank if rank else 0

    def plain(self, index: int) -> tuple[int, ...] | None:
        """The integers of an input that is known by now; None: there is no such input."""
        value = self.optional(index)
        if value is None:
            return None
        if value.content is None or any(names for _, names in value.content):
            raise self.doubt("has a parameter that is only known in a run")
        return tuple(number for number, _ in value.content)

    def axes(self, index: int) -> tuple[int, ...] | None:
        """Axes by attribute or, in newer versions of an operator, by input."""
        return self.integers("axes") if "axes" in self.attributes else self.plain(index)


Rule = Callable[[Step], Sequence[Value]]
RULES: dict[str, Rule] = {}
# Operators that exported models compute shapes with: what they make of the number of rows is followed.
OF_SIZES = frozenset(
    {
        *("Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Identity", "Mul", "Range"),
        *("Reshape", "Resize", "Slice", "Squeeze", "Sub", "Tile", "Unsqueeze", "Where"),
    }
)


def named(names: str) -> list[str]:
    return names.split()


def rule(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def broadcast(step: Step, values: Sequence[Value]) -> Value:
    rank = max(value.rank for value in values)
    batches = {value.batch + rank - value.rank for value in values if value.batch is not None}
    if len(batches) > 1:
        raise step.doubt("brings rows of one axis to rows of another")
    batch = next(iter(batches), None)
    shape = []
    for axis in range(rank):
        sizes = {value.shape[axis - rank + value.rank] for value in values if axis - rank + value.rank >= 0} - {ONE}
        shape.append(ONE if not sizes else next(iter(sizes)) if len(sizes) == 1 else step.fresh())
    if batch is not None:
        for value in values:
            at = batch - rank + value.rank
            if value.batch is None and (value.counts or (at >= 0 and value.shape[at] != ONE)):
                raise step.doubt("brings rows together with what belongs to certain rows")
        shape[batch] = next(value.shape[value.batch] for value in values if value.batch is not None)
        if any(value.batch is not None and value.shape[value.batch] != shape[batch] for value in values):
            raise step.doubt("brings rows of one size to rows of another")
    return Value(tuple(shape), batch, counts=any(value.counts for value in values))


def batch_of(step: Step, shape: Sequence[Size]) -> int | None:
    axes = [axis for axis, (_, names) in enumerate(shape) if ROWS in names]
    if len(axes) > 1:
        raise step.doubt("has the number of rows in two dimensions")
    return axes[0] if axes else None


def moved(batch: int | None, gone: set[int]) -> int | None:
    return None if batch is None else batch - sum(axis < batch for axis in gone)
