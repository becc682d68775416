"""Unary gRPC calls, HTTP/2 in front and behind: with 100 bytes each way, one at a time and eight in each batch; and
with 96 KiB each way, which go to the server and back through shared memory."""

from bench.guard.clients import GrpcClient
from bench.guard.paths.base import Path, Run, http_config
from bench.guard.rig import Rig
from bench.guard.upstreams import GrpcServer, LocalServer

MESSAGE = bytes(range(100))
LARGE = bytes(range(256)) * 384


def right(answer: bytes) -> bool:
    return answer == b"\0\0\0\0\x64" + MESSAGE


def right_large(answer: bytes) -> bool:
    return answer == b"\0" + len(LARGE).to_bytes(4, "big") + LARGE


def start(at_once: int) -> Run:
    server = GrpcServer(MESSAGE)
    rig = Rig(http_config(server.address, "grpc"), [server])
    return Run(rig, GrpcClient(rig, MESSAGE, right, at_once), server)


def start_local() -> Run:
    server = LocalServer(LARGE)
    rig = Rig(http_config(server.address, "grpc"), [server])
    return Run(rig, GrpcClient(rig, LARGE, right_large), server)


PATH = Path("grpc", "unary gRPC call to gRPC, 100 bytes each way", lambda: start(1))
# To be counted over whole batches.
BATCH = Path("grpc-batch", "the same, eight calls in each batch", lambda: start(8))
LOCAL = Path("grpc-local", "unary gRPC call, 96 KiB each way in shared memory", start_local)
