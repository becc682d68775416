"""The Open Inference Protocol: requests to gRPC messages, answers back, and the target of a request."""

from __future__ import annotations

from importlib import import_module

from pytest_benchmark.fixture import BenchmarkFixture

from bench.guard.inference import TARGET, answer_message, binary_body, floats, json_body
from lb.wire.grpc_service_pb2 import ModelInferRequest

_codec = import_module("compiled.inference")  # of tests/compiled, which pytest finds by its pythonpath


def to_message(body: bytes, json_length: int) -> bytes:
    message: bytes = _codec.parse_request(b"stub", b"", body, json_length).message()
    return message


def test_json_request_again(benchmark: BenchmarkFixture) -> None:
    """The same body again: the codec remembers it."""
    check_request(benchmark(to_message, json_body(700), -1), 89)


def test_json_request_new(benchmark: BenchmarkFixture) -> None:
    """Every body has another first number, and more of them than the codec remembers."""
    head, mark, rest = json_body(700).partition(b'"data":[')
    bodies = [b"%s%s0.%04d%s" % (head, mark, number, rest[6:]) for number in range(2000)]
    position = 0

    def parse() -> bytes:
        nonlocal position
        position = (position + 1) % len(bodies)
        return to_message(bodies[position], -1)

    check_request(benchmark(parse), 89)


def test_binary_request(benchmark: BenchmarkFixture) -> None:
    body, length = binary_body(4096)
    message = benchmark(to_message, body, length)
    check_request(message, 1024)
    assert ModelInferRequest.FromString(message).raw_input_contents[0] == floats(1024, 1)


def check_request(message: bytes, values: int) -> None:
    parsed = ModelInferRequest.FromString(message)
    assert (parsed.model_name, parsed.inputs[0].name) == ("stub", "INPUT0")
    assert [len(raw) for raw in parsed.raw_input_contents] == [4 * values]


def test_json_answer(benchmark: BenchmarkFixture) -> None:
    request = _codec.parse_request(b"stub", b"", json_body(700))
    body, json_length = benchmark(_codec.render_bytes, request, answer_message(64))
    assert body.count(b"0.") == 16  # numbers below 1
    assert json_length == -1


def test_binary_answer(benchmark: BenchmarkFixture) -> None:
    request = _codec.parse_request(b"stub", b"", *binary_body(4096))
    body, json_length = benchmark(_codec.render_bytes, request, answer_message(4096))
    assert body[json_length:] == floats(1024, 3)


def test_target(benchmark: BenchmarkFixture) -> None:
    assert benchmark(_codec.infer_target, TARGET.encode()) == (b"stub", b"")
