"""Products of matrices, and recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backend.graph.step import Step, broadcast, rule
from backend.graph.values import Size, Value


@rule("MatMul", "MatMulInteger", "QLinearMatMul")
def matmul(step: Step) -> Sequence[Value]:
    if step.node.op_type == "QLinearMatMul":
        step.constants(1, 3)
        step.constants(4)
        left, right = step.value(0), step.value(3)
    else:
        step.constants(2)
        left, right = step.value(0), step.value(1)
    if left.counts or right.counts:
        raise step.doubt("computes with the number of rows")
    if left.rank < 2 or right.rank < 2:
        if left.rank < 2 or right.batch is not None:
            raise step.doubt("has a vector of rows")
        if left.batch == left.rank - 1:
            raise step.mixes()
        return [Value(left.shape[:-1], left.batch)]
    rank = max(left.rank, right.rank)
    if left.batch == left.rank - 1 or (right.batch is not None and right.batch == right.rank - 2):
        raise step.mixes()
    if left.batch is not None and right.batch is not None and left.batch - left.rank != right.batch - right.rank:
        raise step.mixes()
    lead = broadcast(
        step,
        [
            Value(value.shape[:-2], value.batch if value.batch is not None and value.batch < value.rank - 2 else None)
            for value in (left, right)
        ],
    )
    shape = (*lead.shape, left.shape[-2], right.shape[-1])
    batch = lead.batch
    if left.batch == left.rank - 2:
        batch = rank - 2
    elif right.batch is not None and right.batch == right.rank - 1:
        batch = rank - 1
    if batch is not None and batch >= rank - 2 and lead.batch is not None:
        raise step.mixes()
    return [Value(shape, batch)]


@rule("Gemm")
def gemm(step: Step) -> Sequence[Value]:
    left, right, addend = step.value(0), step.value(1), step.optional(2)
    step.constants(1, 2)
    rows = 1 if step.integer("transA", 0) else 0
    if left.rank != 2 or left.batch not in (None, rows):
        raise step.mixes()
    shape = (left.shape[rows], right.shape[0 if step.integer("transB", 0) else 1])
    made = Value(shape, 0 if left.batch is not None else None)
    if addend is not None:
        made = replace(broadcast(step, [made, addend]), shape=shape)
    return [made]


@rule("Einsum")
def einsum(step: Step) -> Sequence[Value]:
    left, arrow, right = step.text("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    values = [step.value(index) for index in range(len(step.inputs))]
    if not arrow or "." in left + right or len(terms) != len(values):
        raise step.doubt("has an equation that is not followed")
    labels = {term[value.batch] for term, value in zip(terms, values, strict=True) if value.batch is not None}
    if len(labels) != 1 or any(value.counts for value in values):
        raise step.mixes()
    label = labels.pop()
    if right.count(label) != 1:
        raise step.mixes()
    sizes: dict[str, Size] = {}
    for term, value in zip(terms, values, strict=True):
        if len(term) != value.rank or (label in term and value.batch != term.index(label)) or term.count(label) > 1:
            raise step.mixes()
        sizes.update(zip(term, value.shape, strict=True))
    return [Value(tuple(sizes[name] for name in right), right.index(label))]


@rule("LSTM", "GRU", "RNN")
def recurrent(step: Step) -> Sequence[Value]:
    value = step.value(0)
    first = bool(step.integer("layout", 0))
    if value.batch != (0 if first else 1):
        raise step.mixes()
    step.constants(1, 4)
    step.constants(7)
    lengths = step.optional(4)
    if lengths is not None and lengths.batch != 0:
        raise step.doubt("has lengths that belong to certain rows")
    for state in step.inputs[5:7]:
        if state is not None and state.batch != (0 if first else 1):
            raise step.doubt("begins with a state that belongs to certain rows")
    rows, hidden = value.shape[value.batch], step.fresh()
    directions: Size = (2 if step.text("direction", "forward") == "bidirectional" else 1, ())
    if first:
        whole = Value((rows, value.shape[1], directions, hidden), 0)
        state = Value((rows, directions, hidden), 0)
    else:
        whole = Value((value.shape[0], directions, rows, hidden), 2)
        state = Value((directions, rows, hidden), 1)
    return [whole, state, state]
