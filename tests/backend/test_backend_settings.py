"""Triton's logging and trace extensions, by its clients."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from typing import Any

import backend_models
import pytest
import tritonclient.grpc as by_grpc
import tritonclient.http as by_http
from backend_process import Backend, until
from tritonclient.utils import InferenceServerException

from backend.log_settings import LogSettings
from lb.wire import grpc_service_pb2 as wire

CLIENTS = {"http": by_http, "grpc": by_grpc}
FIRST = {
    "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
    "log_format": "default",
}  # fmt: skip


@pytest.fixture(scope="module")
def logging_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("models")
    backend_models.scale(root, 2.0, version=1)
    with Backend(root, "--model-control-mode", "explicit", "--load-model", "scale") as backend:
        yield backend.wait_ready()


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, logging_server: Any) -> Any:
    with CLIENTS[request.param].InferenceServerClient(logging_server.targets[0]) as client:
        yield client


def plain(found: Any) -> dict[str, Any]:
    """What the client of HTTP has as a dictionary, that of gRPC as a message."""
    if isinstance(found, dict):
        return found
    return {name: getattr(one, one.WhichOneof("parameter_choice")) for name, one in found.settings.items()}


def test_log_settings(client: Any, logging_server: Any) -> None:
    assert plain(client.get_log_settings()) == FIRST
    changed = {"log_info": False, "log_warning": False, "log_verbose_level": 1}
    assert plain(client.update_log_settings(changed)) == FIRST | changed
    before = logging_server.log
    client.unload_model("scale")
    client.load_model("scale")
    assert plain(client.get_log_settings()) == FIRST | changed
    assert "INFO" not in logging_server.log.removeprefix(before)
    assert plain(client.update_log_settings(FIRST)) == FIRST
    client.unload_model("scale")
    client.load_model("scale")
    until(lambda: "INFO tidegate.backend: model scale version 1" in logging_server.log.removeprefix(before), "no log")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"log_info": False, "log_file": "/tmp/x"}, "log file location can not be updated through network protocol"),
        ({"log_info": False, "log_format": "ISO8601"}, "the log has one format"),
        ({"log_info": False, "log_level": 1}, "unknown log setting 'log_level'; expected log_info"),
    ],
)
def test_what_is_not_honoured_is_refused(client: Any, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(InferenceServerException, match=reason):
        client.update_log_settings(settings)
    assert plain(client.get_log_settings()) == FIRST  # none of it was taken


def test_there_are_no_traces(client: Any) -> None:
    for ask in (
        client.get_trace_settings,
        lambda: client.get_trace_settings("scale"),
        lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "5"}),
        lambda: client.update_trace_settings("scale", settings={"trace_level": None}),
    ):
        with pytest.raises(InferenceServerException, match="the server does not support tracing"):
            ask()


def test_what_is_announced(client: Any) -> None:
    found = client.get_server_metadata()
    extensions = found["extensions"] if isinstance(found, dict) else list(found.extensions)
    assert "logging" in extensions
    assert "trace" not in extensions
    assert "model_repository" in extensions
    assert "generate" in extensions
    assert extensions.count("binary_tensor_data") == 1
    assert "system_shared_memory" in extensions


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"{", b'{"log_info": null}', b'{"log_info": 1}', b'{"log_verbose_level": -1}',
        b'{"log_verbose_level": true}',
    ],
)  # fmt: skip
def test_what_cannot_be_read(logging_server: Any, body: bytes) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{logging_server.targets[0]}/v2/logging", body, timeout=30)
    assert refused.value.code == 400
    assert json.load(refused.value)["error"]


@pytest.mark.parametrize(
    ("level", "shown"),
    [("DEBUG", "DIWE"), ("INFO", "IWE"), ("WARNING", "WE"), ("ERROR", "E")],
)
async def test_the_level_of_the_start(level: str, shown: str) -> None:
    settings = LogSettings(logging.getLevelName(level))
    records = [
        logging.LogRecord("x", number, "", 0, "", None, None)
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    ]
    assert "".join(record.levelname[0] for record in records if settings.filter(record)) == shown
    assert settings.filter(logging.LogRecord("x", logging.CRITICAL, "", 0, "", None, None))


async def test_one_kind_alone() -> None:
    root = logging.getLogger()
    before = root.level
    try:
        settings = LogSettings(logging.INFO)
        request = wire.LogSettingsRequest()
        request.settings["log_info"].bool_param = False
        request.settings["log_error"].bool_param = False
        await settings.LogSettings(request, None)
        kept = [
            number
            for number in (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
            if settings.filter(logging.LogRecord("x", number, "", 0, "", None, None))
        ]
        assert kept == [logging.WARNING]
    finally:
        root.setLevel(before)
