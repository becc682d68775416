"""A decoupled model of Triton's Python backend: `text_input` comes back `times` times, an answer each."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
            times = pb_utils.get_input_tensor_by_name(request, "times").as_numpy()
            sender = request.get_response_sender()
            for _ in range(int(times.reshape(-1)[0])):
                output = pb_utils.Tensor("text_output", np.array(text, dtype=object))
                sender.send(pb_utils.InferenceResponse([output]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
