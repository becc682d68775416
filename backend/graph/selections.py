"""Operators that join, cut, repeat and pick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backend.graph.step import Step, batch_of, rule
from backend.graph.values import ALL, ONE, ROWS, Size, Value, times


@rule("Concat")
def concat(step: Step) -> Sequence[Value]:
    values = [step.value(index) for index in range(len(step.inputs))]
    axis = step.axis(step.integer("axis", 0), values[0].rank)
    batches = {value.batch for value in values}
    if len(batches) > 1:
        raise step.doubt("brings rows together with what belongs to certain rows")
    batch = batches.pop()
    if batch == axis:
        raise step.mixes()
    joined = [value.shape[axis] for value in values]
    total = (sum(size for size, _ in joined), ()) if not any(names for _, names in joined) else step.fresh()
    made = Value(tuple(total if i == axis else size for i, size in enumerate(values[0].shape)), batch)
    if batch is None:
        parts = [value.content for value in values]
        known = made.rank == 1 and all(part is not None for part in parts)
        content = tuple(size for part in parts for size in part or ()) if known else None
        if content is None and any(value.counts for value in values):
            raise step.doubt("computes with the number of rows")
        made = replace(made, content=content, counts=any(value.counts for value in values))
    elif any(value.shape[batch] != values[0].shape[batch] for value in values):
        raise step.doubt("brings rows of one size to rows of another")
    return [made]


@rule("Split")
def split(step: Step) -> Sequence[Value]:
    value = step.value(0)
    axis = step.axis(step.integer("axis", 0), value.rank)
    if value.batch == axis or value.counts:
        raise step.mixes()
    sizes = step.integers("split") if "split" in step.attributes else step.plain(1)
    parts = len(step.node.output)
    if sizes is None:
        whole, names = value.shape[axis]
        sizes = (whole // parts,) * parts if not names and whole % parts == 0 else None
    made = []
    for index in range(parts):
        size: Size = (sizes[index], ()) if sizes is not None else step.fresh()
        made.append(Value(tuple(size if i == axis else old for i, old in enumerate(value.shape)), value.batch))
    return made


@rule("Slice")
def slice_(step: Step) -> Sequence[Value]:
    value = step.value(0)
    step.constants(1)
    if "starts" in step.attributes:
        starts, ends = step.integers("starts") or (), step.integers("ends") or ()
        axes, steps = step.integers("axes") or tuple(range(len(starts))), (1,) * len(starts)
    else:
        found = [step.optional(index) for index in (1, 2, 4)]
        contents = [None if v is None else v.content for v in found]
        length = next((len(content) for content in contents if content is not None), 1)
        axes = step.plain(3) or tuple(range(length))
        numbers_ = [
            tuple(n if not names else None for n, names in content) if content is not None else (None,) * len(axes)
            for content in contents[:2]
        ]
        starts, ends = numbers_[0], numbers_[1]  # type: ignore[assignment]
        steps = tuple(1 for _ in axes) if found[2] is None else step.plain(4) or ()
    shape = list(value.shape)
    content = value.content
    for axis, start, end, stride in zip((step.axis(a, value.rank) for a in axes), starts, ends, steps, strict=True):
        if axis == value.batch:
            if start == 0 and end is not None and end >= ALL and stride == 1:
                continue
            raise step.mixes()
        size, names = shape[axis]
        if names or start is None or end is None:
            shape[axis] = step.fresh()
            content = None
        else:
            picked = range(size)[start:end:stride]
            shape[axis] = (len(picked), ())
            content = tuple(content[i] for i in picked) if content is not None and value.rank == 1 else None
    if value.counts and content is None:
        raise step.doubt("computes with the number of rows")
    counts = content is not None and any(ROWS in names for _, names in content)
    return [Value(tuple(shape), value.batch, content, counts=counts)]


@rule("Pad")
def pad(step: Step) -> Sequence[Value]:
    value = step.value(0)
    pads = step.integers("pads") if "pads" in step.attributes else step.plain(1)
    axes = step.plain(3)
    if pads is None or value.counts:
        raise step.doubt("has a parameter that is only known in a run")
    where = [step.axis(axis, value.rank) for axis in axes] if axes is not None else list(range(value.rank))
    shape = list(value.shape)
    for index, axis in enumerate(where):
        added = pads[index], pads[index + len(where)]
        if axis == value.batch and any(added):
            raise step.mixes()
        size, names = shape[axis]
        if any(added):
            shape[axis] = (size + sum(added), ()) if not names else step.fresh()
    return [Value(tuple(shape), value.batch)]


@rule("Expand")
def expand(step: Step) -> Sequence[Value]:
    value, content = step.value(0), step.value(1).content
    if content is None or value.counts:
        raise step.doubt("has a shape that is only known in a run")
    rank = max(value.rank, len(content))
    old = (*([ONE] * (rank - value.rank)), *value.shape)
    new = (*([ONE] * (rank - len(content))), *content)
    shape = tuple(b if a == ONE else a for a, b in zip(old, new, strict=True))
    batch = None if value.batch is None else value.batch + rank - value.rank
    if batch is not None:
        if new[batch] not in (ONE, old[batch]):
            raise step.mixes()
        batch_of(step, shape)
        return [Value(shape, batch)]
    return [Value(shape, batch_of(step, shape))]


@rule("Tile")
def tile(step: Step) -> Sequence[Value]:
    value, repeats = step.value(0), step.value(1).content
    if repeats is None or value.counts:
        raise step.doubt("has a parameter that is only known in a run")
    shape = tuple(times(size, repeat) for size, repeat in zip(value.shape, repeats, strict=True))
    batch = batch_of(step, shape)
    if value.batch is not None and (batch != value.batch or repeats[batch] != ONE):
        raise step.mixes()
    if value.batch is None and batch is not None and value.shape[batch] != ONE:
        raise step.doubt("brings rows together with what belongs to certain rows")
    return [Value(shape, batch)]


@rule("Gather")
def gather(step: Step) -> Sequence[Value]:
    data, index = step.value(0), step.value(1)
    axis = step.axis(step.integer("axis", 0), data.rank)
    made = (*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])
    if data.batch is not None and (index.batch is not None or data.batch == axis):
        raise step.mixes()
    if index.batch is not None:
        if data.counts:
            raise step.doubt("computes with the number of rows")
        return [Value(made, axis + index.batch)]
    if data.batch is not None:
        if index.counts:
            raise step.doubt("computes with the number of rows")
        return [Value(made, data.batch if data.batch < axis else data.batch - 1 + index.rank)]
    content = None
    if data.content is not None and data.rank == 1 and index.content is not None:
        if any(names or not -len(data.content) <= n < len(data.content) for n, names in index.content):
            raise step.doubt("has a parameter that is only known in a run")
        content = tuple(data.content[n] for n, _ in index.content)
    elif data.counts or index.counts:
        raise step.doubt("computes with the number of rows")
    return [Value(made, content=content, counts=content is not None and any(ROWS in names for _, names in content))]


@rule("GatherElements")
def gather_elements(step: Step) -> Sequence[Value]:
    data, index = step.value(0), step.value(1)
    if data.batch is None or data.batch != index.batch or step.axis(step.integer("axis", 0), data.rank) == data.batch:
        raise step.mixes()
    return [Value(index.shape, index.batch)]


@rule("OneHot")
def one_hot(step: Step) -> Sequence[Value]:
    value = step.value(0)
    step.constants(1)
    axis = step.axis(step.integer("axis", -1), value.rank + 1)
    made = list(value.shape)
    made.insert(axis, step.fresh())
    return [Value(tuple(made), None if value.batch is None else value.batch + (axis <= value.batch))]


@rule("Trilu")
def triangle(step: Step) -> Sequence[Value]:
    value = step.value(0)
    step.constants(1)
    if value.batch is not None and value.batch >= value.rank - 2:
        raise step.mixes()
    return [replace(value, content=None, numbers=None)]
