"""When clients that are refused may come again, in the words of each protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from compiled.exchange import told_again
from datapath import Site, settle
from google.rpc import error_details_pb2, status_pb2
from msgspec.structs import replace
from oip_site import OIP, plain
from oip_site import ask as ask_model
from queue_site import QUEUE
from test_queue_inference import HeldModel

SECOND = 1_000_000_000


async def refused(gate: Any) -> dict[str, Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", timeout=20)
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    told = dict(failure.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(told["grpc-status-details-bin"])
    assert (status.code, status.message) == (14, failure.value.details())
    return {**told, "info": status}


def delay_of(status: Any) -> int:
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    return int(info.retry_delay.ToNanoseconds())


async def test_grpc_clients_are_told_in_their_own_ways(site: Site) -> None:
    model = HeldModel()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": replace(QUEUE, max=0)})
    first = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: model.active == 1, "it does not get there")
    told = await refused(gate)
    assert told["retry-after"] == "1"
    assert 500 <= int(told["grpc-retry-pushback-ms"]) <= 750
    assert 0 <= int(told["grpc-retry-pushback-ms"]) - delay_of(told["info"]) / 1e6 < 1
    model.turns.release()
    assert (await first).status == 200


async def test_where_there_is_no_endpoint_too(site: Site) -> None:
    gate = await site.gate(["127.0.0.1:1"], pool=OIP)
    gate.segment.set_health(gate.plan.pools[0].endpoints[0].slot, False, 1)
    told = await refused(gate)
    assert int(told["grpc-retry-pushback-ms"]) >= 500


def told(after: int, status: int = 503, speaks: int = 1) -> dict[str, str]:
    lines = told_again(status, "busy", speaks, after).decode().splitlines()
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def test_by_the_forecast_and_not_all_together() -> None:
    times = {int(told(4 * SECOND)["grpc-retry-pushback-ms"]) for _ in range(200)}
    assert min(times) >= 4000
    assert max(times) <= 6000
    assert len(times) > 100


@pytest.mark.parametrize("after", [1, 999_999, 127_000_000_000, 3600 * SECOND])
def test_any_time(after: int) -> None:
    told(after)
    assert int(told(after)["grpc-retry-pushback-ms"]) * 1e6 >= after


def test_where_waiting_does_not_help() -> None:
    assert "grpc-retry-pushback-ms" not in told(0, status=413)
    assert "retry-after" not in told(0, status=413)
    assert "grpc-retry-pushback-ms" not in told(SECOND, speaks=0)
    assert told(0, status=429)["retry-after"] == "1"
