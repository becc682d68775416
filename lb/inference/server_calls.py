"""Server calls of the Open Inference Protocol as Triton extends it: those that change model servers, or tell of what
was changed: load and unload models, trace and log settings, shared memory.

Of a pool they concern every endpoint, so the master passes them on (lb.control.endpoints.server_calls). Here is what
they are called over gRPC and REST, and how REST's bodies become messages and the answers JSON. Clients may send them
where their route says so; `Kind` tells which.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from enum import IntFlag
from typing import Any

import orjson
from google.protobuf.message import Message
from msgspec import Struct

from lb.inference.describe import to_plain
from lb.wire import grpc_service_pb2 as wire

Body = bytes | memoryview

LARGEST_LOAD = 16 << 20  # bytes of a request of RepositoryModelLoad, which may bring files: the master keeps them
LARGEST_BODY = 64 << 10  # bytes of a body of REST for any other call: it is parsed at once
# The body of a load has its files in base64.
LARGEST_LOAD_BODY = LARGEST_LOAD * 4 // 3 + LARGEST_BODY
LOAD = re.compile("/v2/repository(?:/[^/]+)?/models/[^/]+/load")
UINT32 = 2**32
UINT64 = 2**64


class Kind(IntFlag):
    """What a route lets its clients do: the names, and their order, of lb.config.plan.routes.SERVER_CALLS."""

    NONE = 0
    MODELS = 1
    SETTINGS = 2
    SHARED_MEMORY = 4


_SHARED_MEMORY = [
    f"{memory}SharedMemory{what}" for memory in ("System", "Cuda") for what in ("Status", "Register", "Unregister")
]
# Methods of inference.GRPCInferenceService.
METHODS: dict[str, Kind] = {
    "RepositoryModelLoad": Kind.MODELS,
    "RepositoryModelUnload": Kind.MODELS,
    "TraceSetting": Kind.SETTINGS,
    "LogSettings": Kind.SETTINGS,
    **dict.fromkeys(_SHARED_MEMORY, Kind.SHARED_MEMORY),
}
_WHAT = {
    Kind.MODELS: "loading and unloading of models",
    Kind.SETTINGS: "the trace and logging extensions",
    Kind.SHARED_MEMORY: "the shared memory extensions",
}


def not_allowed(kind: Kind) -> str:
    """Why a call of `kind` is refused."""
    verb = "is" if kind is Kind.MODELS else "are"
    name = kind.name.lower() if kind.name else ""
    return f"{_WHAT[kind]} {verb} not offered to clients here: the route's server_calls do not name {name}"


class BadBody(ValueError):
    """A body of REST that is no such request; the text is for the client."""


class LargeBody(BadBody):
    """It is larger than any such request."""


class Request(Struct, frozen=True):
    """A call that REST asks for, and how its answer is shown: `show(answer)` gives a JSON value, None an empty body."""

    method: str
    message: Message
    answer: type[Message]
    show: Callable[[Any], Any]


class Place(Struct, frozen=True):
    """A path of REST: the verbs that it has, and what makes a request of verb, names in the path and body. `make`
    raises BadBody."""

    pattern: re.Pattern[str]
    kind: Kind
    verbs: tuple[str, ...]
    make: Callable[[str, dict[str, str], Body], Request]


def place_of(path: str) -> tuple[Place, re.Match[str]] | None:
    """The place that a percent-encoded path without a query is about."""
    for place in PLACES:
        match = place.pattern.fullmatch(path)
        if match is not None:
            return place, match
    return None


def options_of(body: Body, most: int = LARGEST_BODY) -> dict[str, Any]:
    """The JSON object of a body of at most `most` bytes; an empty one has none. Raises BadBody."""
    if len(body) > most:
        raise LargeBody(f"the body of this request has at most {most} bytes")
    if len(body) <= LARGEST_BODY and not bytes(body).strip():
        return {}
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise BadBody(f"the request is not valid JSON: {problem}") from None
    if not isinstance(found, dict):
        raise BadBody("the request must be a JSON object")
    return found


def _integer(options: dict[str, Any], name: str, most: int, default: int | None = None) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < most:
        raise BadBody(f"the request's '{name}' must be an integer from 0 to {most - 1}")
    return value


def _nothing(_: Any) -> None:
    return None


# Models.


def _repository(method: str, request: Any, answer: type[Message]) -> Callable[[str, dict[str, str], Body], Request]:
    def make(_: str, names: dict[str, str], body: Body) -> Request:
        most = LARGEST_LOAD_BODY if method == "RepositoryModelLoad" else LARGEST_BODY
        parameters = options_of(body, most).get("parameters", {})
        if not isinstance(parameters, dict):
            raise BadBody("the request's 'parameters' must be an object")
        message = request(repository_name=names["repository"], model_name=names["model"])
        for name, value in parameters.items():
            _set_parameter(message.parameters[name], name, value)
        return Request(method, message, answer, _nothing)

    return make


def _set_parameter(parameter: Any, name: str, value: Any) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int) and -(2**63) <= value < 2**63:
        parameter.int64_param = value
    elif isinstance(value, str) and name.startswith("file:"):
        try:
            parameter.bytes_param = binascii.a2b_base64(value, strict_mode=True)
        except ValueError:  # of binascii, or of characters beyond ASCII
            raise BadBody(f"parameter '{name}' is not in base64") from None
    elif isinstance(value, str):
        parameter.string_param = value
    elif isinstance(value, dict) and name == "config":  # as some clients write it: Triton's own is a string
        parameter.string_param = orjson.dumps(value).decode()
    else:
        raise BadBody(f"parameter '{name}' must be a boolean, a 64-bit integer or a string")


# Settings.


def _trace(verb: str, names: dict[str, str], body: Body) -> Request:
    message = wire.TraceSettingRequest(model_name=names.get("model", ""))
    for name, value in (options_of(body) if verb == "POST" else {}).items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in values):
            raise BadBody(f"setting '{name}' must be a string, an array of strings, or null, which clears it")
        message.settings[name].value.extend(str(each) for each in values)
    return Request("TraceSetting", message, wire.TraceSettingResponse, _shown_trace)


def _shown_trace(answer: Any) -> Any:
    """As Triton: the levels are an array, everything else is one text."""
    shown = {}
    for name in sorted(answer.settings):
        values = list(answer.settings[name].value)
        shown[name] = values if name == "trace_level" or len(values) != 1 else values[0]
    return shown


def _logging(verb: str, _: dict[str, str], body: Body) -> Request:
    message = wire.LogSettingsRequest()
    for name, value in (options_of(body) if verb == "POST" else {}).items():
        setting = message.settings[name]
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int) and 0 <= value < UINT32:
            setting.uint32_param = value
        elif isinstance(value, str):
            setting.string_param = value
        else:
            raise BadBody(f"setting '{name}' must be a boolean, an integer of 32 bits or a string")
    return Request("LogSettings", message, wire.LogSettingsResponse, _shown_log)


def _shown_log(answer: Any) -> Any:
    shown = {}
    for name in sorted(answer.settings):
        chosen = answer.settings[name].WhichOneof("parameter_choice")
        shown[name] = None if chosen is None else getattr(answer.settings[name], chosen)
    return shown


# Shared memory.


def _regions(answer: Any) -> Any:
    return [to_plain(answer.regions[name]) for name in sorted(answer.regions)]


def _status(memory: str, request: Any, answer: type[Message]) -> Callable[[str, dict[str, str], Body], Request]:
    def make(_: str, names: dict[str, str], __: Body) -> Request:
        return Request(f"{memory}SharedMemoryStatus", request(name=names["region"]), answer, _regions)

    return make


def _unregister(memory: str, request: Any, answer: type[Message]) -> Callable[[str, dict[str, str], Body], Request]:
    def make(_: str, names: dict[str, str], __: Body) -> Request:
        return Request(f"{memory}SharedMemoryUnregister", request(name=names["region"]), answer, _nothing)

    return make


def _register_system(_: str, names: dict[str, str], body: Body) -> Request:
    options = options_of(body)
    key = options.get("key")
    if not isinstance(key, str):
        raise BadBody("the request's 'key' must be a string, the name of a shared memory object")
    message = wire.SystemSharedMemoryRegisterRequest(
        name=names["region"],
        key=key,
        offset=_integer(options, "offset", UINT64, 0),
        byte_size=_integer(options, "byte_size", UINT64),
    )
    return Request("SystemSharedMemoryRegister", message, wire.SystemSharedMemoryRegisterResponse, _nothing)


def _register_cuda(_: str, names: dict[str, str], body: Body) -> Request:
    options = options_of(body)
    handle = options.get("raw_handle")
    try:
        raw = binascii.a2b_base64(handle["b64"], strict_mode=True) if isinstance(handle, dict) else None
    except (KeyError, TypeError, ValueError):
        raw = None
    if raw is None:
        raise BadBody("the request's 'raw_handle' must be an object whose 'b64' is a handle in base64")
    message = wire.CudaSharedMemoryRegisterRequest(
        name=names["region"],
        raw_handle=raw,
        device_id=_integer(options, "device_id", UINT32),
        byte_size=_integer(options, "byte_size", UINT64),
    )
    return Request("CudaSharedMemoryRegister", message, wire.CudaSharedMemoryRegisterResponse, _nothing)


_MODEL = "(?P<model>[^/]+)"
_CHANGE = rf"/v2/repository(?:/(?P<repository>[^/]+))?/models/{_MODEL}"
_REGION = "(?:/region/(?P<region>[^/]+))?"
_BOTH = ("GET", "POST")

PLACES: tuple[Place, ...] = (
    Place(
        re.compile(f"{_CHANGE}/load"),
        Kind.MODELS,
        ("POST",),
        _repository("RepositoryModelLoad", wire.RepositoryModelLoadRequest, wire.RepositoryModelLoadResponse),
    ),
    Place(
        re.compile(f"{_CHANGE}/unload"),
        Kind.MODELS,
        ("POST",),
        _repository("RepositoryModelUnload", wire.RepositoryModelUnloadRequest, wire.RepositoryModelUnloadResponse),
    ),
    Place(re.compile("/v2/trace/setting"), Kind.SETTINGS, _BOTH, _trace),
    Place(re.compile(rf"/v2/models/{_MODEL}/trace/setting"), Kind.SETTINGS, _BOTH, _trace),
    Place(re.compile("/v2/logging"), Kind.SETTINGS, _BOTH, _logging),
    Place(
        re.compile(f"/v2/systemsharedmemory{_REGION}/status"),
        Kind.SHARED_MEMORY,
        ("GET",),
        _status("System", wire.SystemSharedMemoryStatusRequest, wire.SystemSharedMemoryStatusResponse),
    ),
    Place(
        re.compile("/v2/systemsharedmemory/region/(?P<region>[^/]+)/register"),
        Kind.SHARED_MEMORY,
        ("POST",),
        _register_system,
    ),
    Place(
        re.compile(f"/v2/systemsharedmemory{_REGION}/unregister"),
        Kind.SHARED_MEMORY,
        ("POST",),
        _unregister("System", wire.SystemSharedMemoryUnregisterRequest, wire.SystemSharedMemoryUnregisterResponse),
    ),
    Place(
        re.compile(f"/v2/cudasharedmemory{_REGION}/status"),
        Kind.SHARED_MEMORY,
        ("GET",),
        _status("Cuda", wire.CudaSharedMemoryStatusRequest, wire.CudaSharedMemoryStatusResponse),
    ),
    Place(
        re.compile("/v2/cudasharedmemory/region/(?P<region>[^/]+)/register"),
        Kind.SHARED_MEMORY,
        ("POST",),
        _register_cuda,
    ),
    Place(
        re.compile(f"/v2/cudasharedmemory{_REGION}/unregister"),
        Kind.SHARED_MEMORY,
        ("POST",),
        _unregister("Cuda", wire.CudaSharedMemoryUnregisterRequest, wire.CudaSharedMemoryUnregisterResponse),
    ),
)
