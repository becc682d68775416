"""The rare routes of the Open Inference Protocol: server, model, configuration, statistics, repository index.

`route` is pure: it says which unary gRPC call answers an HTTP request and how its result becomes the HTTP answer.
Inference itself does not come here (request.pyx, response.pyx).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from google.protobuf.message import DecodeError, Message
from msgspec import Struct
from msgspec.structs import replace

from lb.failure import BY_NAME, grpc_to_http
from lb.inference import server_calls
from lb.inference.describe import to_plain
from lb.inference.server_calls import Body
from lb.wire import grpc_service_pb2 as wire

SERVICE = b"/inference.GRPCInferenceService/"
# Whose answer of a single endpoint would say nothing of the pool, or that the master makes where model servers have
# none (lb.control.endpoints.pool_calls).
WHOLE_POOL = (b"ModelStatistics", b"ModelConfig", b"ServerMetadata")
JSON = "application/json"
_UNIMPLEMENTED = 12  # of gRPC

# What every endpoint of a pool offers and works through here, too; anything else they name would not.
_PASSED_EXTENSIONS = frozenset(
    {"classification", "model_configuration", "parameters", "schedule_policy", "sequence", "statistics"}
)
_ALLOWED_EXTENSIONS = {
    "model_repository": server_calls.Kind.MODELS,
    "model_repository(unload_dependents)": server_calls.Kind.MODELS,
    "trace": server_calls.Kind.SETTINGS,
    "logging": server_calls.Kind.SETTINGS,
    "system_shared_memory": server_calls.Kind.SHARED_MEMORY,
    "cuda_shared_memory": server_calls.Kind.SHARED_MEMORY,
}
_OWN_EXTENSIONS = ("binary_tensor_data", "generate")


class Reply(Struct, frozen=True):
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = JSON
    allow: str = ""  # of an answer 405 (RFC 9110 section 15.5.6)
    failure: int = 0  # of an error, its kind (lb.failure); 0 where the protocol itself answers so


class Call(Struct, frozen=True):
    """A unary gRPC call to make; `render(grpc_status, grpc_message, reply_message)` gives the HTTP answer."""

    grpc_path: bytes
    request: bytes
    render: Callable[[int, str, bytes], Reply]
    model: str = ""  # that it is about; "" = the server as a whole
    method: bytes = b""  # of the protocol's service
    whole_pool: bool = False  # the answer is the pool's, not one endpoint's (WHOLE_POOL)
    changes: bool = False  # model servers: see lb.inference.server_calls


_MODEL = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]+))?"
_SERVER_LIVE = "/v2/health/live"
_SERVER_READY = "/v2/health/ready"
_INFER_PATH = re.compile(rf"{_MODEL}/infer")
_READY_PATH = re.compile(rf"{_MODEL}/ready")
_METADATA_PATH = re.compile(_MODEL)
_CONFIG_PATH = re.compile(rf"{_MODEL}/config")
_STATISTICS_PATH = re.compile(rf"{_MODEL}/stats")
_INDEX_PATH = re.compile(r"/v2/repository(?:/(?P<repository>[^/]+))?/index")


def error(failure: str, message: str, status: int | None = None) -> Reply:
    """A failure (its name in lb.failure) as the protocol shapes it; `status` where that is not the failure's own."""
    kind = BY_NAME[failure]
    return replace(_negative(kind.status if status is None else status, message), failure=kind.kind)


def _negative(status: int, message: str) -> Reply:
    return Reply(status, orjson.dumps({"error": message}))


def announced(extensions: Iterable[str], allowed: int, sequences: bool) -> list[str]:
    """Those of a pool's extensions that a client has, and the load balancer's own; `allowed` and `sequences` as in
    `route`."""
    found = [
        each
        for each in extensions
        if (each in _PASSED_EXTENSIONS or _ALLOWED_EXTENSIONS.get(each, 0) & allowed)
        and (sequences or each != "sequence")
    ]
    return [*_OWN_EXTENSIONS, *found]


def announce(reply: bytes, allowed: int, sequences: bool) -> bytes:
    """A ServerMetadataResponse of a pool, as a client gets it. Raises DecodeError."""
    answer: Any = wire.ServerMetadataResponse.FromString(reply)
    found = announced(answer.extensions, allowed, sequences)
    del answer.extensions[:]
    answer.extensions.extend(found)
    return bytes(answer.SerializeToString())


