"""Triton's trace extension, by its clients: the settings, and which inferences get spans by them."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import backend_models
import grpc
import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

import tritonclient.grpc as by_grpc
import tritonclient.grpc.aio as by_grpc_aio
import tritonclient.http as by_http
import tritonclient.http.aio as by_http_aio
from backend_process import Backend, infer_request, until
from span_collector import Collector
from tritonclient.utils import InferenceServerException

from lb.wire.services import INFERENCE, Stub

CLIENTS = {"http": by_http, "grpc": by_grpc, "http.aio": by_http_aio, "grpc.aio": by_grpc_aio}
FIRST = {"trace_level": ["TIMESTAMPS"], "trace_rate": "0", "trace_count": "-1", "trace_mode": "opentelemetry"}
CLEARED = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "log_frequency", "trace_mode"))
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


@pytest.fixture(scope="module")
def collector() -> Any:
    made = Collector()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Any:
    root = tmp_path_factory.mktemp("models")
    backend_models.scale(root, 2.0, version=1)
    backend_models.pick(root)
    with Backend(root, "--trace-endpoint", collector.url) as backend:
        yield backend.wait_ready()


class Client:
    """One of the four; what it is told is a dictionary."""

    def __init__(self, kind: str, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._module = CLIENTS[kind]
        self._address = address
        self._aio = kind.endswith("aio")

    def __call__(self, method: str, *arguments: Any, **more: Any) -> Any:
        return self._loop.run_until_complete(self._call(method, *arguments, **more))

    async def _call(self, method: str, *arguments: Any, **more: Any) -> Any:
        client = self._module.InferenceServerClient(self._address)
        try:
            found = getattr(client, method)(*arguments, **more)
            return _plain(await found if self._aio else found)
        finally:
            closed = client.close()
            if self._aio:
                await closed

    def close(self) -> None:
        self._loop.close()


def _plain(found: Any) -> dict[str, Any]:
    if isinstance(found, dict):
        return found
    texts = {name: list(one.value) for name, one in found.settings.items()}
    return {name: values if name == "trace_level" else values[0] for name, values in texts.items()}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, server: Backend) -> Any:
    made = Client(request.param, server.targets[0])
    yield made
    for model in ("scale", "pick", None):
        made("update_trace_settings", model, settings=CLEARED)
    made.close()


def test_the_settings_of_the_start(client: Client) -> None:
    assert client("get_trace_settings") == FIRST
    assert client("get_trace_settings", "scale") == FIRST
    assert client("update_trace_settings", settings={}) == FIRST


def test_settings_are_kept_and_cleared(client: Client) -> None:
    changed = {"trace_level": ["OFF"], "trace_rate": "5", "trace_count": "7"}
    assert client("update_trace_settings", settings=changed) == FIRST | changed
    assert client("get_trace_settings") == FIRST | changed
    assert client("update_trace_settings", settings={"trace_level": None}) == FIRST | changed | {
        "trace_level": ["TIMESTAMPS"]
    }
    cleared = {"trace_level": [], "trace_rate": None, "trace_count": None}
    assert client("update_trace_settings", settings=cleared) == FIRST
    ignored = {"log_frequency": "9", "trace_mode": "opentelemetry"}  # as in Triton's mode opentelemetry
    assert client("update_trace_settings", settings=ignored) == FIRST


def test_what_a_model_has_not_is_the_servers(client: Client) -> None:
    own = client("update_trace_settings", "scale", settings={"trace_rate": "3"})
    assert own == FIRST | {"trace_rate": "3"}
    assert client("get_trace_settings") == client("get_trace_settings", "pick") == FIRST
    client("update_trace_settings", settings={"trace_rate": "11", "trace_count": "8"})
    assert client("get_trace_settings", "scale") == FIRST | {"trace_rate": "3", "trace_count": "8"}
    assert client("get_trace_settings", "pick") == FIRST | {"trace_rate": "11", "trace_count": "8"}
    assert client("update_trace_settings", "scale", settings={"trace_rate": None})["trace_rate"] == "11"
    client("update_trace_settings", settings={"trace_rate": None})
    assert client("get_trace_settings", "scale")["trace_rate"] == "0"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"trace_rate": "x"}, "Unable to parse 'trace_rate', got: x"),
        ({"trace_rate": ""}, "Unable to parse 'trace_rate'"),
        ({"trace_rate": "4294967296"}, r"out of range \[ 0, 4294967295 \], got: 4294967296"),
        ({"trace_rate": "-1"}, "out of range"),
        ({"trace_rate": "٣"}, "Unable to parse"),
        ({"trace_rate": ["1", "2"]}, "expect only 1 value for 'trace_rate'"),
        ({"trace_count": "-2"}, "out of range"),
        ({"trace_count": "2147483648"}, "out of range"),
        ({"log_frequency": "often"}, "Unable to parse 'log_frequency'"),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "Expect only one trace level 'OFF' is specified"),
        ({"trace_level": ["TIMESTAMPS", "TENSORS"]}, "spans have no tensors"),
        ({"trace_level": ["MAX"]}, "unknown trace_level 'MAX'"),
        ({"trace_file": "/tmp/x"}, "trace file location can not be updated through network protocol"),
        ({"trace_mode": "triton"}, "trace_mode is 'opentelemetry'"),
        ({"trace_speed": "1"}, "unknown trace setting 'trace_speed'; expected trace_level"),
    ],
)
def test_what_is_not_honoured_is_refused(client: Client, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(InferenceServerException, match=reason):
        client("update_trace_settings", settings={"trace_level": ["OFF"], **settings})
    assert client("get_trace_settings") == FIRST  # none of it was taken


def test_models_that_are_not_there(client: Client) -> None:
    for method, more in (("get_trace_settings", {}), ("update_trace_settings", {"settings": {"trace_rate": "1"}})):
        with pytest.raises(InferenceServerException, match="Request for unknown model : none"):
            client(method, "none", **more)


def test_numbers_and_bodies_over_rest(server: Backend) -> None:
    def post(body: bytes) -> Any:
        with urllib.request.urlopen(f"http://{server.targets[0]}/v2/trace/setting", body, timeout=30) as answer:
            return json.load(answer)

    assert post(b'{"trace_rate": 5, "trace_level": "OFF"}') == FIRST | {"trace_rate": "5", "trace_level": ["OFF"]}
    assert post(b'{"trace_rate": null, "trace_level": null}') == FIRST
    for body in (b"[]", b"{", b'{"trace_rate": {}}', b'{"trace_rate": [true]}'):
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(body)
        assert refused.value.code == 400


def test_tracing_is_announced(server: Backend) -> None:
    with urllib.request.urlopen(f"http://{server.targets[0]}/v2", timeout=30) as answer:
        assert "trace" in json.load(answer)["extensions"]


# Which inferences get spans.


@pytest.fixture
def stub(server: Backend, collector: Collector) -> Any:
    made = Client("grpc", server.targets[0])
    with grpc.insecure_channel(server.targets[0]) as channel:
        collector.spans.clear()
        yield Stub(channel, INFERENCE)
    for model in ("scale", "pick", None):
        made("update_trace_settings", model, settings=CLEARED)
    made.close()


def set_traces(server: Backend, model: str | None = None, **settings: Any) -> dict[str, Any]:
    client = Client("grpc", server.targets[0])
    try:
        return client("update_trace_settings", model, settings=settings)
    finally:
        client.close()


def scaled() -> Any:
    return infer_request("scale", ("x", "FP32", np.ones((1, 2), "<f4")))


def traces_of(collector: Collector, stub: Any, *expected: str) -> list[Any]:
    """The spans of inferences that came so far, by their names: one that is asked for at last is behind them all."""
    stub.ModelInfer(scaled(), metadata=[("traceparent", f"00-{'f' * 32}-{CALLER}-01")])
    until(lambda: any(span.trace_id.hex() == "f" * 32 for span in collector.spans), "no span of the last one")
    found = [span for span in collector.spans if span.name.startswith("infer") and span.trace_id.hex() != "f" * 32]
    assert sorted(span.name for span in found) == sorted(expected)
    collector.spans.clear()
    return found


def test_one_of_so_many_and_no_more_than_the_count(server: Backend, stub: Any, collector: Collector) -> None:
    set_traces(server, trace_rate="3", trace_count="2")
    for _ in range(4):
        stub.ModelInfer(scaled())
    (one,) = traces_of(collector, stub, "infer scale")
    assert one.parent_span_id == b""
    assert any(one.trace_id)
    left = Client("http", server.targets[0])
    assert left("get_trace_settings")["trace_count"] == "1"
    for _ in range(20):
        stub.ModelInfer(scaled())
    traces_of(collector, stub, "infer scale")
    assert left("get_trace_settings", "pick")["trace_count"] == "0"
    left.close()


def test_over_rest_and_in_streams(server: Backend, stub: Any, collector: Collector) -> None:
    set_traces(server, trace_rate="2")
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
    url = f"http://{server.targets[0]}/v2/models/scale/infer"
    for _ in range(4):
        urllib.request.urlopen(url, body, timeout=30).close()
    assert len(list(stub.ModelStreamInfer(scaled() for _ in range(6)))) == 6
    assert len({span.trace_id for span in traces_of(collector, stub, *["infer scale"] * 5)}) == 5


def test_a_callers_trace_is_the_callers_choice(server: Backend, stub: Any, collector: Collector) -> None:
    set_traces(server, trace_rate="1", trace_count="1")
    for _ in range(3):
        stub.ModelInfer(scaled(), metadata=[("traceparent", UNSAMPLED)])
        stub.ModelInfer(scaled(), metadata=[("traceparent", SAMPLED)])
    spans = traces_of(collector, stub, *["infer scale"] * 3)
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    stub.ModelInfer(scaled(), metadata=[("traceparent", "00-nonsense")])
    assert traces_of(collector, stub, "infer scale")[0].parent_span_id == b""


def test_the_level_off_is_no_span_for_anyone(server: Backend, stub: Any, collector: Collector) -> None:
    unknown = infer_request("none", ("x", "FP32", np.ones((1, 2), "<f4")))
    sampled = [("traceparent", SAMPLED)]
    set_traces(server, trace_level=["OFF"], trace_rate="1")
    set_traces(server, "pick", trace_level=["TIMESTAMPS"])
    stub.ModelInfer(scaled())
    stub.ModelInfer(scaled(), metadata=sampled)
    stub.ModelInfer(infer_request("pick", ("index", "INT64", np.array([1]))))
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(unknown, metadata=sampled)
    set_traces(server, trace_level=None)
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(unknown)  # of no model: nothing is counted
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(unknown, metadata=sampled)
    traces_of(collector, stub, "infer pick", "infer")


def test_a_models_own_settings_count_for_it_alone(server: Backend, stub: Any, collector: Collector) -> None:
    set_traces(server, "scale", trace_rate="2", trace_count="1")
    pick = infer_request("pick", ("index", "INT64", np.array([1])))
    for _ in range(5):
        stub.ModelInfer(scaled())
        stub.ModelInfer(pick)
    traces_of(collector, stub, "infer scale")
    assert set_traces(server, "scale", trace_rate="1")["trace_count"] == "0"
    stub.ModelInfer(scaled())
    traces_of(collector, stub)
    set_traces(server, "scale", trace_count=None)
    stub.ModelInfer(scaled())
    traces_of(collector, stub, "infer scale")
