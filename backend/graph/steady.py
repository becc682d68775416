"""Whether the time of a run follows from the sizes of its inputs, decided from the graph.

A run that is known to be short may take place on the event loop. It must not be long for another input of that size:
control flow that depends on values has to be out of the question, and so have tensors whose size is a value.
"""

from __future__ import annotations

from backend.graph.file import Graph

# Of ONNX's own domain; operators of other domains are not known.
_BY_VALUE = frozenset({
    "Loop", "Scan", "If", "SequenceMap", "Range", "Expand", "Tile", "ConstantOfShape", "OneHot", "Resize", "Upsample",
    "Pad", "MaxUnpool", "NonMaxSuppression", "AffineGrid", "CenterCropPad", "GridSample", "Bernoulli", "RandomNormal",
    "RandomUniform", "StringConcat", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "DFT", "STFT",
    "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", "ImageDecoder",
})  # fmt: skip
_KNOWN = ("", "ai.onnx", "ai.onnx.ml")


def steady(graph: Graph) -> bool:
    return not graph.functions and all(node.domain in _KNOWN and node.op_type not in _BY_VALUE for node in graph.nodes)