def route(method: str, path: str, body: Body, allowed: int = 0, sequences: bool = True) -> Call | Reply:
    """The call, or at once the answer, for an HTTP request; `path` is percent-encoded, a query is ignored. `allowed`
    has the kinds of server calls (lb.inference.server_calls.Kind) that its route lets clients make; `sequences`: those
    of stateful models are kept together.

    404 for an unknown path, which names the extension where it is one of Triton's; 405 for a wrong verb. POST to an
    inference path is a mistake of the caller: ValueError.
    """
    path = path.partition("?")[0]
    if path == "/v2/models/stats":  # before the model routes: "stats" is not a model here
        return _only("GET", method) or _statistics("", "")
    if path in ("/v2", "/v2/"):
        return _only("GET", method) or _server_metadata(allowed, sequences)
    for pattern, verb, make in _ROUTES:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        refusal = _only(verb, method)
        if refusal is not None:
            return refusal
        try:
            names = {key: unquote_to_bytes(value or "").decode() for key, value in match.groupdict().items()}
        except UnicodeDecodeError:
            return error("bad-request", "a name in the path is not UTF-8")
        return make(names, body)
    found = server_calls.place_of(path)
    if found is not None:
        return _server_call(method, *found, body, allowed)
    # A request that generates is an inference, and none of these.
    return (_only("POST", method) if _GENERATE_PATH.fullmatch(path) else None) or error("not-served", "Not Found")


def _only(verb: str, method: str) -> Reply | None:
    # HEAD asks for what GET would answer; the connection leaves the body out (RFC 9110 section 9.3.2).
    if method == verb or (method == "HEAD" and verb == "GET"):
        return None
    return replace(error("method", "Method Not Allowed"), allow="GET, HEAD" if verb == "GET" else verb)


def _call(name: bytes, request: Message, answer: type[Message], show: Callable[[Any], Reply]) -> Call:
    def render(status: int, message: str, reply: bytes) -> Reply:
        if status != 0:
            text = clearer(SERVICE + name, message) if status == _UNIMPLEMENTED else message
            text = text or f"the endpoint answered with gRPC status {status}"
            return error("model-error", text, grpc_to_http(status))
        parsed = answer()
        try:
            parsed.ParseFromString(reply)
        except DecodeError:
            return error("upstream-protocol", f"the endpoint's answer is not a {answer.DESCRIPTOR.name}")
        return show(parsed)

    # Requests about a model, and no others, name it as `name`.
    return Call(
        SERVICE + name, request.SerializeToString(), render, getattr(request, "name", ""), name, name in WHOLE_POOL
    )


def _server_call(verb: str, place: server_calls.Place, match: re.Match[str], body: Body, allowed: int) -> Call | Reply:
    if not place.kind & allowed:
        return error("single-server", server_calls.not_allowed(place.kind))
    if verb not in place.verbs and not (verb == "HEAD" and "GET" in place.verbs):
        return replace(error("method", "Method Not Allowed"), allow=", ".join(place.verbs).replace("GET", "GET, HEAD"))
    try:
        names = {key: unquote_to_bytes(value or "").decode() for key, value in match.groupdict().items()}
        made = place.make(verb, names, body)
    except UnicodeDecodeError:
        return error("bad-request", "a name in the path is not UTF-8")
    except server_calls.BadBody as problem:
        return _bad_body(problem)

    def show(answer: Any) -> Reply:
        shown = made.show(answer)
        return Reply(200, b"", "") if shown is None else _json(shown)

    call = _call(made.method.encode(), made.message, made.answer, show)
    if len(call.request) > server_calls.LARGEST_LOAD:
        text = f"a request of {made.method} has at most {server_calls.LARGEST_LOAD} bytes here"
        return error("body-too-large", text)
    return replace(call, whole_pool=True, changes=True)


def _bad_body(problem: server_calls.BadBody) -> Reply:
    return error("body-too-large" if isinstance(problem, server_calls.LargeBody) else "bad-request", str(problem))


def _json(value: Any) -> Reply:
    return Reply(200, orjson.dumps(value))


def _server_live(_: dict[str, str], __: Body) -> Call:
    def show(answer: Any) -> Reply:
        return _json({"live": True}) if answer.live else _negative(400, "Server not live")

    return _call(b"ServerLive", wire.ServerLiveRequest(), wire.ServerLiveResponse, show)


def _server_ready(_: dict[str, str], __: Body) -> Call:
    def show(answer: Any) -> Reply:
        return _json({"ready": True}) if answer.ready else _negative(400, "Server not ready")

    return _call(b"ServerReady", wire.ServerReadyRequest(), wire.ServerReadyResponse, show)


def _server_metadata(allowed: int, sequences: bool) -> Call:
    def show(answer: Any) -> Reply:
        extensions = announced(answer.extensions, allowed, sequences)
        return _json({"name": answer.name, "version": answer.version, "extensions": extensions})

    return _call(b"ServerMetadata", wire.ServerMetadataRequest(), wire.ServerMetadataResponse, show)


def _model_ready(names: dict[str, str], _: Body) -> Call:
    def show(answer: Any) -> Reply:
        if not answer.ready:
            return _negative(400, "Model version not ready")
        return _json({"name": names["model"], "ready": True})

    request = wire.ModelReadyRequest(name=names["model"], version=names["version"])
    return _call(b"ModelReady", request, wire.ModelReadyResponse, show)


