"""A runtime of MLServer: ONNX Runtime's binding, one run at a time. MLServer finds it by PYTHONPATH."""

import os

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as backend.runtime does, which is not here; before the import

import onnxruntime


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = await get_model_uri(self._settings)
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        self.results = [each.name for each in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {}
        for tensor in payload.inputs:
            codec = StringCodec if tensor.datatype == "BYTES" else NumpyCodec
            found = codec.decode_input(tensor)
            feeds[tensor.name] = found
        answers = self.session.run(self.results, feeds)
        made = []
        for name, value in zip(self.results, answers, strict=True):
            if value.dtype == object:
                made.append(StringCodec.encode_output(name, value.tolist()))
            else:
                made.append(NumpyCodec.encode_output(name, value))
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=made)

    async def predict_stream(self, payloads):
        async for payload in payloads:
            yield await self.predict(payload)
