"""ONNX Runtime alone: the same inference again and again, from arrays to arrays, by Python's binding.

    python -m bench.model_servers.bare --models DIR --model NAME --seconds S

Prints inferences a second.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from backend.runtime import onnxruntime
from bench.model_servers.models import MODELS

_ROUND = 100  # inferences between two looks at the clock


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = given.models / given.model / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feeds = {"x": MODELS[given.model].values()}
    for _ in range(_ROUND):
        session.run(None, feeds)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < given.seconds:
        for _ in range(_ROUND):
            session.run(None, feeds)
        done += _ROUND
    print(done / passed)


if __name__ == "__main__":
    main()
