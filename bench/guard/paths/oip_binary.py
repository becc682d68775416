"""An inference request with a binary tensor of 4 KiB to gRPC, and as much back; no cache."""

from bench.guard.clients import Http1Client
from bench.guard.inference import answer_message, binary_request, floats
from bench.guard.paths.base import Path, Run, http_config
from bench.guard.rig import Rig
from bench.guard.upstreams import GrpcServer

TENSOR = 4096
_OUTPUT = floats(TENSOR // 4, 3)


def right(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(_OUTPUT)


def start() -> Run:
    server = GrpcServer(answer_message(TENSOR))
    rig = Rig(http_config(server.address, "oip"), [server])
    return Run(rig, Http1Client(rig, binary_request(TENSOR), right), server)


PATH = Path("oip-binary", "inference POST, 4 KiB binary tensor, to gRPC", start)
