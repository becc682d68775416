"""A model of Triton's Python backend: ONNX Runtime's binding, one run at a time. It lies beside `model.onnx`."""

import os

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as backend.runtime does, which is not here; before the import

import onnxruntime


class TritonPythonModel:
    def initialize(self, args):
        folder = os.path.join(args["model_repository"], args["model_version"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.path.join(folder, "model.onnx"), options, ["CPUExecutionProvider"]
        )
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feeds = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        for name, value in feeds.items():
            if value.dtype == object:
                feeds[name] = np.vectorize(lambda each: each.decode(), otypes=[object])(value)
        wanted = [name for name in self.outputs if name in request.requested_output_names()]
        found = self.session.run(wanted, feeds)
        tensors = [pb_utils.Tensor(name, value) for name, value in zip(wanted, found, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)
