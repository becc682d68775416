"""The worst body of each parser: what a client, an endpoint and an operator can send, made to any size."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass

MIB = 1 << 20
JSON = "application/json"
GRPC_WEB = "application/grpc-web+proto"
INFER = "/v2/models/echo/infer"
CALL = "/inference.GRPCInferenceService/ModelInfer"
SHORT_HEAD = 56 << 10


@dataclass(frozen=True)
class Case:
    """A request that makes one parser work. `body` gives its body of about so many bytes, before any compression."""

    name: str
    body: Callable[[int], bytes]
    path: str = INFER
    media_type: str = JSON
    headers: Callable[[int], dict[str, str]] = lambda size: {}
    compressed: bool = False
    admin: bool = False  # to the admin server, which is watched then
    most: int = 64 * MIB  # bytes that the default limits let in, about
    method: str = "POST"


def repeated(head: bytes, unit: bytes, tail: bytes) -> Callable[[int], bytes]:
    """As many units as there is room for, without the last byte of the last one: a comma, mostly."""
    return lambda size: head + (unit * max(1, (size - len(head) - len(tail)) // len(unit)))[:-1] + tail


def _field(number: int, data: bytes) -> bytes:
    """A field of wire type 2."""
    length = len(data)
    out = bytearray([number << 3 | 2])
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    out.append(length)
    return bytes(out) + data


def _framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def _message(unit: bytes, head: bytes = b"", around: tuple[int, ...] = ()) -> Callable[[int], bytes]:
    """A ModelInferRequest of many units, which are within fields of the numbers `around`, the outermost first."""

    def made(size: int) -> bytes:
        data = head + unit * ((size - 64) // len(unit))
        for number in reversed(around):
            data = _field(number, data)
        return _framed(_field(1, b"echo") + data)

    return made


def _data(datatype: bytes, unit: bytes) -> Callable[[int], bytes]:
    """A request whose one tensor has a vector of many elements; the shape is right."""

    def made(size: int) -> bytes:
        count = max(1, (size - 100) // len(unit))
        head = b'{"inputs":[{"name":"x","datatype":"%s","shape":[%d],"data":[' % (datatype, count)
        return head + (unit * count)[:-1] + b"]}]}"

    return made


def _load(size: int) -> bytes:
    """A model to load with a file of its own."""
    content = base64.b64encode(b"\0" * (size * 3 // 4 - 200)).decode()
    return json.dumps({"parameters": {"config": "{}", "file:1/model.onnx": content}}).encode()


def _same(head: bytes, tail: bytes = b"") -> Callable[[int], bytes]:
    """One value that fills the body."""
    return lambda size: head + b"a" * (size - len(head) - len(tail)) + tail


def _binary_head(size: int) -> bytes:
    tensor = b'{"name":"x","datatype":"INT8","shape":[%d],"parameters":{"binary_data_size":%d}}' % (size, size)
    return b'{"inputs":[%s]}' % tensor


def _binary(size: int) -> bytes:
    return _binary_head(size - 200) + b"\1" * (size - 200)


def _json_length(size: int) -> dict[str, str]:
    return {"Inference-Header-Content-Length": str(len(_binary_head(size - 200)))}


X = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[1],"data":[1]}],'
TENSOR = b'{"name":"x","datatype":"INT8","shape":[1],"data":[1]},'
DEEP = b"[" * 60 + b"]" * 60 + b","

REST = [
    Case("OIP JSON: unknown rows, nested 60 deep", repeated(b'{"x":[', DEEP, b'],"inputs":[]}')),
    Case("OIP JSON: unknown empty objects", repeated(b'{"x":[', b"{},", b'],"inputs":[]}')),
    Case("OIP JSON: unknown strings with escapes", repeated(b'{"x":[', rb'"\u00e9\n",', b'],"inputs":[]}')),
    Case("OIP JSON: one unknown string", _same(b'{"x":"', b'","inputs":[]}')),
    Case("OIP JSON: unknown numbers", repeated(b'{"x":[', b"-1.25e-7,", b'],"inputs":[]}')),
    Case("OIP JSON: spaces", lambda size: b" " * (size - len(X) - 2) + X[:-1] + b"}"),
    Case("OIP JSON: parameters", repeated(X + b'"parameters":{', b'"p":1,', b"}}")),
    Case("OIP JSON: inputs", repeated(b'{"inputs":[', TENSOR, b"]}")),
    Case("OIP JSON: empty inputs", repeated(b'{"inputs":[', b"{},", b"]}")),
    Case("OIP JSON: outputs", repeated(X + b'"outputs":[', b'{"name":"y"},', b"]}")),
    Case("OIP JSON: dimensions", repeated(
        b'{"inputs":[{"name":"x","datatype":"INT8","shape":[', b"1,", b'],"data":[1]}]}')),
    Case("OIP JSON: data of rows of one", repeated(
        b'{"inputs":[{"name":"x","datatype":"INT8","shape":[1],"data":[', b"[0],", b"]}]}")),
    Case("OIP JSON: data of INT32", _data(b"INT32", b"1,")),
    Case("OIP JSON: data of FP32 with many digits", _data(b"FP32", b"0.123456789012345678,")),
    Case("OIP JSON: data of BYTES", _data(b"BYTES", b'"\\u00e9",')),
    Case("OIP JSON: data of BOOL", _data(b"BOOL", b"true,")),
    Case("OIP JSON, gzip: unknown rows, nested 60 deep", repeated(b'{"x":[', DEEP, b'],"inputs":[]}'), compressed=True),
    Case("OIP JSON, gzip: one unknown string", _same(b'{"x":"', b'","inputs":[]}'), compressed=True),
    Case("OIP binary: the bytes of the only input", lambda size: b"\0" * size, "/v2/models/raw/infer",
         "application/octet-stream"),
    Case("OIP binary: a head, and bytes", _binary, media_type="application/octet-stream", headers=_json_length),
    Case("generate: a text", _same(b'{"text_input":"', b'"}'), "/v2/models/echo/generate"),
    Case("generate: parameters", repeated(b'{"text_input":"a",', b'"p":1,', b"}"), "/v2/models/echo/generate"),
    Case("generate_stream: parameters", repeated(b'{"text_input":"a",', b'"p":1,', b"}"),
         "/v2/models/echo/generate_stream"),
    Case("repository index: unknown rows", repeated(b'{"x":[', DEEP, b"]}"), "/v2/repository/index"),
    Case("repository load: base64 of a file", _load, "/v2/repository/models/echo/load"),
    Case("repository load: parameters", repeated(b'{"parameters":{', b'"p":1,', b"}}"),
         "/v2/repository/models/echo/load"),
]  # fmt: skip
MESSAGES = [
    ("dimensions, packed", _message(b"\1", around=(5, 3))),
    ("dimensions, one by one", _message(b"\x18\1", around=(5,))),
    ("empty inputs", _message(b"\x2a\0")),
    ("empty outputs", _message(b"\x32\0")),
    ("empty raw contents", _message(b"\x3a\0")),
    ("empty parameters", _message(b"\x22\0")),
    ("parameters of an input", _message(b"\x22\0", around=(5,))),
    ("unknown fields", _message(b"\x78\1")),
    ("names", _message(b"\x0a\0")),
    ("int_contents, packed", _message(b"\1", around=(5, 5, 2))),
    ("int_contents, one by one", _message(b"\x10\1", around=(5, 5))),
    ("bytes_contents", _message(b"\x42\0", around=(5, 5))),
    ("raw contents of a MiB", lambda size: _message(_field(7, b"\0" * MIB))(size)),
]
GRPC = [
    Case(f"gRPC-Web: {name}", body, path=CALL, media_type=GRPC_WEB) for name, body in MESSAGES
] + [
    Case("gRPC-Web text: raw contents", lambda size: base64.b64encode(_message(_field(7, b"\0" * MIB))(size * 3 // 4)),
         path=CALL, media_type="application/grpc-web-text+proto"),
    Case("gRPC-Web: messages of no bytes", lambda size: b"\0\0\0\0\0" * (size // 5), path=CALL, media_type=GRPC_WEB),
]  # fmt: skip
HEADS = [
    Case("head: a path before an expression", lambda size: b"", method="GET", path="/regex/" + "a" * SHORT_HEAD),
    Case("head: cookies before a rule", lambda size: b"", method="GET", path="/cookie/",
         headers=lambda size: {"Cookie": "a=; " * (SHORT_HEAD // 4)}),
    Case("head: a value sixteen times in a redirect", lambda size: b"", method="GET", path="/values/",
         headers=lambda size: {"X-Long": "a" * SHORT_HEAD}),
    Case("multipart, which no part of the daemon reads", repeated(b"", b"--b\r\n\r\n\r\n", b"--b--"), path="/",
         media_type="multipart/form-data; boundary=b"),
]  # fmt: skip
ADMIN = [
    Case("admin: nested 60 deep", repeated(b'{"x":[', DEEP, b"]}"), path="/api/v1/explain", admin=True),
    Case("admin: nested without end", lambda size: b"[" * size, path="/api/v1/explain", admin=True),
    Case("admin: empty objects", repeated(b'{"x":[', b"{},", b"]}"), path="/api/v1/explain", admin=True),
    Case("admin: one string", _same(b'{"x":"', b'"}'), path="/api/v1/explain", admin=True),
]


def _answer(name: str) -> Case:
    return Case(
        f"answer, {name}", lambda size: X.replace(b"1]}]", b"1]}]")[:-1] + b"}", path=f"/v2/models/{name}/infer"
    )


def _response(unit: bytes, around: tuple[int, ...] = ()) -> Callable[[int], bytes]:
    def made(size: int) -> bytes:
        data = unit * ((size - 64) // len(unit))
        for number in reversed(around):
            data = _field(number, data)
        return _field(1, b"m") + data

    return made


def _output(datatype: bytes, count: int, contents: bytes) -> bytes:
    dimension = bytearray()
    while count > 127:
        dimension.append(count & 127 | 128)
        count >>= 7
    dimension.append(count)
    return _field(5, _field(1, b"y") + _field(2, datatype) + _field(3, bytes(dimension))) + _field(6, contents)


# What an endpoint answers, by the name of the model: a ModelInferResponse of about so many bytes.
ANSWERS: dict[str, Callable[[int], bytes]] = {
    "FP32": lambda size: _output(b"FP32", size // 4, struct.pack("<f", 0.1) * (size // 4)),
    "INT8": lambda size: _output(b"INT8", size, b"\1" * size),
    "BYTES": lambda size: _output(b"BYTES", size // 5, b"\1\0\0\0\n" * (size // 5)),
    "empty-outputs": _response(b"\x2a\0"),
    "dimensions": _response(b"\1", (5, 3)),
    "parameters": _response(b"\x22\0"),
    "unknown-fields": _response(b"\x78\1"),
}
ENDPOINTS = [_answer(name) for name in ANSWERS]
CASES = {case.name: case for case in [*REST, *GRPC, *HEADS, *ADMIN, *ENDPOINTS]}


def request(case: Case, size: int) -> bytes:
    """The bytes of an HTTP/1.1 request."""
    body = case.body(min(size, case.most))
    headers = {"Host": "localhost", "Content-Type": case.media_type, "Connection": "close"} | case.headers(size)
    if case.compressed:
        body = gzip.compress(body, 6)
        headers["Content-Encoding"] = "gzip"
    if case.media_type == "application/octet-stream":
        headers.setdefault("Inference-Header-Content-Length", "0")
    if case.method != "GET":
        headers["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{case.method} {case.path} HTTP/1.1\r\n{lines}\r\n".encode() + body
