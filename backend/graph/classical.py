"""Classical models (https://onnx.ai/onnx/operators/index.html#ai-onnx-ml): a row is a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backend.graph.step import Step, named, rule
from backend.graph.values import ROWS, Value, times


@rule(*named(
    "ai.onnx.ml.LinearClassifier ai.onnx.ml.LinearRegressor ai.onnx.ml.SVMClassifier ai.onnx.ml.SVMRegressor "
    "ai.onnx.ml.TreeEnsembleClassifier ai.onnx.ml.TreeEnsembleRegressor"
))  # fmt: skip
def classical(step: Step) -> Sequence[Value]:
    value = step.value(0)
    step.constants(1)
    if value.rank != 2 or value.batch not in (None, 0):
        raise step.mixes()
    scores = Value((value.shape[0], step.fresh()), value.batch)
    return [Value((value.shape[0],), value.batch), scores] if step.node.op_type.endswith("Classifier") else [scores]


@rule("ai.onnx.ml.Scaler", "ai.onnx.ml.Imputer", "ai.onnx.ml.Normalizer")
def prepared(step: Step) -> Sequence[Value]:
    value = step.value(0)
    if value.rank != 2 or value.batch not in (None, 0):
        raise step.mixes()
    return [replace(value, content=None, numbers=None)]


@rule("ai.onnx.ml.ArrayFeatureExtractor")
def features(step: Step) -> Sequence[Value]:
    """Picks from the last axis."""
    data, index = step.value(0), step.value(1)
    if (data.batch is not None and index.batch is not None) or data.counts or index.counts:
        raise step.mixes()
    if data.batch is not None and data.batch == data.rank - 1:
        raise step.mixes()
    picked = times(*index.shape)
    batch = data.batch if index.batch is None else data.rank - 1
    if index.batch is not None and picked != (1, (ROWS,)):
        raise step.doubt("takes the rows apart")
    return [Value((*data.shape[:-1], picked), batch)]
