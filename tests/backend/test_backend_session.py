"""A model by ONNX Runtime's C API and by Python's binding: one contract."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import backend_models
import numpy as np
import onnx
import pytest
from onnx import helper

from backend.binding import BindingSession
from backend.datatypes import DATATYPES
from backend.errors import InvalidInput, ModelFailure, StartError
from backend.native import NativeSession
from backend.ort.errors import OrtError
from backend.ort.session import Session

BOTH = pytest.mark.parametrize("kind", [NativeSession, BindingSession])
# Another build than pip's: of the package with the header, which Tidegate is compiled with.
(DEBIAN,) = (path.resolve() for path in Path("/usr/lib").glob("*/libonnxruntime.so"))


def values(datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    dtype = DATATYPES[datatype].dtype
    count = int(np.prod(shape))
    if datatype == "BYTES":
        made = np.empty(count, object)
        made[:] = [("", "a", "grüße", "\0x", "long " * 100)[i % 5] for i in range(count)]
        return made.reshape(shape)
    return np.arange(count).reshape(shape).astype(dtype)


@BOTH
@pytest.mark.parametrize("datatype", backend_models.ELEMENTS)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_every_datatype_comes_back(tmp_path, kind, datatype, rows):
    session = kind(backend_models.echo(tmp_path, datatype), "echo", ("cpu",), 1)
    (spec,) = session.inputs
    assert (spec.name, spec.datatype.name, spec.shape, spec.batch) == ("x", datatype, (-1, 3), "N")
    given = values(datatype, (rows, 3))
    (found,) = session.run(["y"], {"x": given})
    assert found.dtype == given.dtype
    assert np.array_equal(found, given)


@BOTH
def test_a_scalar_and_an_array_that_is_not_contiguous(tmp_path, kind):
    node = helper.make_node("Add", ["x", "y"], ["z"])
    path = backend_models.save(
        tmp_path, "add", [node], [("x", "FP32", ()), ("y", "FP32", ("N", "M"))], [("z", "FP32", ("N", "M"))]
    )
    session = kind(path, "add", ("cpu",), 1)
    assert [(spec.name, spec.shape) for spec in session.inputs] == [("x", ()), ("y", (-1, -1))]
    columns = np.arange(12, dtype="<f4").reshape(3, 4).T
    (found,) = session.run(["z"], {"x": np.array(2, "<f4"), "y": columns})
    assert np.array_equal(found, columns + 2)


@BOTH
def test_outputs_come_in_the_order_asked_for(tmp_path, kind):
    nodes = [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Abs", ["x"], ["size"])]
    outputs = [("minus", "FP32", ("N",)), ("size", "FP32", ("N",))]
    session = kind(backend_models.save(tmp_path, "two", nodes, [("x", "FP32", ("N",))], outputs), "two", ("cpu",), 1)
    given = np.array([1, -2], "<f4")
    for names in (["minus", "size"], ["size", "minus"], ["size"]):
        found = dict(zip(names, session.run(names, {"x": given}), strict=True))
        assert {name: list(array) for name, array in found.items()} == {
            name: list({"minus": -given, "size": abs(given)}[name]) for name in names
        }


@BOTH
def test_a_result_outlives_its_session(tmp_path, kind):
    session = kind(backend_models.scale(tmp_path, 3.0, 1), "scale", ("cpu",), 1)
    found = session.run(["y"], {"x": np.ones((1000, 2), "<f4")})[0]
    del session
    assert np.array_equal(found, np.full((1000, 2), 3, "<f4"))


@BOTH
def test_what_the_model_refuses_is_the_clients_fault(tmp_path, kind):
    session = kind(backend_models.pick(tmp_path), "model pick", ("cpu",), 1)
    with pytest.raises(InvalidInput, match=r"model pick refuses the input: .*indices element out of data bounds"):
        session.run(["row"], {"index": np.array([7], "<i8")})
    assert list(session.run(["row"], {"index": np.array([1], "<i8")})[0][0]) == [3, 4]


@BOTH
def test_what_fails_within_is_the_models_fault(tmp_path, kind):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    path = backend_models.save(
        tmp_path, "reshape", nodes, [("x", "FP32", ("N",)), ("shape", "INT64", ("M",))], [("y", "FP32", ())]
    )
    model = onnx.load(path)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    session = kind(path, "model reshape", ("cpu",), 1)
    with pytest.raises(ModelFailure, match="model reshape failed: "):
        session.run(["y"], {"x": np.ones(4, "<f4"), "shape": np.array([3, 5], "<i8")})


@BOTH
def test_threads_run_one_session_at_the_same_time(tmp_path, kind):
    session = kind(backend_models.scale(tmp_path, 2.0, 1), "scale", ("cpu",), 1)

    def rounds(seed: int) -> bool:
        given = np.random.default_rng(seed).random((64, 2), np.float32)
        return all(np.array_equal(session.run(["y"], {"x": given})[0], given * 2) for _ in range(300))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(rounds, range(8)))


@BOTH
@pytest.mark.parametrize("content", [b"", b"this is no model", None])
def test_a_file_that_is_no_model(tmp_path, kind, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError, match=r"model m: cannot load .*model\.onnx: "):
        kind(path, "model m", ("cpu",), 1)


@BOTH
def test_a_provider_that_cannot_be_had(tmp_path, kind):
    path = backend_models.scale(tmp_path, 2.0, 1)
    session = kind(path, "scale", ("cuda", "cpu"), 1)
    if session.provider == "CUDAExecutionProvider":  # it can be had, so it runs alone, too
        assert kind(path, "scale", ("cuda",), 1).provider == session.provider
        return
    assert session.provider == "CPUExecutionProvider"
    with pytest.raises(StartError, match=r"asked for \[cuda\] only, but it would run on CPUExecutionProvider"):
        kind(path, "scale", ("cuda",), 1)


def test_strings_need_not_be_text(tmp_path):
    session = NativeSession(backend_models.echo(tmp_path, "BYTES"), "echo", ("cpu",), 1)
    given = np.array([[b"\xff\xfe", b"", b"x"]], object)
    (found,) = session.run(["y"], {"x": given})
    assert [text.encode(errors="surrogateescape") for text in found[0]] == [b"\xff\xfe", b"", b"x"]
    assert b"a\0"[1:] == bytes(1)  # the interpreter has one object for it, which nothing was written into


def test_arrays_and_names_that_do_not_fit(tmp_path):
    session = Session(backend_models.scale(tmp_path, 2.0, 1))
    with pytest.raises(ValueError, match=r"input 'x': expected an array of float32, got float64"):
        session.run(["y"], {"x": np.ones((1, 2))})
    with pytest.raises(KeyError, match="nobody"):
        session.run(["y"], {name: np.ones((1, 2), "<f4") for name in ("x", "nobody")})
    with pytest.raises(ValueError, match="input 'x' is missing"):
        session.run(["y"], {})
    for output, shape in (("nobody", (1, 2)), ("y", (1, 3))):
        with pytest.raises(OrtError) as failed:
            session.run([output], {"x": np.ones(shape, "<f4")})
        assert failed.value.invalid
    with pytest.raises(OrtError, match="Nobody is no execution provider"):
        Session(backend_models.scale(tmp_path, 2.0, 1), [("Nobody", {})])


def told(code: str) -> str:
    """What a fresh process prints, on both streams."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


