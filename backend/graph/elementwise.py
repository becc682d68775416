"""Operators that work element by element, and those that do so after broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backend.graph.step import Step, broadcast, named, rule
from backend.graph.values import ONE, ROWS, Size, Value, divided, times


@rule(*named(
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu ai.onnx.ml.LabelEncoder ai.onnx.ml.Binarizer "
    "ai.onnx.ml.CategoryMapper"
))  # fmt: skip
def unary(step: Step) -> Sequence[Value]:
    value = step.value(0)
    return [replace(value, content=None, numbers=None)]


@rule("Identity", "Cast")
def same(step: Step) -> Sequence[Value]:
    return [step.value(0)]


@rule("Clip", "QuantizeLinear", "DequantizeLinear", "CastLike")
def with_parameters(step: Step) -> Sequence[Value]:
    step.constants(1)
    return [replace(step.value(0), content=None, numbers=None)]


@rule("Dropout")
def dropout(step: Step) -> Sequence[Value]:
    training = step.optional(2)
    if training is not None and training.numbers not in ((0,), (False,)):
        raise step.doubt("may be in training")
    value = replace(step.value(0), content=None, numbers=None)
    return [value, value]


@rule(*named(
    "Add Sub Mul Div Pow Mod And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual Min Max Mean Sum Where "
    "PRelu BitShift BitwiseAnd BitwiseOr BitwiseXor"
))  # fmt: skip
def broadcasting(step: Step) -> Sequence[Value]:
    values = [step.value(index) for index in range(len(step.inputs))]
    made = broadcast(step, values)
    if made.batch is None and made.rank <= 1:
        content = _computed(step.node.op_type, [value.content for value in values])
        if content is not None:
            counts = any(ROWS in names for _, names in content)
            return [replace(made, content=content, counts=counts)]
    if made.counts:
        raise step.doubt("computes with the number of rows")
    return [made]


def _computed(operator: str, contents: Sequence[tuple[Size, ...] | None]) -> tuple[Size, ...] | None:
    """What an operator makes of sizes; None where that is only known in a run."""
    known = [content for content in contents if content]
    length = max(map(len, known), default=0)
    if len(known) < len(contents) or any(len(content) not in (1, length) for content in known):
        return None
    columns = zip(*(content * (length // len(content)) for content in known), strict=True)
    found = [_computed_one(operator, sizes) for sizes in columns]
    return None if None in found else tuple(size for size in found if size is not None)


def _computed_one(operator: str, sizes: Sequence[Size]) -> Size | None:
    numbers = [number for number, names in sizes if not names]
    left, right = sizes[0], sizes[-1]
    if operator == "Mul" and len(sizes) == 2:
        return times(left, right)
    if operator == "Div" and len(sizes) == 2:
        return divided(left, right)
    if operator == "Where" and not left[1]:
        return sizes[1] if left[0] else sizes[2]
    if operator == "Equal" and left == right:
        return ONE
    if operator == "Equal" and (len(numbers) == 2 or left[0] * right[0] < 0):
        return 0, ()  # sizes are not negative, so these have different signs, or one of them is 0
    if operator in ("Add", "Sub") and len(numbers) == 2:
        return (numbers[0] + numbers[1] if operator == "Add" else numbers[0] - numbers[1]), ()
    return None
