"""An inference request of 700 bytes of JSON to gRPC, other numbers in each, and 16 numbers back as JSON; no cache."""

from bench.guard.clients import Http1Client
from bench.guard.inference import answer_message, json_requests
from bench.guard.paths.base import Path, Run, http_config
from bench.guard.rig import Rig
from bench.guard.upstreams import GrpcServer

OUTPUT = 64


def right(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200 ") and b'"OUTPUT0"' in answer and answer.count(b",0.") == OUTPUT // 4 - 1


def start() -> Run:
    server = GrpcServer(answer_message(OUTPUT))
    rig = Rig(http_config(server.address, "oip"), [server])
    return Run(rig, Http1Client(rig, json_requests(700), right), server)


PATH = Path("oip-json", "inference POST, 700 bytes of JSON, to gRPC", start)
