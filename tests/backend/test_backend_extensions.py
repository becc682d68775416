"""Triton's extensions of inference: outputs as classes, tensors in shared memory. By Triton's client."""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as by_grpc
import tritonclient.http as by_http
from backend_process import Backend, until
from test_backend_protocol import IMAGES
from test_backend_tritonclient import plain
from tritonclient.utils import InferenceServerException, shared_memory

from backend.datatypes import DATATYPES, TensorSpec
from backend.finishing import classes_of


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with by_grpc.InferenceServerClient(server.targets[0]) as client:
        yield client
        client.unregister_system_shared_memory()


@pytest.fixture
def region() -> Iterator[Any]:
    made = shared_memory.create_shared_memory_region("both", "/tidegate_test_region", 1 << 16)
    yield made
    shared_memory.destroy_shared_memory_region(made)


def image(rows: np.ndarray, module: Any = by_grpc) -> Any:
    tensor = module.InferInput("image", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return tensor


@pytest.mark.parametrize("module", [by_grpc, by_http])
def test_the_best_classes_of_each_row(server: Any, module: Any) -> None:
    with module.InferenceServerClient(server.targets[0]) as client:
        plain = client.infer("digits", [image(IMAGES, module)])
        asked = [module.InferRequestedOutput("probabilities", class_count=3), module.InferRequestedOutput("label")]
        result = client.infer("digits", [image(IMAGES, module)], outputs=asked, request_id="c")
    got = result.as_numpy("probabilities")
    assert got.shape == (16, 3)
    for row, texts in zip(plain.as_numpy("probabilities"), got, strict=True):
        best = np.argsort(-row, kind="stable")[:3]
        assert [text.decode() for text in texts] == [f"{row[index]:.6f}:{index}" for index in best]
    np.testing.assert_array_equal(result.as_numpy("label"), plain.as_numpy("label"))


def test_classes_of_tensors_without_rows() -> None:
    spec = TensorSpec("y", DATATYPES["INT32"], (2, 2))
    raw = np.array([[5, -1], [7, 7]], "<i4").tobytes()
    shape, texts = classes_of(spec, (2, 2), raw, 3, rows=False)
    assert shape == (3,)
    assert texts == b"".join(len(one).to_bytes(4, "little") + one for one in (b"7:2", b"7:3", b"5:0"))
    assert classes_of(spec, (0, 2), b"", 3, rows=True) == ((0, 2), b"")


def test_classes_in_a_stream(server: Any) -> None:
    done: queue.Queue[Any] = queue.Queue()
    with by_grpc.InferenceServerClient(server.targets[0]) as client:
        client.start_stream(lambda result, error: done.put((result, error)))
        for index in range(20):
            asked = [by_grpc.InferRequestedOutput("probabilities", class_count=1)] if index % 2 else None
            client.async_stream_infer("digits", [image(IMAGES[:1])], outputs=asked, request_id=str(index))
        found = [done.get(timeout=30) for _ in range(20)]
        client.stop_stream()
    assert [error for _, error in found] == [None] * 20
    assert [result.get_response().id for result, _ in found] == [str(index) for index in range(20)]
    assert found[1][0].as_numpy("probabilities").shape == (1, 1)
    assert found[2][0].as_numpy("probabilities").shape == (1, 10)


@pytest.mark.parametrize("module", [by_grpc, by_http])
def test_tensors_in_shared_memory(server: Any, region: Any, module: Any) -> None:
    with module.InferenceServerClient(server.targets[0]) as client:
        client.register_system_shared_memory("both", "/tidegate_test_region", 1 << 15, offset=1 << 15)
        status = plain(module, client.get_system_shared_memory_status())
        found = status[0] if module is by_http else status["regions"]["both"]
        assert (int(found["offset"]), int(found["byte_size"])) == (1 << 15, 1 << 15)
        shared_memory.set_shared_memory_region(region, [IMAGES], offset=(1 << 15) + 64)
        tensor = module.InferInput("image", list(IMAGES.shape), "FP32")
        tensor.set_shared_memory("both", IMAGES.nbytes, offset=64)
        asked = [module.InferRequestedOutput("probabilities"), module.InferRequestedOutput("label")]
        asked[0].set_shared_memory("both", 1024, offset=8192)
        result = client.infer("digits", [tensor], outputs=asked)
        sent = client.infer("digits", [image(IMAGES, module)])
        np.testing.assert_array_equal(result.as_numpy("label"), sent.as_numpy("label"))
        output = plain(module, result.get_output("probabilities"))
        if module is by_http:
            assert output == {"name": "probabilities", "datatype": "FP32", "shape": [16, 10]}  # as from Triton
        else:
            assert int(output["parameters"]["shared_memory_byte_size"]["int64_param"]) == 640
        got = shared_memory.get_contents_as_numpy(region, np.float32, [16, 10], offset=(1 << 15) + 8192)
        np.testing.assert_allclose(got, sent.as_numpy("probabilities"), rtol=1e-4, atol=1e-7)
        client.unregister_system_shared_memory("both")
        with pytest.raises(InferenceServerException, match="'both' is not registered"):
            client.infer("digits", [tensor])


def test_what_is_wrong_with_shared_memory(client: Any, region: Any) -> None:
    for key, size, offset, reason in (
        ("/nothing_here", 10, 0, "No such file"),
        ("/../etc/passwd", 10, 0, "not the name of a shared memory object"),
        ("", 10, 0, "not the name"),
        ("/tidegate_test_region", 1 << 16, 1, "has 65536 bytes, not 65537"),
        ("/tidegate_test_region", 0, 0, "needs a name and a size"),
    ):
        with pytest.raises(InferenceServerException, match=reason):
            client.register_system_shared_memory("wrong", key, size, offset=offset)
    client.register_system_shared_memory("both", "/tidegate_test_region", 1 << 12)
    with pytest.raises(InferenceServerException, match="registered already"):
        client.register_system_shared_memory("both", "/tidegate_test_region", 1 << 12)
    tensor = by_grpc.InferInput("image", list(IMAGES.shape), "FP32")
    tensor.set_shared_memory("both", IMAGES.nbytes, offset=64)
    with pytest.raises(InferenceServerException, match="are not in shared memory region 'both', which has 4096"):
        client.infer("digits", [tensor])
    asked = [by_grpc.InferRequestedOutput("probabilities")]
    asked[0].set_shared_memory("both", 600)
    with pytest.raises(InferenceServerException, match="has 640 bytes, more than the 600"):
        client.infer("digits", [image(IMAGES)], outputs=asked)
    assert client.infer("digits", [image(IMAGES)]) is not None


def test_a_region_that_becomes_smaller_harms_nobody(client: Any, region: Any) -> None:
    client.register_system_shared_memory("both", "/tidegate_test_region", 1 << 15)
    tensor = by_grpc.InferInput("image", list(IMAGES.shape), "FP32")
    tensor.set_shared_memory("both", IMAGES.nbytes)
    asked = [by_grpc.InferRequestedOutput("probabilities")]
    asked[0].set_shared_memory("both", 1024, offset=1 << 14)
    os.truncate("/dev/shm/tidegate_test_region", 100)
    with pytest.raises(InferenceServerException, match="has become smaller"):
        client.infer("digits", [tensor])
    client.infer("digits", [image(IMAGES)], outputs=asked)
    assert client.is_server_live()


def test_shared_memory_is_for_clients_of_this_machine(repository: Any) -> None:
    with (
        Backend(repository, listen=("0.0.0.0:0",)) as backend,
        by_grpc.InferenceServerClient(backend.wait_ready().targets[0].replace("0.0.0.0", "127.0.0.1")) as client,
    ):
        with pytest.raises(InferenceServerException, match="offered where the server listens on Unix sockets"):
            client.register_system_shared_memory("both", "/any", 10)
        assert "system_shared_memory" not in client.get_server_metadata().extensions


@pytest.mark.parametrize("module", [by_grpc, by_http])
def test_there_is_no_cuda_shared_memory(server: Any, module: Any) -> None:
    """perf_analyzer ends with an error where it cannot unregister all regions, of both kinds."""
    with module.InferenceServerClient(server.targets[0]) as client:
        assert not plain(module, client.get_cuda_shared_memory_status())
        client.unregister_cuda_shared_memory()
        with pytest.raises(InferenceServerException, match="CUDA shared memory is not offered"):
            client.register_cuda_shared_memory("any", b"AAAA", 0, 64)
        with pytest.raises(InferenceServerException, match="'any' is not registered"):
            client.get_cuda_shared_memory_status("any")
        assert not {"cuda_shared_memory"} & set(plain(module, client.get_server_metadata())["extensions"])


BROKEN = """
import sys
from backend import finishing

def broken(self, outputs):
    raise RuntimeError("what nobody expected")

finishing.Finishing.__call__ = broken
from backend.__main__ import main
sys.exit(main())
"""


def test_an_answer_that_cannot_be_made_ends_its_call_alone(repository: Any) -> None:
    """A stream has other inferences behind it; all of them go with it, once."""
    done: queue.Queue[Any] = queue.Queue()
    with (
        Backend(repository, program=("-c", BROKEN)) as backend,
        by_grpc.InferenceServerClient(backend.wait_ready().targets[0]) as client,
    ):
        for _ in range(5):
            client.start_stream(lambda result, error: done.put((result, error)))
            asked = [by_grpc.InferRequestedOutput("probabilities", class_count=1)]
            client.async_stream_infer("digits", [image(IMAGES[:1])], outputs=asked)
            # The client takes no more requests once it has seen the stream end, which may be now.
            with contextlib.suppress(InferenceServerException):
                for _ in range(7):
                    client.async_stream_infer("digits", [image(IMAGES[:1])], outputs=asked)
            assert "unexpected error" in str(done.get(timeout=30)[1])
            client.stop_stream()
        with pytest.raises(InferenceServerException, match="unexpected error"):
            client.infer("digits", [image(IMAGES[:1])], outputs=asked)
        assert client.infer("digits", [image(IMAGES)]).as_numpy("label").shape == (16,)
        until(lambda: "what nobody expected" in backend.log, "it is not in the log")
