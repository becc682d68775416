"""A binary inference request with a tensor of 4 KiB or 1 MiB, and the tensor back.

Tidegate turns it into gRPC for a stub model server that echoes the tensor. The peers, which cannot, pass the same bytes
on as plain HTTP/1.1 to a server with a fixed answer of the same size.
"""

from bench.bed import Answer
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.inference import binary_request
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.scenarios.oip_json import NOTE
from bench.servers import FixedHttp, GrpcStub
from bench.wrk import Wrk

# The JSON part of Tidegate's answer is about so many bytes.
_HEAD = 160


def scenario(name: str, size: int, text: str, connections: int, rate: float, *limits: Limit) -> Scenario:
    """`size` is the tensor's, in bytes; `rate` the fixed one, in requests/s."""
    request = binary_request(size)

    def right(answer: Answer) -> bool:
        if answer.status != 200:
            return False
        if "inference-header-content-length" in answer.headers:
            return answer.body[-size:] == request.body[-size:]
        return len(answer.body) == size + _HEAD

    load = Wrk(request, connections=connections)
    pace = Open(request, rate)
    return Scenario(
        name=name,
        title=f"binary inference request, {text} FP32 tensor, to gRPC (peers: the same bytes as HTTP/1.1)",
        task=Task("oip"),
        servers={
            # What comes with the headers need not be read by a server whose answer is fixed; a megabyte must be.
            "http": FixedHttp("x" * (size + _HEAD), "application/octet-stream", reads=size > 65536),
            "grpc": GrpcStub(),
        },
        measure=full_load(load, Expect(request, right), pace),
        metrics=LOAD_METRICS,
        generators=(load, pace),
        limits=limits,
        note=NOTE,
        default=size == 4096,
    )


SCENARIO = scenario("oip-binary", 4096, "4 KiB", 32, 2000, Limit(0.85, ("haproxy",)))
LARGE = scenario("oip-binary-1m", 1 << 20, "1 MiB", 8, 50, Limit(1.0, ("haproxy", "envoy")))
