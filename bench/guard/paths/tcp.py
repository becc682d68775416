"""The TCP relay: 512 bytes to the server and back on an open session."""

from bench.guard.clients import RawClient
from bench.guard.paths.base import Path, Run
from bench.guard.rig import Rig
from bench.guard.upstreams import EchoServer

PAYLOAD = bytes(range(256)) * 2


def start() -> Run:
    server = EchoServer()
    config = f"""workers: 1
listeners:
  front: {{bind: "127.0.0.1:1", protocol: tcp, pool: servers}}
pools:
  servers: {{protocol: tcp, endpoints: ["{server.address}"]}}
"""
    rig = Rig(config, [server])
    return Run(rig, RawClient(rig, PAYLOAD, len(PAYLOAD), PAYLOAD.__eq__), server)


PATH = Path("tcp", "TCP relay, 512 bytes there and back", start)
