"""A real gRPC server in the place of `python -m backend serve`, small and quick to start; ill on demand.

    standin_model_server.py --listen ADDR [--mode MODE]

Modes: well; crash (exit 1 at once); never_ready (NOT_SERVING for ever); silent (listens nowhere, ignores SIGTERM);
stubborn (serves, ignores SIGTERM); child (serves, and has started a process that outlives it); busy (burns CPU).
A folder in STANDIN_STATE holds files that make it `crash` as long as they are there.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--mode", default="well")
    options, _ = parser.parse_known_args()
    mode = options.mode
    broken = os.environ.get("STANDIN_BROKEN")
    if mode == "crash" or (broken and os.path.exists(broken)):
        print("error: the model is broken", file=sys.stderr, flush=True)
        return 1
    done = threading.Event()
    if mode in ("silent", "stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: done.set())
    if mode == "silent":
        while True:
            time.sleep(60)
    if mode == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", file=sys.stderr, flush=True)
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    status = health_pb2.HealthCheckResponse
    servicer.set("", status.NOT_SERVING if mode == "never_ready" else status.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(options.listen)
    address = options.listen if options.listen.startswith("unix:") else f"127.0.0.1:{port}"
    server.start()
    print(f"listening on {address}", flush=True)
    print("served by a stand-in", file=sys.stderr, flush=True)
    while mode == "busy" and not done.is_set():
        pass
    done.wait()
    server.stop(None).wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
