"""What clients are told of calls of a whole pool that no endpoint answers: the kind of failure, no address, no path."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from lb.control.endpoints.asking import Asked
from lb.control.endpoints.inference_counts import InferenceCounts
from lb.control.endpoints.pool_calls import PoolCalls
from lb.control.endpoints.server_calls import Rules, ServerCalls


def pool_calls(endpoints: list[Asked]) -> PoolCalls:
    calls = ServerCalls(
        lambda pool: endpoints,
        lambda pool, address: None,
        lambda pool: Rules(),
        lambda pool, model: None,  # type: ignore[arg-type,return-value]
        lambda pool, withheld: None,
        lambda pool, addresses, model, ready: None,
    )
    counts = InferenceCounts(lambda pool: None, lambda pool: None)  # type: ignore[arg-type,return-value]
    return PoolCalls(lambda pool: endpoints, calls, counts)


@pytest.mark.parametrize("method", ["ModelStatistics", "ModelMetadata", "ModelConfig", "ServerMetadata"])
async def test_endpoints_that_do_not_answer(tmp_path: Path, method: str) -> None:
    calls = pool_calls([Asked(f"unix:{tmp_path}/digits-0.sock")])
    answer = await calls.answer("digits", method, b"")
    assert (answer.status, answer.message) == (grpc.StatusCode.UNAVAILABLE.value[0], "an endpoint did not answer")


async def test_a_fault_of_our_own(caplog: pytest.LogCaptureFixture) -> None:
    calls = pool_calls([None])  # type: ignore[list-item]
    answer = await calls.answer("digits", "ModelMetadata", b"")
    assert (answer.status, answer.message) == (grpc.StatusCode.INTERNAL.value[0], "internal error")
    assert "ModelMetadata was not answered" in caplog.text
