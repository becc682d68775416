"""KServe's model server with ONNX Runtime's binding, one run at a time:
python kserve_server.py MODELS --http_port N --grpc_port N"""

import argparse
import os
import uuid
from pathlib import Path

import kserve
import numpy as np
from kserve import InferOutput, InferResponse

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as backend.runtime does, which is not here; before the import

import onnxruntime

DATATYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(string)": "BYTES"}
OF_ARRAYS = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}


class OnnxModel(kserve.Model):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path = path
        self.load()

    def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(self.path), options, ["CPUExecutionProvider"])
        self.ready = True
        return True

    def get_input_types(self):
        return [self.described(each) for each in self.session.get_inputs()]

    def get_output_types(self):
        return [self.described(each) for each in self.session.get_outputs()]

    def described(self, found):
        shape = [size if isinstance(size, int) else -1 for size in found.shape]
        return {"name": found.name, "datatype": DATATYPES[found.type], "shape": shape}

    def predict(self, payload, headers=None):
        feeds = {each.name: text(each.as_numpy()) for each in payload.inputs}
        names = [each.name for each in self.session.get_outputs()]
        outputs = []
        for name, value in zip(names, self.session.run(names, feeds), strict=True):
            output = InferOutput(name, list(value.shape), OF_ARRAYS[value.dtype.name])
            output.set_data_from_numpy(value)
            outputs.append(output)
        return InferResponse(
            payload.id or str(uuid.uuid4()),
            self.name,
            outputs,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


def text(values):
    """ONNX Runtime takes strings; the server has bytes where the request was binary."""
    if values.dtype != object:
        return values
    return np.vectorize(lambda each: each.decode() if isinstance(each, bytes) else each, otypes=[object])(values)


class Repository(kserve.ModelRepository):
    """Loads what its folder has."""

    def load(self, name: str) -> bool:
        path = Path(self.models_dir) / name / "1" / "model.onnx"
        if not path.is_file():
            return False
        self.update(OnnxModel(name, path))
        return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("models", type=Path)
    given, _ = parser.parse_known_args()
    models = [OnnxModel(path.parents[1].name, path) for path in sorted(given.models.glob("*/1/model.onnx"))]
    kserve.ModelServer(registered_models=Repository(str(given.models))).start(models)
