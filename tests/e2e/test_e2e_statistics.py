"""The statistics of a pool, as Triton's clients read them: over all workers, restarts and scaling."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
import tritonclient.http as triton
from daemon import Daemon, digits_pool, eventually, http_listener, route
from test_e2e_model_servers import ready_replicas

Start = Callable[..., Daemon]


def test_the_sum_never_falls(start: Start) -> None:
    def config(**serve: int) -> dict[str, object]:
        pools = {"digits": digits_pool(**serve)}
        return {"workers": 2, "listeners": {"web": http_listener(route("/v2", "digits"))}, "pools": pools}

    daemon = start(config(min=2))
    eventually(lambda: len(ready_replicas(daemon)) == 2, "both model servers")
    port = daemon.port()

    def client() -> triton.InferenceServerClient:
        return triton.InferenceServerClient(f"127.0.0.1:{port}")  # one connection, with whichever worker takes it

    def infer(times: int) -> None:
        image = triton.InferInput("image", [1, 64], "FP32")
        image.set_data_from_numpy(np.zeros((1, 64), "f4"))
        for _ in range(times):
            client().infer("digits", [image])

    def count() -> int:
        found = {client().get_inference_statistics("digits")["model_stats"][0]["inference_count"] for _ in range(8)}
        assert len(found) == 1
        return int(found.pop())

    before = count()
    infer(20)
    assert count() == before + 20
    replicas = ready_replicas(daemon)
    killed = min(replicas)
    os.kill(killed, signal.SIGKILL)
    assert count() == before + 20
    eventually(lambda: len(now := ready_replicas(daemon)) == 2 and killed not in now, "the next model server")
    infer(10)
    assert count() >= before + 30  # and what a server runs to warm up, if it counts that
    before = count()
    assert daemon.reload(config(min=3))["ok"]
    eventually(lambda: len(ready_replicas(daemon)) == 3, "the third model server")
    infer(9)
    assert daemon.reload(config(min=1, max=1))["ok"]
    eventually(lambda: len(ready_replicas(daemon)) == 1, "one model server")
    assert count() >= before
    infer(5)
    assert count() >= before + 5
    for pid in daemon.worker_pids():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: count() >= before + 5, "the workers are replaced")
