"""The two readers of ModelInferRequest: what the compiled one takes, Python's takes to be the same; bytes of any kind
harm neither."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from backend_models import ELEMENTS
from compiled.inference_engine import read
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from backend.calls import check
from backend.datatypes import DATATYPES, TensorSpec
from backend.errors import BackendError
from backend.inference.engine import Engine, ModelQueue
from backend.inference.model import Served
from lb.net.poller import Poller
from lb.net.timers import Timers
from lb.wire import grpc_service_pb2 as wire

SHAPES = ((-1, 3), (-1,), (), (2, -1, 2))


class Session:
    """Describes a model of several inputs and outputs; it is never run."""

    source = "model many version 1"
    inputs = tuple(TensorSpec(f"in_{name.lower()}", DATATYPES[name], SHAPES[i % 4]) for i, name in enumerate(ELEMENTS))
    outputs = tuple(TensorSpec(f"out{i}", DATATYPES["FP32"], (-1,)) for i in range(3))


class Model:
    name, version, max_batch, sequencing = "many", "1", 8, None
    inputs, outputs = Session.inputs, Session.outputs


def tensor(draw, spec):
    shape = [draw(st.integers(0, 3)) if size == -1 else size for size in spec.shape]
    count = int(np.prod(shape))
    if spec.datatype.name == "BYTES":
        texts = [draw(st.text(max_size=5)).encode() for _ in range(count)]
        return shape, b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return shape, draw(st.binary(min_size=count * spec.datatype.size, max_size=count * spec.datatype.size))


@st.composite
def requests(draw):
    """Requests that are right, in any order of their inputs; some ask for some outputs, some have parameters."""
    request = wire.ModelInferRequest(model_name="many", id=draw(st.text(max_size=5)))
    for spec in draw(st.permutations(Session.inputs)):
        shape, raw = tensor(draw, spec)
        request.inputs.add(name=spec.name, datatype=spec.datatype.name, shape=shape)
        request.raw_input_contents.append(raw)
    for name in draw(st.lists(st.sampled_from([spec.name for spec in Session.outputs]), unique=True)):
        request.outputs.add(name=name)
    if draw(st.booleans()):
        request.inputs[0].parameters["any"].int64_param = 7
        request.parameters["priority"].uint64_param = 3
        request.parameters["triton_enable_empty_final_response"].bool_param = draw(st.booleans())
    return request


@pytest.fixture(scope="module")
def queue():
    loop = asyncio.new_event_loop()
    poller = Poller(loop)
    timers = Timers(poller)
    engine = Engine(poller, timers, 1, lambda batch: None)
    yield ModelQueue(engine, Served(Model(), None), [(10, 0)], 0, False)
    engine.close()
    timers.close()
    poller.close()
    loop.close()


def python(message):
    request = wire.ModelInferRequest.FromString(message)
    operands, wanted = check(request, Session.inputs, Session.outputs, lambda what, parameters: None)
    final = request.parameters["triton_enable_empty_final_response"].bool_param
    return operands, wanted, request.id.encode(), final


@given(request=requests())
def test_what_is_right_is_read_alike(queue, request):
    message = request.SerializeToString()
    got = read(queue, message)
    assert got is not None, "irregular"
    assert got == python(message)


@given(request=requests(), data=st.data())
def test_bytes_that_were_changed_are_read_alike_or_not_at_all(queue, request, data):
    message = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message) - 1))
        how = data.draw(st.sampled_from(["change", "drop", "add", "cut"]))
        if how == "change":
            message[at] = data.draw(st.integers(0, 255))
        elif how == "drop":
            del message[at]
        elif how == "add":
            message.insert(at, data.draw(st.integers(0, 255)))
        else:
            del message[at + 1 :]
        if not message:
            return
    got = read(queue, bytes(message))
    if got is not None:
        try:
            expected = python(bytes(message))
        except DecodeError:  # protobuf wants UTF-8 of strings, too, that nobody asks for
            return
        except BackendError as error:
            raise AssertionError(f"the compiled reader took what Python's refuses: {error}") from error
        assert got == expected


@given(message=st.binary(max_size=200))
def test_any_bytes(queue, message):
    read(queue, message)
