"""An autoscaler of Kubernetes asks: KEDA's external scaler by a real gRPC client, and external metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from lb.control.admin import external_metrics
from lb.control.engines.keda import KedaServer
from lb.wire import externalscaler_pb2 as messages
from lb.wire.services import Stub


class Pool:
    """In place of a ScaledPool."""

    def __init__(self) -> None:
        self.wanted: int | None = None
        self.is_active = False

    def advice(self) -> int | None:
        return self.wanted

    def active(self, seconds: float) -> bool:
        return self.is_active

    def busy(self) -> float:
        return 7

    def waiting(self) -> float:
        return 3


@pytest.fixture
async def scaler() -> AsyncIterator[tuple[Any, Pool]]:
    pool = Pool()
    server = KedaServer("127.0.0.1:0", {"chat": pool}.get)  # type: ignore[arg-type]
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        service = messages.DESCRIPTOR.services_by_name["ExternalScaler"]
        yield Stub(channel, service), pool
    await server.stop()


def reference(**metadata: str) -> Any:
    return messages.ScaledObjectRef(name="chat", namespace="default", scalerMetadata=metadata)


async def test_the_metric_is_the_number_itself(scaler: tuple[Any, Pool]) -> None:
    stub, pool = scaler
    spec = (await stub.GetMetricSpec(reference(pool="chat"))).metricSpecs
    assert [(s.metricName, s.targetSize, s.targetSizeFloat) for s in spec] == [("tidegate-replicas-wanted", 1, 1.0)]
    pool.wanted = 5
    for name in ("tidegate-replicas-wanted", "s0-tidegate-replicas-wanted", ""):
        request = messages.GetMetricsRequest(scaledObjectRef=reference(pool="chat"), metricName=name)
        (value,) = (await stub.GetMetrics(request)).metricValues
        assert (value.metricName, value.metricValue, value.metricValueFloat) == (
            name or "tidegate-replicas-wanted",
            5,
            5,
        )


async def test_nothing_is_said_before_there_is_a_decision(scaler: tuple[Any, Pool]) -> None:
    stub, _ = scaler
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetMetrics(messages.GetMetricsRequest(scaledObjectRef=reference(pool="chat")))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("metadata", [{}, {"pool": "other"}])
async def test_a_pool_that_is_not_there_is_said(scaler: tuple[Any, Pool], metadata: dict[str, str]) -> None:
    stub, _ = scaler
    for call in (stub.IsActive, stub.GetMetricSpec):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(reference(**metadata))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "pool" in (caught.value.details() or "")


async def test_activity_is_asked_for_and_pushed(scaler: tuple[Any, Pool]) -> None:
    stub, pool = scaler
    assert not (await stub.IsActive(reference(pool="chat"))).result
    stream = stub.StreamIsActive(reference(pool="chat"))
    assert not (await stream.read()).result
    pool.is_active = True
    assert (await stream.read()).result
    assert (await stub.IsActive(reference(pool="chat"))).result
    stream.cancel()


def test_external_metrics_have_the_form_of_the_api() -> None:
    class Engines:
        def items(self) -> list[tuple[str, Pool]]:
            return [("chat", chat), ("digits", Pool())]

    chat = Pool()
    engines: Any = Engines()
    listed = external_metrics.resources()
    assert (listed["kind"], listed["groupVersion"]) == ("APIResourceList", "external.metrics.k8s.io/v1beta1")
    assert external_metrics.values(engines, "tidegate-replicas-wanted", "pool=chat")["items"] == []
    chat.wanted = 4
    found = external_metrics.values(engines, "tidegate-replicas-wanted", "")
    assert found is not None
    assert [(i["metricLabels"], i["value"]) for i in found["items"]] == [({"pool": "chat"}, "4")]
    waiting = external_metrics.values(engines, "tidegate-requests-waiting", "pool=digits")
    assert waiting is not None
    assert [i["value"] for i in waiting["items"]] == ["3"]
    assert external_metrics.values(engines, "other", "") is None
    with pytest.raises(ValueError, match="only pool=NAME"):
        external_metrics.values(engines, "tidegate-requests", "app=x")
