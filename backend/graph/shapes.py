"""Operators that make shapes, and those that lay elements out anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backend.graph.file import Constant, constant_of
from backend.graph.step import Step, batch_of, moved, rule
from backend.graph.values import ONE, ROWS, Size, Value, divided, times, value_of


@rule("Constant")
def constant(step: Step) -> Sequence[Value]:
    for name, attribute in step.attributes.items():
        if name == "value":
            return [value_of(constant_of(attribute.t))]
        if name in ("value_int", "value_float"):
            return [value_of(Constant((), (attribute.i if name == "value_int" else attribute.f,)))]
        if name in ("value_ints", "value_floats"):
            found = tuple(attribute.ints if name == "value_ints" else attribute.floats)
            return [value_of(Constant((len(found),), found))]
        if name in ("value_string", "value_strings"):
            return [Value(() if name == "value_string" else (step.fresh(),))]
    raise step.doubt("has no value that is followed")


@rule("Shape")
def shape(step: Step) -> Sequence[Value]:
    value = step.value(0)
    found = value.shape[step.integer("start", 0) : step.integer("end", value.rank)]
    return [Value(((len(found), ()),), content=found, counts=any(ROWS in names for _, names in found))]


@rule("Size")
def size(step: Step) -> Sequence[Value]:
    found = times(*step.value(0).shape)
    return [Value((), content=(found,), counts=ROWS in found[1])]


@rule("ConstantOfShape")
def constant_of_shape(step: Step) -> Sequence[Value]:
    content = step.value(0).content
    if content is None:
        raise step.doubt("has a shape that is only known in a run")
    return [Value(content, batch_of(step, content))]


@rule("Range")
def numbers(step: Step) -> Sequence[Value]:
    if any(value is None or value.batch is not None or value.counts for value in step.inputs):
        raise step.doubt("counts the rows")
    return [Value((step.fresh(),))]


@rule("Reshape")
def reshape(step: Step) -> Sequence[Value]:
    value, wanted = step.value(0), step.optional(1)
    content = wanted.content if wanted is not None else tuple((i, ()) for i in step.integers("shape") or ())
    if content is None:
        raise step.doubt("has a shape that is only known in a run")
    sizes: list[Size | None] = []
    for axis, size in enumerate(content):
        if size == (0, ()) and not step.integer("allowzero", 0):
            if axis >= value.rank:
                raise step.doubt("keeps a dimension that is not there")
            size = value.shape[axis]
        sizes.append(None if size == (-1, ()) else size)
    whole = times(*value.shape)
    if None in sizes:
        rest = divided(whole, times(*(size for size in sizes if size is not None)))
        if rest is None:
            # Where the rows have a dimension by name, what is left belongs to each of them.
            if value.batch is not None and not any(ROWS in names for _, names in filter(None, sizes)):
                raise step.doubt("has a shape that is only known in a run")
            rest = step.fresh()
        sizes[sizes.index(None)] = rest
    made = tuple(size for size in sizes if size is not None)
    if value.batch is None:
        if batch_of(step, made) is not None:
            raise step.doubt("computes with the number of rows")
        return [Value(made, content=value.content, numbers=value.numbers, counts=value.counts)]
    return [Value(made, _kept_apart(step, value, made))]


def _kept_apart(step: Step, value: Value, made: Sequence[Size]) -> int:
    """Where the rows are after a reshape: the axes before them are as they were, and the first one that differs is the
    one that has them."""
    assert value.batch is not None
    batch = batch_of(step, made)
    if batch is None:
        raise step.doubt("takes the rows apart")
    before, after = ([size for size in sizes if size != ONE] for sizes in (value.shape[: value.batch], made[:batch]))
    if before != after:  # but for axes of size 1
        raise step.doubt("moves rows into one another")
    if divided(made[batch], (1, (ROWS,))) is None:
        raise step.doubt("takes the rows apart")
    return batch


@rule("Flatten")
def flatten(step: Step) -> Sequence[Value]:
    value = step.value(0)
    axis = step.integer("axis", 1)
    axis = axis + value.rank if axis < 0 else axis
    made = (times(*value.shape[:axis]), times(*value.shape[axis:]))
    return [Value(made, None if value.batch is None else _kept_apart(step, value, made))]


@rule("Transpose")
def transpose(step: Step) -> Sequence[Value]:
    value = step.value(0)
    order = step.integers("perm") or tuple(reversed(range(value.rank)))
    return [
        Value(tuple(value.shape[axis] for axis in order), None if value.batch is None else order.index(value.batch))
    ]


@rule("Squeeze")
def squeeze(step: Step) -> Sequence[Value]:
    value, axes = step.value(0), step.axes(1)
    if axes is None:
        if value.batch is not None:
            raise step.doubt("drops the rows' axis where there is one row")
        if any(names for _, names in value.shape):
            raise step.doubt("drops axes that are only known in a run")
        axes = tuple(axis for axis, size in enumerate(value.shape) if size == ONE)
    gone = {step.axis(axis, value.rank) for axis in axes}
    if value.batch in gone:
        raise step.mixes()
    shape = tuple(size for axis, size in enumerate(value.shape) if axis not in gone)
    return [replace(value, shape=shape, batch=moved(value.batch, gone))]


@rule("Unsqueeze")
def unsqueeze(step: Step) -> Sequence[Value]:
    value, axes = step.value(0), step.axes(1) or ()
    rank = value.rank + len(axes)
    new = {step.axis(axis, rank) for axis in axes}
    shape: list[Size] = list(value.shape)
    for axis in sorted(new):
        shape.insert(axis, ONE)
    batch = value.batch
    for axis in sorted(new):
        if batch is not None and axis <= batch:
            batch += 1
    return [replace(value, shape=tuple(shape), batch=batch)]