LOAD = """
from pathlib import Path
from backend.ort.errors import LibraryError
from backend.ort.library import load
try:
    print(load({path}))
except LibraryError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("Path('/nonexistent/lib.so')", "refused: /nonexistent/lib.so: cannot open shared object file"),
        ("Path('libm.so.6')", "refused: libm.so.6 is no ONNX Runtime: it has no OrtGetApiBase"),
        (f"Path('{DEBIAN}')", DEBIAN.name.partition(".so.")[2]),
        ("None", "1."),
    ],
)
def test_the_library(path, text):
    assert told(LOAD.format(path=path)).startswith(text)


def test_without_a_c_api_the_binding_serves_and_says_so(tmp_path):
    path = backend_models.scale(tmp_path, 2.0, 1)
    shown = told(f"""
import logging, sys
from pathlib import Path
from backend.ort import errors, library
def missing():
    raise errors.LibraryError("this build has none")
library.library_path = missing
logging.basicConfig(format="%(levelname)s %(message)s")
from backend.session import open_session
for _ in range(2):
    session = open_session(Path({str(path)!r}), "scale", ("cpu",), 1)
print(session.runtime)
""")
    assert shown.count("WARNING ONNX Runtime has no usable C API (this build has none): its Python binding") == 1
    assert ", its Python binding\n" in shown


def test_the_c_api_needs_no_python_package_of_onnx_runtime(tmp_path):
    path = backend_models.scale(tmp_path, 2.0, 1)
    shown = told(f"""
import os, sys
from pathlib import Path
from backend.session import open_session
session = open_session(Path({str(path)!r}), "scale", ("cpu",), 1)
print(session.runtime, "onnxruntime" in sys.modules, os.environ["ORT_DISABLE_TELEMETRY"])
""")
    assert shown.strip().endswith(", its C API False 1")
