"""Inferences by model, as the daemon counts them: over gRPC and REST, with answers, failures and refusals."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from infer_site import Held, gate_to
from oip_site import ModelServer, ask, echo, failing, plain

from lb.control.counters import read
from lb.shared.words import MODEL
from lb.telemetry.series import Series
from lb.wire import grpc_service_pb2 as wire

SERVICE = "/inference.GRPCInferenceService"
REASONS = {
    "INVALID_ARGUMENT": "client_error", "NOT_FOUND": "client_error", "RESOURCE_EXHAUSTED": "refused",
    "DEADLINE_EXCEEDED": "timeout", "UNAVAILABLE": "server_error", "INTERNAL": "server_error",
}  # fmt: skip


def models(gate: Gate) -> dict[str, Series]:
    """Those that have counted anything."""
    rows = read(gate.plan, gate.segment).get(MODEL, {})
    return {model: series for (_, model), series in rows.items() if series["requests"]}


def failures(series: Series) -> dict[str, int]:
    return {reason: n for reason, n in series.values("failures").items() if n}


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.proxy.busy() == 0, "something is left")


async def infer(gate: Gate, model: str, timeout: float | None = None) -> grpc.StatusCode:
    message = wire.ModelInferRequest(model_name=model).SerializeToString()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        try:
            await channel.unary_unary(f"{SERVICE}/ModelInfer")(message, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def by_name(sent: Any, context: grpc.aio.ServicerContext) -> Any:
    """Fails with the status that the model is called after; "m" answers."""
    code = getattr(grpc.StatusCode, sent.model_name, None)
    return echo(sent, context) if code is None else failing(code, "no")(sent, context)


@pytest.mark.parametrize("protocol", ["oip", "grpc", "http2"])
async def test_calls_by_model_and_status(site: Site, protocol: str) -> None:
    gate = await gate_to(site, ModelServer(by_name), pool={"protocol": protocol})
    assert [await infer(gate, "m") for _ in range(3)] == [grpc.StatusCode.OK] * 3
    assert await infer(gate, "n") == grpc.StatusCode.OK
    await idle(gate)
    found = models(gate)
    assert {name: series["requests"] for name, series in found.items()} == {"m": 3, "n": 1}
    assert found["m"]["grpc.OK"] == found["m"]["requests.2xx"] == found["m"]["request_duration"] == 3
    assert (found["m"]["errors"], failures(found["m"])) == (0, {})
    assert found["m"]["received_bytes"] > 0 < found["m"]["sent_bytes"]


async def test_failures_by_reason_of_a_model_that_exists(site: Site) -> None:
    server = ModelServer(echo)
    gate = await gate_to(site, server)
    await infer(gate, "m")
    for code, reason in REASONS.items():
        before = failures(models(gate)["m"]).get(reason, 0)
        server.behave = failing(getattr(grpc.StatusCode, code), "no")
        assert (await infer(gate, "m")).name == code
        await idle(gate)
        assert failures(models(gate)["m"])[reason] == before + 1, code
    m = models(gate)["m"]
    assert m["grpc"] == m["requests"] == 1 + len(REASONS)
    assert m["errors"] == 3, "a deadline counts as 5xx does"
    assert set(models(gate)) == {"m"}


async def test_rest_has_the_same_series(site: Site) -> None:
    server = ModelServer(echo)
    gate = await gate_to(site, server)
    assert (await ask(gate, plain())).status == 200
    assert (await ask(gate, plain(), path="/v2/models/a%20b/versions/3/infer")).status == 200
    assert (await ask(gate, b"{")).status == 400
    server.behave = failing(grpc.StatusCode.UNAVAILABLE, "no")
    assert (await ask(gate, plain())).status == 503
    await infer(gate, "m")
    assert (await ask(gate, path="/v2/models/m", method="GET")).status >= 400  # no inference
    await idle(gate)
    found = models(gate)
    assert set(found) == {"m", "a b"}
    m = found["m"]
    assert [m[f"requests.{code}"] for code in ("2xx", "4xx", "5xx")] == [2, 1, 1], "that of a call is always 200"
    assert failures(m) == {"client_error": 1, "server_error": 2}
    assert (m["errors"], m["grpc.Unavailable"]) == (2, 1)


async def test_names_that_never_answered_are_counted_together(site: Site) -> None:
    gate = await gate_to(site, ModelServer(failing(grpc.StatusCode.NOT_FOUND, "there is no such model")))
    for i in range(20):
        await infer(gate, f"forged-{i}")
        await ask(gate, plain(), path=f"/v2/models/forged-rest-{i}/infer")
    await idle(gate)
    assert {name: series["requests"] for name, series in models(gate).items()} == {"other": 40}


async def test_rest_past_the_codec_goes_by_the_path(site: Site) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = b"429 Slow Down" if b"/busy/" in head and b"again" in head else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    gate = await site.gate([await site.endpoint(answers)])
    for path in ("m/infer", "m/versions/2/infer", "busy/infer", "busy/infer?again", "m/stats", "%zz/infer"):
        await ask(gate, path=f"/v2/models/{path}")
    await ask(gate, path="/v2/models/m/infer", method="GET")
    await idle(gate)
    found = models(gate)
    assert {name: series["requests"] for name, series in found.items()} == {"m": 2, "busy": 2, "other": 1}
    busy = found["busy"]
    assert (busy["requests.2xx"], busy["requests.4xx"], busy["requests.429"]) == (1, 0, 1)
    assert (failures(busy), busy["errors"]) == ({"refused": 1}, 0)
    route = gate.total(gate.plan.listeners[0].routes[0].series)
    assert (route["requests.429"], route["requests.4xx"]) == (1, 0)


async def test_who_is_refused_late_or_gone_is_counted_for_the_model(site: Site) -> None:
    server = Held()
    server.release.set()
    gate = await gate_to(site, server)
    await infer(gate, "m")
    server.release.clear()
    assert await infer(gate, "m", 0.2) == grpc.StatusCode.DEADLINE_EXCEEDED
    await idle(gate)
    late = failures(models(gate)["m"])
    assert sum(late.values()) == 1
    assert set(late) <= {"timeout", "aborted"}, "whichever of client and daemon sees it first"
    call = asyncio.create_task(infer(gate, "m"))
    await settle(lambda: gate.in_flight() == 1, "nothing is asked")
    call.cancel()
    await settle(lambda: failures(models(gate)["m"]).get("aborted", 0) > late.get("aborted", 0), "it is not counted")
    server.release.set()
    for endpoint in gate.plan.pools[0].endpoints:
        gate.segment.set_health(endpoint.slot, False, 0)
    assert await infer(gate, "m") == grpc.StatusCode.UNAVAILABLE
    assert (await ask(gate, plain())).status == 503
    await idle(gate)
    found = models(gate)
    refused = {name: failures(series).get("refused", 0) for name, series in found.items()}
    assert refused in ({"m": 2}, {"m": 1, "other": 1}), "the head of a call may be refused before its message comes"


async def test_what_the_cache_answers_is_counted(site: Site) -> None:
    gate = await gate_to(site, ModelServer(), cached=True, route={"cache": True})
    for _ in range(4):
        assert (await ask(gate, plain())).status == 200
    await idle(gate)
    m = models(gate)["m"]
    assert (m["requests"], m["cached"]) == (4, 3)
