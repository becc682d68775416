"""Trains the digits classifier and writes the files the demo serves: `python examples/digits/train.py`.

Data: scikit-learn's handwritten digits (1,797 images of 8 by 8 pixels, values 0 to 16), no download. A quarter of the
images, chosen with a fixed seed and balanced over the ten digits, is held out and never trained on.

Model: a small neural network behind a scaling step, exported to ONNX with a free batch dimension:
`image` FP32 [N,64] gives `label` INT64 [N] and `probabilities` FP32 [N,10].

Writes `models/digits/1/model.onnx` and `samples.json` beside this script. Seeds are fixed, so the same versions of the
libraries give the same bytes on the same kind of machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler
from threadpoolctl import threadpool_limits

HERE = Path(__file__).parent.resolve()
SEED = 20
LEAST_ACCURACY = 0.95
SAMPLES = 16
OPSET = 17
IR_VERSION = 8  # what every ONNX Runtime since 1.13 reads


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images, held-out images, training labels, held-out labels; images are FP32 [n,64]."""
    digits = load_digits()
    images = digits.data.astype(np.float32)
    return tuple(train_test_split(images, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target))


def train(images: np.ndarray, labels: np.ndarray) -> Pipeline:
    network = MLPClassifier(hidden_layer_sizes=(128, 64), alpha=1e-3, max_iter=400, random_state=SEED)
    # Threads that wait for each other at matrices this small take many times the CPU, most on a busy machine.
    with threadpool_limits(1):
        return make_pipeline(MinMaxScaler(), network).fit(images, labels)


def export(model: Pipeline) -> onnx.ModelProto:
    """The model as ONNX with `zipmap` off, so that `probabilities` is one tensor and not a list of maps."""
    exported = to_onnx(
        model,
        initial_types=[("image", FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=OPSET,
        name="digits",
    )
    exported.ir_version = min(exported.ir_version, IR_VERSION)
    # the exporter leaves the operator sets in the arbitrary order of a set
    opsets = sorted(exported.opset_import, key=lambda opset: opset.domain)
    del exported.opset_import[:]
    exported.opset_import.extend(opsets)
    for tensor in (*exported.graph.input, *exported.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "N"  # one name for the batch dimension of every tensor
    onnx.checker.check_model(exported)
    return exported


def samples(images: np.ndarray, labels: np.ndarray) -> list[dict[str, object]]:
    """The first held-out images, one of each digit before any second one."""
    seen: dict[int, int] = {}
    order = []
    for index, label in enumerate(labels):
        order.append((seen.setdefault(int(label), 0), index))
        seen[int(label)] += 1
    chosen = [index for _, index in sorted(order)[:SAMPLES]]
    return [{"label": int(labels[i]), "image": [int(pixel) for pixel in images[i]]} for i in chosen]


def main() -> int:
    parser = argparse.ArgumentParser(description="Train and export the digits classifier.")
    parser.add_argument("--out", type=Path, default=HERE, help="directory to write to (default: beside this script)")
    out: Path = parser.parse_args().out
    train_images, test_images, train_labels, test_labels = split()
    model = train(train_images, train_labels)
    accuracy = float(model.score(test_images, test_labels))
    print(f"held-out accuracy {accuracy:.4f} on {len(test_labels)} images ({len(train_labels)} trained on)")
    if accuracy < LEAST_ACCURACY:
        print(f"not written: accuracy is below {LEAST_ACCURACY}", file=sys.stderr)
        return 1
    path = out / "models" / "digits" / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(export(model).SerializeToString(deterministic=True))
    lines = ",\n".join("  " + json.dumps(sample) for sample in samples(test_images, test_labels))
    (out / "samples.json").write_text(f"[\n{lines}\n]\n")
    print(f"wrote {path} ({path.stat().st_size} bytes) and {out / 'samples.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
