"""What is remembered of server calls: the last about each thing, in bounds."""

from __future__ import annotations

from typing import Any

import pytest

from lb.control.endpoints import kept_calls
from lb.control.endpoints.kept_calls import Call, KeptCalls, read_call
from lb.wire import grpc_service_pb2 as wire


def call(method: str, **fields: Any) -> Call:
    return read_call(method, getattr(wire, f"{method}Request")(**fields).SerializeToString())


def load(model: str, **parameters: Any) -> Call:
    made = {name: wire.ModelRepositoryParameter(**value) for name, value in parameters.items()}
    return call("RepositoryModelLoad", model_name=model, parameters=made)


def test_the_last_call_about_a_model_stands() -> None:
    kept = KeptCalls()
    first = kept.take(load("a"))
    kept.take(load("b"))
    last = kept.take(call("RepositoryModelUnload", model_name="a"))
    assert last.number > first.number
    assert [kept.get(key).call.method for key in kept] == ["RepositoryModelLoad", "RepositoryModelUnload"]  # type: ignore[union-attr]


def test_settings_are_merged() -> None:
    kept = KeptCalls()
    value = wire.TraceSettingRequest.SettingValue
    kept.take(call("TraceSetting", settings={"a": value(value=["1"]), "b": value(value=["1"])}))
    kept.take(call("TraceSetting", model_name="m", settings={"a": value(value=["9"])}))
    kept.take(call("TraceSetting", settings={"a": value(value=["2"])}))
    found = {key: kept.get(key) for key in kept}
    merged = found["trace", ""]
    assert merged is not None
    assert {name: list(v.value) for name, v in merged.call.message.settings.items()} == {"a": ["2"], "b": ["1"]}
    assert ("trace", "m") in found


def test_models_are_told_before_their_settings() -> None:
    kept = KeptCalls()
    for name in ("a", "b"):
        kept.take(call("TraceSetting", model_name=name, settings={"c": wire.TraceSettingRequest.SettingValue()}))
        kept.take(load(name))
    assert list(kept) == [("model", "a"), ("model", "b"), ("trace", "a"), ("trace", "b")]


@pytest.mark.parametrize("memory", ["System", "Cuda"])
def test_regions_that_are_unregistered_are_forgotten(memory: str) -> None:
    kept = KeptCalls()
    other = "Cuda" if memory == "System" else "System"
    for name in ("r", "s", "t"):
        kept.take(call(f"{memory}SharedMemoryRegister", name=name))
    kept.take(call(f"{other}SharedMemoryRegister", name="r"))
    kept.take(call(f"{memory}SharedMemoryUnregister", name="r"))
    assert list(kept) == [(memory, "s"), (memory, "t"), (other, "r")]
    kept.take(call(f"{memory}SharedMemoryUnregister"))
    assert list(kept) == [(other, "r")]


def test_what_only_reads() -> None:
    assert call("LogSettings").reads
    assert call("TraceSetting", model_name="m").reads
    assert call("SystemSharedMemoryStatus").reads
    assert not load("m").reads


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_calls, "MOST_CALLS", 2)
    monkeypatch.setattr(kept_calls, "MOST_BYTES", 1000)
    kept = KeptCalls()
    kept.take(load("a"))
    kept.take(load("b"))
    assert not kept.has_room(load("c"))
    assert kept.has_room(load("b", config={"string_param": "x" * 900}))
    assert not kept.has_room(load("b", config={"string_param": "x" * 1000}))
