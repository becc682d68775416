"""A sequence model of Triton's Python backend: each answer is the sum of the sequence's inputs so far."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        value, start = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0] for name in ("x", "START")
        )
        sequence = request.correlation_id()
        self.sums[sequence] = value + (0 if start else self.sums[sequence])
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([[self.sums[sequence]]], np.float32))])
