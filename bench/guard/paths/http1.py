"""HTTP/1.1 to HTTP/1.1: a GET and a small JSON answer, on kept-alive connections and on one for each request."""

from bench.guard.clients import ClosingClient, Http1Client, http1_request
from bench.guard.paths.base import Path, Run, http_config
from bench.guard.rig import Rig
from bench.guard.upstreams import Http1Server

ANSWER = b'{"ok":true,"data":[1,2,3,4,5,6,7,8]}'


def right(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(ANSWER)


def start() -> Run:
    server = Http1Server(ANSWER)
    rig = Rig(http_config(server.address), [server])
    return Run(rig, Http1Client(rig, http1_request("GET", "/", {}, b""), right), server)


def start_closing() -> Run:
    server = Http1Server(ANSWER)
    rig = Rig(http_config(server.address), [server])
    request = http1_request("GET", "/", {"Connection": "close"}, b"")
    return Run(rig, ClosingClient(rig, request, right), server)


PATH = Path("http1", "HTTP/1.1 GET to HTTP/1.1, small answer", start)
CLOSING = Path("http1-new", "the same, each on a new connection of the client", start_closing)
