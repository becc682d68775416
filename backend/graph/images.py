"""Operators over images: their first axis has the rows, the second the channels."""

from __future__ import annotations

from collections.abc import Sequence

from backend.graph.step import Step, rule
from backend.graph.values import ONE, Size, Value


def _window(step: Step, value: Value, kernel: Sequence[int] | None, channels: Size) -> Value:
    """What slides a window over all axes but the first two."""
    if value.batch not in (None, 0):
        raise step.mixes()
    dimensions = value.rank - 2
    strides = step.integers("strides") or (1,) * dimensions
    dilations = step.integers("dilations") or (1,) * dimensions
    pads = step.integers("pads") or (0,) * (2 * dimensions)
    padding = step.text("auto_pad", "NOTSET")
    shape = [value.shape[0], channels]
    for i in range(dimensions):
        size, names = value.shape[i + 2]
        if names or kernel is None:
            shape.append(step.fresh())
            continue
        reach = dilations[i] * (kernel[i] - 1) + 1
        if padding.startswith("SAME"):
            found = -(-size // strides[i])
        else:
            room = size - reach + (pads[i] + pads[i + dimensions] if padding == "NOTSET" else 0)
            found = (-(-room // strides[i]) if step.integer("ceil_mode", 0) else room // strides[i]) + 1
        shape.append((found, ()))
    return Value(tuple(shape), value.batch)


@rule("Conv", "ConvInteger", "QLinearConv")
def convolution(step: Step) -> Sequence[Value]:
    weight = step.value(3 if step.node.op_type == "QLinearConv" else 1)
    step.constants(1)
    kernel = step.integers("kernel_shape") or [size for size, _ in weight.shape[2:]]
    return [_window(step, step.value(0), kernel, weight.shape[0])]


@rule("MaxPool", "AveragePool", "LpPool")
def pool(step: Step) -> Sequence[Value]:
    value = step.value(0)
    if len([name for name in step.node.output if name]) > 1:
        raise step.doubt("gives places over all rows")
    return [_window(step, value, step.integers("kernel_shape"), value.shape[1])]


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(step: Step) -> Sequence[Value]:
    value = step.value(0)
    if value.batch not in (None, 0):
        raise step.mixes()
    return [Value((*value.shape[:2], *([ONE] * (value.rank - 2))), value.batch)]


@rule("ConvTranspose", "DepthToSpace", "SpaceToDepth")
def reshaping_image(step: Step) -> Sequence[Value]:
    value = step.value(0)
    step.constants(1)
    if value.batch not in (None, 0):
        raise step.mixes()
    return [Value((value.shape[0], *(step.fresh() for _ in value.shape[1:])), value.batch)]


@rule("Resize", "Upsample")
def resize(step: Step) -> Sequence[Value]:
    value = step.value(0)
    if value.batch is None:
        step.constants(1)
    elif step.text("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise step.doubt("cuts all axes")
    else:
        scales, sizes = step.optional(2 if step.node.op_type == "Resize" and step.opset >= 11 else 1), step.optional(3)
        axes = step.integers("axes")
        place = value.batch if axes is None else axes.index(value.batch) if value.batch in axes else None
        if place is None:
            pass
        elif sizes is not None:
            if sizes.content is None or sizes.content[place] != value.shape[value.batch]:
                raise step.mixes()
        elif scales is None or scales.numbers is None or scales.numbers[place] != 1:
            raise step.mixes()
    shape = [size if axis == value.batch else step.fresh() for axis, size in enumerate(value.shape)]
    return [Value(tuple(shape), value.batch)]
