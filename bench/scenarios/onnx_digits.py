"""The digits classifier end to end: real ONNX Runtime behind the proxies, on a GPU where there is one.

Tidegate takes JSON and speaks gRPC to the model server; the peers, which cannot, are asked by gRPC and pass it on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.bed import Answer, Bed
from bench.errors import BenchError
from bench.h2load import H2load
from bench.load.request import Request, frame
from bench.models import repository
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Sample
from bench.scenarios.base import Scenario
from bench.scenarios.checks import INFER, expect_grpc
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.servers import Place
from bench.wrk import Wrk
from lb.wire import grpc_service_pb2 as wire

# The first of examples/digits/samples.json: a handwritten 8, 8 by 8 pixels.
LABEL = 8
# fmt: off
IMAGE = [
    0, 0, 0, 5, 15, 13, 2, 0, 0, 0, 0, 12, 7, 11, 6, 0,
    0, 0, 0, 9, 12, 15, 1, 0, 0, 0, 1, 8, 16, 4, 0, 0,
    0, 3, 15, 8, 13, 0, 0, 0, 0, 7, 12, 0, 10, 7, 0, 0,
    0, 0, 12, 11, 10, 8, 0, 0, 0, 0, 0, 6, 13, 10, 0, 0,
]
# fmt: on
_INPUT = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": IMAGE}
REQUEST = Request(
    "/v2/models/digits/infer",
    "POST",
    {"Content-Type": "application/json"},
    json.dumps({"inputs": [_INPUT], "outputs": [{"name": "label"}]}).encode(),
)
RATE = 200


def right(answer: Answer) -> bool:
    return answer.status == 200 and json.loads(answer.body)["outputs"][0]["data"] == [LABEL]


def message() -> bytes:
    """The same request for gRPC."""
    request = wire.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="image", datatype="FP32", shape=[1, 64])
    tensor.contents.fp32_contents.extend(IMAGE)
    request.outputs.add(name="label")
    return bytes(request.SerializeToString())


def right_message(data: bytes) -> bool:
    return bool(wire.ModelInferResponse.FromString(data).raw_output_contents[0] == LABEL.to_bytes(8, "little"))


def providers() -> str:
    """The GPU first where the kernel has one."""
    return "cuda,cpu" if Path("/dev/nvidiactl").exists() else "cpu"


@dataclass(frozen=True)
class DigitsServer:
    """One `python -m backend` with one thread for the model."""

    name: str = "model-server"
    ports: int = 1
    extra_ports: int = 0

    def command(self, place: Place) -> list[str]:
        models = str(repository("digits", place.directory))
        options = ["--models", models, "--providers", providers(), "--threads", "1", "--die-with-parent"]
        return [sys.executable, "-m", "backend", "serve", "--listen", f"127.0.0.1:{place.ports[0]}", *options]


_GRPC = Request(INFER, "POST", body=message())
_JSON_LOAD, _GRPC_LOAD = Wrk(REQUEST), H2load(_GRPC, connections=8, streams=4, grpc=True)
_JSON_PACE = Open(REQUEST, RATE)
_GRPC_PACE = Open(Request(INFER, "POST", body=frame(message())), RATE, protocol="grpc", connections=8)
_BY_JOB = {
    "oip": full_load(_JSON_LOAD, Expect(REQUEST, right, 20.0), _JSON_PACE),
    "grpc": full_load(_GRPC_LOAD, expect_grpc(message(), right_message), _GRPC_PACE),
}


def measure(bed: Bed) -> Sample:
    sample = _BY_JOB[bed.setup.task.job](bed)
    sample.raw["providers"] = used_providers(bed)
    return sample


def used_providers(bed: Bed) -> str:
    """What the model server says it computes with. Raises BenchError if it does not say."""
    if bed.server is None:
        raise BenchError("there is no model server of the bench's own")
    lines = [line for line in bed.server.log.read_text().splitlines() if "running on" in line]
    if not lines:
        raise BenchError(f"the model server does not say what it computes with: {bed.server.last_words()}")
    return lines[-1]


SCENARIO = Scenario(
    name="onnx-digits",
    title="digits classifier on ONNX Runtime behind the proxy, end to end, 32 requests at once",
    task=Task("oip"),
    peer_task=Task("grpc"),
    servers={"grpc": DigitsServer()},
    measure=measure,
    metrics=LOAD_METRICS,
    generators=(_JSON_LOAD, _GRPC_LOAD, _JSON_PACE),
    note="Tidegate takes JSON and speaks gRPC to the model server; the peers are asked by gRPC and pass it on.",
)