def _model_metadata(names: dict[str, str], _: Body) -> Call:
    def tensors(items: Any) -> list[dict[str, Any]]:
        return [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in items]

    def show(answer: Any) -> Reply:
        plain: dict[str, Any] = {
            "name": answer.name,
            "versions": list(answer.versions),
            "platform": answer.platform,
            "inputs": tensors(answer.inputs),
            "outputs": tensors(answer.outputs),
        }
        if answer.properties:
            plain["properties"] = dict(answer.properties)
        return _json(plain)

    request = wire.ModelMetadataRequest(name=names["model"], version=names["version"])
    return _call(b"ModelMetadata", request, wire.ModelMetadataResponse, show)


def _model_config(names: dict[str, str], _: Body) -> Call:
    def show(answer: Any) -> Reply:
        return _json(to_plain(answer.config))

    request = wire.ModelConfigRequest(name=names["model"], version=names["version"])
    return _call(b"ModelConfig", request, wire.ModelConfigResponse, show)


def _statistics(model: str, version: str) -> Call:
    def show(answer: Any) -> Reply:
        # Clients subtract two of these and expect every duration to be there.
        return _json(to_plain(answer, complete=True))

    request = wire.ModelStatisticsRequest(name=model, version=version)
    return _call(b"ModelStatistics", request, wire.ModelStatisticsResponse, show)


def _model_statistics(names: dict[str, str], _: Body) -> Call:
    return _statistics(names["model"], names["version"])


def _repository_index(names: dict[str, str], body: Body) -> Call | Reply:
    try:
        ready = server_calls.options_of(body).get("ready", False)
    except server_calls.BadBody as problem:
        return _bad_body(problem)
    if not isinstance(ready, bool):
        return error("bad-request", "the request's 'ready' must be a boolean")

    def show(answer: Any) -> Reply:
        return _json(
            [{"name": m.name, "version": m.version, "state": m.state, "reason": m.reason} for m in answer.models]
        )

    request = wire.RepositoryIndexRequest(repository_name=names["repository"], ready=ready)
    return _call(b"RepositoryIndex", request, wire.RepositoryIndexResponse, show)


def _infer(_: dict[str, str], __: Body) -> Call:
    raise ValueError("inference requests are not management requests")


_ROUTES: tuple[tuple[re.Pattern[str], str, Callable[[dict[str, str], Body], Call | Reply]], ...] = (
    (re.compile(_SERVER_LIVE), "GET", _server_live),
    (re.compile(_SERVER_READY), "GET", _server_ready),
    (_READY_PATH, "GET", _model_ready),
    (_CONFIG_PATH, "GET", _model_config),
    (_STATISTICS_PATH, "GET", _model_statistics),
    (_INFER_PATH, "POST", _infer),
    (_METADATA_PATH, "GET", _model_metadata),
    (_INDEX_PATH, "POST", _repository_index),
)

_GENERATE_PATH = re.compile(rf"{_MODEL}/generate(?:_stream)?")

_SERVICE_NAME = "inference.GRPCInferenceService"
_SERVICE = f"/{_SERVICE_NAME}/"
# What is passed on, or answered for the whole pool. A model server need not have all of it.
OFFERED = (
    "ModelInfer", "ModelStreamInfer", "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata",
    "ModelConfig", "ModelStatistics", "RepositoryIndex",
)  # fmt: skip
_PASSED_ON = frozenset(SERVICE + method.encode() for method in OFFERED)
_SHOWN = 100  # characters of a name that a client made up
# What grpcio's servers say of a method that they do not have; others name it.
_SAYS_NOTHING = ("", "Method not found!")


def asks_pool(method: bytes, allowed: int) -> bool:
    """Whether a method of the protocol's service is for the whole pool, and may be called: `allowed` as in `route`."""
    return method in WHOLE_POOL or bool(server_calls.METHODS.get(method.decode("latin-1"), 0) & allowed)


def refused_call(path: bytes) -> tuple[int, str] | None:
    """Why the gRPC call `path` is not passed on to a model server, as a kind of failure (lb.failure) and a text: its
    route does not let clients make it, or the protocol has no such method. None: it is, as are calls of other
    services. Calls for the whole pool do not come here."""
    kind = server_calls.METHODS.get(path.removeprefix(SERVICE).decode("latin-1")) if path.startswith(SERVICE) else None
    if kind is not None:
        return BY_NAME["single-server"].kind, server_calls.not_allowed(kind)
    if path.startswith(SERVICE) and path not in _PASSED_ON:
        method = path.removeprefix(SERVICE).decode("utf-8", "replace")[:_SHOWN]
        return BY_NAME["not-served"].kind, f"{_SERVICE_NAME} has no method '{method}' here; it has {', '.join(OFFERED)}"
    return None


def clearer(path: bytes, message: str) -> str:
    """What a client is told of an endpoint's UNIMPLEMENTED: its own message, unless that says nothing."""
    if message not in _SAYS_NOTHING:
        return message
    service, _, method = path.decode("utf-8", "replace")[1:].rpartition("/")
    text = f"the model server has no method '{method[:_SHOWN]}' of {service[:_SHOWN]}"
    if service == _SERVICE_NAME:
        return text
    return f"{text}; offered is {_SERVICE_NAME} with {', '.join(OFFERED)}"
