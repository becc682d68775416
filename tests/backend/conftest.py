"""One server with every test model, shared by the tests of the protocol; and daemons, for what they do with it."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import backend_models
import grpc
import numpy as np
import pytest
from backend_process import DIGITS, Backend
from daemons import pytest_runtest_makereport, start

from backend.runtime import onnxruntime
from lb.wire.services import INFERENCE, Stub

__all__ = ["pytest_runtest_makereport", "start"]


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """Digits, an echo per datatype, `scale` in versions 2 and 10, `pick`, `mixing` and `slow`."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(DIGITS / "models" / "digits", root / "digits")
    for datatype in backend_models.ELEMENTS:
        backend_models.echo(root, datatype)
    backend_models.scale(root, 2.0, version=2)
    backend_models.scale(root, 10.0, version=10)
    backend_models.pick(root)
    backend_models.mixing(root)
    backend_models.slow(root)
    (root / "README").write_text("files beside the models are no models")
    (root / ".hidden").mkdir()
    return root


@pytest.fixture(scope="session")
def server(repository):
    with Backend(repository, "--threads", "1", "--concurrency", "2") as backend:
        yield backend.wait_ready()


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(server.targets[0]) as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return Stub(channel, INFERENCE)


@pytest.fixture(scope="module")
def second():
    """A `count` that keeps the model `slow` busy for about a second here."""
    with tempfile.TemporaryDirectory() as directory:
        path = backend_models.slow(Path(directory))
        counter = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sample = 300_000  # a tenth of that ends before the processor has its full clock
    start = time.monotonic()
    counter.run(None, {"count": np.array(sample)})
    return int(sample / (time.monotonic() - start))
