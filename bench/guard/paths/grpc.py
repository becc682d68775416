"""Unary gRPC calls with 100 bytes each way, HTTP/2 in front and behind: one at a time, and eight in each batch."""

from bench.guard.clients import GrpcClient
from bench.guard.paths.base import Path, Run, http_config
from bench.guard.rig import Rig
from bench.guard.upstreams import GrpcServer

MESSAGE = bytes(range(100))


def right(answer: bytes) -> bool:
    return answer == b"\0\0\0\0\x64" + MESSAGE


def start(at_once: int) -> Run:
    server = GrpcServer(MESSAGE)
    rig = Rig(http_config(server.address, "grpc"), [server])
    return Run(rig, GrpcClient(rig, MESSAGE, right, at_once), server)


PATH = Path("grpc", "unary gRPC call to gRPC, 100 bytes each way", lambda: start(1))
# To be counted over whole batches.
BATCH = Path("grpc-batch", "the same, eight calls in each batch", lambda: start(8))
