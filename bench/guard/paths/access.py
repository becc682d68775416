"""The path `http1` on a route that asks for an API key, which the worker knows from the request before."""

import hashlib
import tempfile

from bench.guard.clients import Http1Client, http1_request
from bench.guard.paths.base import Path, Run
from bench.guard.paths.http1 import ANSWER, right
from bench.guard.rig import Rig
from bench.guard.upstreams import Http1Server

_KEY = "tg_0123456789abcdef0123456789abcdef0123456789a"


def start() -> Run:
    server = Http1Server(ANSWER)
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write(f"team-a:sha256:{hashlib.sha256(_KEY.encode()).hexdigest()}\n")
        keys.flush()
        rig = Rig(_config(server.address, keys.name), [server])
    return Run(rig, Http1Client(rig, http1_request("GET", "/", {"X-Api-Key": _KEY}, b""), right), server)


def _config(address: str, keys: str) -> str:
    return f"""workers: 1
auth:
  keys: {{type: api_key, file: "{keys}"}}
listeners:
  front: {{bind: "127.0.0.1:1", protocol: http, routes: [{{auth: keys, pool: servers}}]}}
pools:
  servers: {{protocol: http, endpoints: ["{address}"]}}
"""


PATH = Path("http1-key", "HTTP/1.1 GET to HTTP/1.1, small answer, with an API key", start)
