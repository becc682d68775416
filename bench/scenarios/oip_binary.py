"""A binary inference request with a 4 KiB tensor, and the tensor back.

Tidegate turns it into gRPC for a stub model server that echoes the tensor. The peers, which cannot, pass the same bytes
on as plain HTTP/1.1 to a server with a fixed answer of the same size.
"""

from bench.bed import Answer, Bed
from bench.results import Sample
from bench.scenarios.base import LOAD_METRICS, Limit, Scenario
from bench.scenarios.inference import binary_request
from bench.servers import FixedHttp, GrpcStub

TENSOR = 4096
LOAD = binary_request(TENSOR)
# The JSON part of Tidegate's answer is about 160 bytes.
_ANSWER = TENSOR + 160


def right(answer: Answer) -> bool:
    if answer.status != 200:
        return False
    if "inference-header-content-length" in answer.headers:
        return answer.body[-TENSOR:] == LOAD.body[-TENSOR:]
    return len(answer.body) == _ANSWER


def measure(bed: Bed) -> Sample:
    return bed.drive(LOAD, right)


SCENARIO = Scenario(
    name="oip-binary",
    title="binary inference request, 4 KiB FP32 tensor, to gRPC (peers: the same bytes as HTTP/1.1)",
    job="oip",
    servers={"http": FixedHttp("x" * _ANSWER, "application/octet-stream"), "grpc": GrpcStub()},
    measure=measure,
    metrics=LOAD_METRICS,
    limit=Limit(1.2, ("haproxy",)),
)
