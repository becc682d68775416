"""Operators that bring the elements along axes together: sums, norms, orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backend.graph.step import Step, moved, named, rule
from backend.graph.values import ONE, Value


@rule("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN")
def normalize_image(step: Step) -> Sequence[Value]:
    step.constants(1)
    if step.integer("training_mode", 0) or len([name for name in step.node.output if name]) > 1:
        raise step.doubt("is in training, where it takes statistics of the batch")
    if step.value(0).batch not in (None, 0):
        raise step.mixes()
    return [replace(step.value(0), content=None, numbers=None)]


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def normalize_layer(step: Step) -> Sequence[Value]:
    value = step.value(0)
    step.constants(1)
    axis = step.axis(step.integer("axis", -1), value.rank)
    if value.batch is not None and value.batch >= axis:
        raise step.mixes()
    if any(parameter is not None and parameter.rank > value.rank - axis for parameter in step.inputs[1:]):
        raise step.doubt("brings rows together with what belongs to certain rows")
    few = Value((*value.shape[:axis], *([ONE] * (value.rank - axis))), value.batch)
    return [replace(value, content=None, numbers=None), few, few]


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(step: Step) -> Sequence[Value]:
    value = step.value(0)
    axis = step.axis(step.integer("axis", -1 if step.opset >= 13 else 1), value.rank)
    over = {axis} if step.opset >= 13 else set(range(axis, value.rank))
    if value.batch in over:
        raise step.mixes()
    return [replace(value, content=None, numbers=None)]


@rule("LpNormalization", "CumSum")
def along(step: Step) -> Sequence[Value]:
    value = step.value(0)
    axes = step.plain(1) if step.node.op_type == "CumSum" else (step.integer("axis", -1),)
    if value.batch is not None and (axes is None or any(step.axis(axis, value.rank) == value.batch for axis in axes)):
        raise step.mixes()
    return [replace(value, content=None, numbers=None)]


@rule(*named(
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceSumSquare"
))  # fmt: skip
def reduce(step: Step) -> Sequence[Value]:
    value, axes = step.value(0), step.axes(1)
    if not axes and step.integer("noop_with_empty_axes", 0):
        return [value]
    return [_without(step, value, axes if axes else range(value.rank), bool(step.integer("keepdims", 1)))]


@rule("ArgMax", "ArgMin")
def argument(step: Step) -> Sequence[Value]:
    return [_without(step, step.value(0), (step.integer("axis", 0),), bool(step.integer("keepdims", 1)))]


def _without(step: Step, value: Value, axes: Sequence[int], kept: bool) -> Value:
    gone = {step.axis(axis, value.rank) for axis in axes}
    if value.batch in gone:
        raise step.mixes()
    if value.counts:
        raise step.doubt("computes with the number of rows")
    shape = [ONE if axis in gone else size for axis, size in enumerate(value.shape) if kept or axis not in gone]
    return Value(tuple(shape), moved(value.batch, gone) if not kept else value.batch)


@rule("TopK")
def top(step: Step) -> Sequence[Value]:
    value = step.value(0)
    step.constants(1)
    axis = step.axis(step.integer("axis", -1), value.rank)
    if value.batch == axis:
        raise step.mixes()
    made = Value(tuple(step.fresh() if i == axis else size for i, size in enumerate(value.shape)), value.batch)
    return [made, made]
