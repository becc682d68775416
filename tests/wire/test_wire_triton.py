"""The service is Triton's: the same calls, and the same fields under the same numbers, as its client has them."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc import service_pb2 as theirs

from lb.wire import grpc_service_pb2 as ours

BEYOND = {("ModelMetadata", "output_type"): {6}}  # `properties`, of the Open Inference Protocol itself
SERVICE = "GRPCInferenceService"
METHODS = {method.name: method for method in theirs.DESCRIPTOR.services_by_name[SERVICE].methods}


def shape(message: Any, seen: frozenset[str] = frozenset()) -> dict[int, Any]:
    """Fields by their numbers: name, type, and what they are made of."""
    found = {}
    for field in message.fields:
        inner = field.message_type
        known = inner is not None and inner.full_name not in seen
        found[field.number] = (
            field.name,
            field.type,
            field.is_repeated,
            shape(inner, seen | {inner.full_name}) if known else None,
        )
    return found


def test_the_calls_are_the_same() -> None:
    mine = {method.name: method for method in ours.DESCRIPTOR.services_by_name[SERVICE].methods}
    assert mine.keys() == METHODS.keys()
    assert len(mine) == 20
    for name, method in METHODS.items():
        assert (mine[name].client_streaming, mine[name].server_streaming) == (
            method.client_streaming,
            method.server_streaming,
        )


@pytest.mark.parametrize("kind", ["input_type", "output_type"])
@pytest.mark.parametrize("name", METHODS)
def test_fields_have_the_same_numbers(name: str, kind: str) -> None:
    mine = {method.name: method for method in ours.DESCRIPTOR.services_by_name[SERVICE].methods}[name]
    known, here = shape(getattr(METHODS[name], kind)), shape(getattr(mine, kind))
    assert here.keys() - BEYOND.get((name, kind), set()) == known.keys()
    for number in known:
        assert known[number][:3] == here[number][:3]
