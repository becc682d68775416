"""The same inference request again and again, answered from the cache: 700 bytes of JSON, and a gRPC call with a tensor
of 256 bytes. And other numbers in each, which the cache keeps for nobody."""

from bench.guard.clients import GrpcClient, Http1Client
from bench.guard.inference import answer_message, grpc_message, json_request, json_requests
from bench.guard.paths.base import Path, Run, http_config
from bench.guard.rig import Rig
from bench.guard.upstreams import GrpcServer

OUTPUT = 64


def right(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200 ") and b'"OUTPUT0"' in answer


def start() -> Run:
    server = GrpcServer(answer_message(OUTPUT))
    rig = Rig(http_config(server.address, "oip", "cache: {size: 8MiB, ttl: 1h}\n"), [server])
    return Run(rig, Http1Client(rig, json_request(700), right), server, cached=True)


PATH = Path("cache-hit", "repeated inference POST of 700 bytes, from the cache", start)


def right_call(answer: bytes) -> bool:
    return answer[:1] == b"\0" and b"OUTPUT0" in answer


def start_grpc() -> Run:
    server = GrpcServer(answer_message(OUTPUT))
    rig = Rig(http_config(server.address, "oip", "cache: {size: 8MiB, ttl: 1h}\n"), [server])
    client = GrpcClient(rig, grpc_message(256), right_call, path=b"/inference.GRPCInferenceService/ModelInfer")
    return Run(rig, client, server, cached=True)


GRPC = Path("grpc-cache-hit", "repeated gRPC inference with a tensor of 256 bytes, from the cache", start_grpc)


def start_miss() -> Run:
    server = GrpcServer(answer_message(OUTPUT))
    rig = Rig(http_config(server.address, "oip", "cache: {size: 8MiB, ttl: 1h}\n"), [server])
    return Run(rig, Http1Client(rig, json_requests(700), right), server)


MISS = Path("cache-miss", "inference POST, 700 bytes of JSON, to gRPC, through a cache that has no answer", start_miss)
