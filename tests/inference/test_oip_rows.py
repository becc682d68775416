"""Batches taken apart into rows, and answers put together from those of rows."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np
import pytest
from compiled.inference import (
    NotCombined,
    ask_rows,
    combine_rows,
    digest_hex,
    parse_request,
    render_bytes,
    row_keys,
    split_batch,
    store_form_bytes,
)
from hypothesis import given
from hypothesis import strategies as st
from oip_tools import DATATYPES, NUMPY, SECRET, Tensor, element, encode, parameter_maps, tensor_of
from property import examples

from lb.errors import TidegateError
from lb.inference.request import InferRequest
from lb.wire.grpc_service_pb2 import ModelInferRequest, ModelInferResponse

MOST_ROWS = 1024


def rows_of(tensor: Tensor, rows: list[int]) -> Tensor:
    """The tensor with these rows alone."""
    size = len(tensor.flat) // tensor.shape[0]
    flat = [value for row in rows for value in tensor.flat[row * size : (row + 1) * size]]
    shape = (len(rows), *tensor.shape[1:])
    if tensor.datatype == "BYTES":
        return tensor_of(tensor.name, "BYTES", shape, flat)
    width = len(tensor.raw) // tensor.shape[0]
    raw = b"".join(tensor.raw[row * width : (row + 1) * width] for row in rows)
    return Tensor(tensor.name, tensor.datatype, shape, raw, flat)


@st.composite
def batches(draw: Any) -> list[Tensor]:
    """Inputs of 2 to 6 rows, some of them equal."""
    count = draw(st.integers(2, 6))
    distinct = draw(st.integers(1, count))
    chosen = [draw(st.integers(0, distinct - 1)) for _ in range(count)]
    inputs = []
    for i in range(draw(st.integers(1, 3))):
        datatype = draw(st.sampled_from(DATATYPES))
        shape = (distinct, *draw(st.lists(st.integers(0, 3), max_size=2)))
        size = int(np.prod(shape, dtype=np.int64))
        elements = draw(st.lists(element(datatype), min_size=size, max_size=size))
        inputs.append(rows_of(tensor_of(f"x{i}", datatype, shape, elements), chosen))
    return inputs


def batch_of(*inputs: Tensor, **extra: Any) -> InferRequest:
    return parse_request(b"m", b"", *encode(list(inputs), set(range(len(inputs))), extra=extra))


def floats(*values: float) -> Tensor:
    return tensor_of("x", "FP32", (len(values), 1), list(values))


def answer_to(request: InferRequest) -> ModelInferResponse:
    """What a model says that gives its inputs back, and the number of bytes of each row."""
    sent = ModelInferRequest.FromString(request.message())
    reply = ModelInferResponse(model_name="m", model_version="1", id=sent.id)
    reply.parameters["b"].int64_param = 1
    reply.parameters["a"].string_param = "s"
    for tensor, raw in zip(sent.inputs, sent.raw_input_contents, strict=True):
        made = reply.outputs.add(name=f"same {tensor.name}", datatype=tensor.datatype, shape=tensor.shape)
        made.parameters["p"].bool_param = True
        reply.raw_output_contents.append(raw)
    return reply


@examples(200)
@given(batches(), parameter_maps, parameter_maps, st.booleans())
def test_a_row_has_the_key_of_its_own_request(
    inputs: list[Tensor], parameters: dict[str, Any], of_inputs: dict[str, Any], binary: bool
) -> None:
    which = set(range(len(inputs))) if binary else set()
    said = {"extra": {"id": "a", "parameters": parameters, "outputs": [{"name": "y", "parameters": {"k": 1}}]}}
    request = parse_request(b"m", b"2", *encode(inputs, which, input_parameters=of_inputs, **said))
    found = row_keys(split_batch(request, SECRET))
    alone = []
    for row in range(inputs[0].shape[0]):
        # JSON where the batch was binary, and the other way round.
        body = encode([rows_of(one, [row]) for one in inputs], set() if binary else which, input_parameters=of_inputs,
                      **said)  # fmt: skip
        alone.append(digest_hex(parse_request(b"m", b"2", *body), SECRET))
    assert [key for key, _ in found] == alone
    assert [first for _, first in found] == [alone.index(key) for key in alone]


@examples(200)
@given(batches(), st.data())
def test_an_answer_from_rows_is_that_to_the_batch(inputs: list[Tensor], data: st.DataObject) -> None:
    request = batch_of(*inputs, id="7")
    rows = split_batch(request, SECRET)
    distinct = sorted({first for _, first in row_keys(rows)})
    kept = data.draw(st.sets(st.sampled_from(distinct)))
    keys = [key for key, _ in row_keys(rows)]
    stored = {
        keys[row]: store_form_bytes(other_form(answer_to(batch_of(*[rows_of(one, [row]) for one in inputs])), data))
        for row in kept
    }
    asked = ask_rows(rows, stored)
    left = [row for row in distinct if row not in kept]
    reply = None
    if asked is None:
        assert not left
    else:
        sent = ModelInferRequest.FromString(asked.message())
        expected = batch_of(*[rows_of(one, left) for one in inputs], id="7")
        assert sent == ModelInferRequest.FromString(expected.message())
        assert asked.message() == expected.message()
        assert asked.batch == len(left)
        reply = other_form(answer_to(asked), data)
    whole, answers = combine_rows(rows, reply)
    expected_whole = answer_to(request)
    expected_whole.id = ""
    assert ModelInferResponse.FromString(whole) == expected_whole
    assert sorted(answers) == left
    for row, message in answers.items():
        alone = answer_to(batch_of(*[rows_of(one, [row]) for one in inputs]))
        assert ModelInferResponse.FromString(message) == alone


def other_form(answer: ModelInferResponse, data: st.DataObject) -> bytes:
    """The same in another encoding: typed contents, and parameters in another order."""
    if data.draw(st.booleans()):
        return bytes(answer.SerializeToString())
    fields = {"INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents"}
    typed = ModelInferResponse()
    typed.CopyFrom(answer)
    if all(output.datatype in (*fields, "BYTES") for output in answer.outputs):
        del typed.raw_output_contents[:]
        for output, raw in zip(typed.outputs, answer.raw_output_contents, strict=True):
            if output.datatype == "BYTES":
                output.contents.bytes_contents.extend(texts(raw))
            else:
                values = np.frombuffer(raw, NUMPY[output.datatype]).tolist()
                getattr(output.contents, fields[output.datatype]).extend(values)
    head, rest = ModelInferResponse(), ModelInferResponse()
    rest.CopyFrom(typed)
    rest.ClearField("parameters")
    keys = data.draw(st.permutations(list(typed.parameters)))
    message = b""
    for key in keys:
        head.Clear()
        head.parameters[key].CopyFrom(typed.parameters[key])
        message += head.SerializeToString()
    return message + bytes(rest.SerializeToString())


def texts(raw: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return found


@pytest.mark.parametrize(
    "inputs",
    [
        [floats(1.0)],
        [floats(*range(MOST_ROWS + 1))],
        [tensor_of("x", "FP32", (), [1.0])],
        [tensor_of("x", "FP32", (0, 2), [])],
        [floats(1.0, 2.0), tensor_of("y", "FP32", (3,), [1.0, 2.0, 3.0])],
        [floats(1.0, 2.0), tensor_of("y", "FP32", (), [1.0])],
        [tensor_of("y", "FP32", (), [1.0]), floats(1.0, 2.0)],
    ],
)
def test_what_has_no_rows(inputs: list[Tensor]) -> None:
    assert split_batch(batch_of(*inputs), SECRET) is None


def test_a_request_without_inputs_has_no_rows() -> None:
    assert split_batch(parse_request(b"m", b"", b'{"inputs":[]}', -1), SECRET) is None


def test_as_many_rows_as_may_be() -> None:
    rows = split_batch(batch_of(floats(*range(MOST_ROWS))), SECRET)
    assert len(set(row_keys(rows))) == MOST_ROWS
    equal = split_batch(batch_of(floats(*[1.0] * MOST_ROWS)), SECRET)
    assert {first for _, first in row_keys(equal)} == {0}
    hostile = tensor_of("x", "FP32", (1 << 40, 0), [])
    assert split_batch(batch_of(hostile), SECRET) is None


def test_a_batch_of_which_nothing_is_known_goes_as_it_came() -> None:
    request = batch_of(floats(1.0, 2.0, 3.0))
    assert ask_rows(split_batch(request, SECRET), {}) is request


def test_large_rows_are_not_copied() -> None:
    """A part for each piece of the batch that lies together, between them what was made for this message."""
    values = np.arange(10 * 300, dtype=np.float32)
    request = batch_of(tensor_of("x", "FP32", (10, 300), values.tolist()))
    rows = split_batch(request, SECRET)
    keys = [key for key, _ in row_keys(rows)]
    stored = {
        keys[row]: bytes(
            answer_to(
                batch_of(tensor_of("x", "FP32", (1, 300), values[row * 300 : row * 300 + 300].tolist()))
            ).SerializeToString()
        )
        for row in (0, 4, 5)
    }
    asked = ask_rows(rows, stored)
    assert asked.part_sizes()[1:] == [3 * 1200, 4 * 1200]
    many = np.arange(MOST_ROWS * 300, dtype=np.float32)
    request = batch_of(tensor_of("x", "FP32", (MOST_ROWS, 300), many.tolist()))
    rows = split_batch(request, SECRET)
    stored = {
        key: store_form_bytes(b"") for key, _ in row_keys(rows)
    }  # empty: none of these is an answer, so all are asked for
    assert ask_rows(rows, stored) is request
    keys = [key for key, _ in row_keys(rows)]
    alone = batch_of(tensor_of("x", "FP32", (1, 300), many[:300].tolist()))
    stored = {keys[row]: bytes(answer_to(alone).SerializeToString()) for row in range(0, MOST_ROWS, 2)}
    asked = ask_rows(rows, stored)
    # 512 pieces would be 1025 parts, more than the kernel takes at once.
    assert len(asked.part_sizes()) == 1
    left = many.reshape(MOST_ROWS, 300)[1::2]
    assert ModelInferRequest.FromString(asked.message()).raw_input_contents[0] == left.tobytes()


def answer(*values: float, **other: Any) -> ModelInferResponse:
    made = ModelInferResponse(model_name="m", model_version=other.get("version", "1"))
    shape = other.get("shape", (len(values), 1))
    made.outputs.add(name=other.get("name", "y"), datatype=other.get("datatype", "FP32"), shape=shape)
    made.raw_output_contents.append(np.array(values, "<f4").tobytes())
    return made


# Answers to two rows that do not go with ANSWER, the answer to one.
ANSWER = answer(10.0)
OTHERS = {
    "version": answer(20.0, 30.0, version="2"),
    "name": answer(20.0, 30.0, name="z"),
    "datatype": answer(20.0, 30.0, datatype="INT32"),
    "rank": answer(20.0, 30.0, shape=(2,)),
    "dimension": answer(20.0, 30.0, 1.0, 2.0, shape=(2, 2)),
    "rows": answer(20.0),
    "more rows": answer(20.0, 30.0, 40.0),
    "no rows": answer(20.0, shape=()),
    "no output": ModelInferResponse(model_name="m", model_version="1"),
    "short": answer(20.0, shape=(2, 1)),
}
more = answer(20.0, 30.0)
more.raw_output_contents.append(b"")
OTHERS["one raw too many"] = more
said = answer(20.0, 30.0)
said.parameters["k"].bool_param = True
OTHERS["parameter"] = said
said = answer(20.0, 30.0)
said.outputs[0].parameters["k"].bool_param = True
OTHERS["parameter of an output"] = said


@pytest.mark.parametrize("what", OTHERS)
def test_answers_that_do_not_go_together(what: str) -> None:
    """The model is asked for the batch as it came, and whatever it says then is the answer."""
    request = batch_of(floats(1.0, 2.0, 3.0))
    rows = split_batch(request, SECRET)
    keys = [key for key, _ in row_keys(rows)]
    ask_rows(rows, {keys[0]: ANSWER.SerializeToString()})
    with pytest.raises(NotCombined):
        combine_rows(rows, OTHERS[what].SerializeToString())
    assert ask_rows(rows, {}, True) is request
    whole, answers = combine_rows(rows, answer(10.0, 20.0, 30.0).SerializeToString())
    assert ModelInferResponse.FromString(whole) == answer(10.0, 20.0, 30.0)
    assert ModelInferResponse.FromString(answers[1]) == answer(20.0)


def test_stored_answers_that_do_not_go_together_are_asked_for_anew() -> None:
    """The first that is found counts; the answer is of one version in the end."""
    request = batch_of(floats(1.0, 2.0, 3.0, 4.0))
    rows = split_batch(request, SECRET)
    keys = [key for key, _ in row_keys(rows)]
    stored = {
        keys[0]: answer(10.0).SerializeToString(),
        keys[1]: answer(21.0, version="2").SerializeToString(),
        keys[2]: answer(30.0).SerializeToString(),
    }
    asked = ModelInferRequest.FromString(ask_rows(rows, stored).message())
    assert asked.raw_input_contents[0] == np.array([2.0, 4.0], "<f4").tobytes()
    whole, _ = combine_rows(rows, answer(20.0, 40.0).SerializeToString())
    assert ModelInferResponse.FromString(whole) == answer(10.0, 20.0, 30.0, 40.0)


def test_rows_with_answers_of_different_lengths() -> None:
    """Text has a length of its own; a tensor of another width does not go with the rest."""
    request = batch_of(tensor_of("x", "BYTES", (3, 2), ["a", "", "bcd", "e", "", "é"]))
    rows = split_batch(request, SECRET)
    keys = [key for key, _ in row_keys(rows)]
    alone = answer_to(batch_of(tensor_of("x", "BYTES", (1, 2), ["bcd", "e"])))
    reply = answer_to(ask_rows(rows, {keys[1]: alone.SerializeToString()}))
    whole, _ = combine_rows(rows, reply.SerializeToString())
    expected = answer_to(request)
    assert ModelInferResponse.FromString(whole) == expected


@pytest.mark.parametrize("seed", range(4))
def test_damaged_answers(seed: int) -> None:
    """They are refused, or read as what they now say: an answer for as many rows as the batch has."""
    random_ = random.Random(seed)
    inputs = [
        tensor_of("x", "FP32", (3, 2), [float(i) for i in range(6)]),
        tensor_of("t", "BYTES", (3, 2), ["ab", "", "c", "é", "f", "g"]),
    ]
    request = batch_of(*inputs)
    rows = split_batch(request, SECRET)
    keys = [key for key, _ in row_keys(rows)]
    good = answer_to(batch_of(*[rows_of(one, [1]) for one in inputs])).SerializeToString()
    taken = 0
    for _ in range(4000):
        stored = {keys[1]: damaged(good, random_)}
        asked = ask_rows(rows, stored)
        reply = answer_to(asked).SerializeToString()
        try:
            whole, answers = combine_rows(rows, damaged(reply, random_) if random_.random() < 0.8 else reply)
        except NotCombined:
            continue
        # What names and parameters hold is looked at as the client's answer is made.
        if (wrong := refusal(request, whole)) is not None:
            assert "UTF-8" in wrong or "parameter" in wrong
            continue
        taken += 1
        found = ModelInferResponse.FromString(whole)
        assert {output.shape[0] for output in found.outputs} == {3}
        assert len(found.outputs) == len(found.raw_output_contents)
        for message in answers.values():
            assert {output.shape[0] for output in ModelInferResponse.FromString(message).outputs} == {1}
    assert 100 < taken < 4000


def refusal(request: InferRequest, message: bytes) -> str | None:
    try:
        render_bytes(request, message)
    except TidegateError as error:
        return str(error)
    return None


def damaged(message: bytes, random_: random.Random) -> bytes:
    made = bytearray(message)
    for _ in range(random_.randint(0, 2)):
        at = random_.randrange(len(made))
        kind = random_.randrange(3)
        if kind == 0:
            made[at] = random_.randrange(256)
        elif kind == 1:
            del made[at : at + random_.randint(1, 6)]
        else:
            made[at:at] = made[random_.randrange(len(made)) :][:8]
    return bytes(made) or b"\0"


def test_json_and_binary_batches_have_the_same_rows() -> None:
    text = json.dumps({"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1.0, 2.0]}]}).encode()
    assert row_keys(split_batch(parse_request(b"m", b"", text, -1), SECRET)) == row_keys(
        split_batch(batch_of(floats(1.0, 2.0)), SECRET)
    )
