"""Envoy's external authorization over gRPC: a question and its answer as messages of `proto/external_auth.proto`.

Source: envoy/service/auth/v3/external_auth.proto and attribute_context.proto.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping

from google.protobuf.message import DecodeError
from msgspec import Struct

from lb.config.schema.routes.bodies import FRAMING
from lb.wire.external_auth_pb2 import CheckRequest, CheckResponse

_FORBIDDEN = 403
_NOT_MODIFIED = 304
_PROTOCOLS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_MOST_FIELDS = 64
_MOST_BYTES = 16 * 1024


class Response(Struct, frozen=True):
    """What an answer says: `status` is 0 where the request may pass, else that of the client's answer."""

    status: int
    fields: list[tuple[bytes, bytes]]  # that the request gets; names in lower case
    removed: list[bytes]  # names of those that it loses
    lines: list[tuple[bytes, bytes]]  # that the client's answer gets
    body: bytes


def check_request(
    address: bytes,
    port: int,
    principal: str | None,
    ident: bytes,
    method: bytes,
    scheme: bytes,
    host: bytes,
    path: bytes,
    version: int,
    size: int,
    headers: Mapping[bytes, bytes],
) -> bytes:
    """A CheckRequest. `version` is that of HTTP times ten, `size` the body's bytes, -1 = not known; `address` is empty
    for a client on a Unix socket, `principal` None without a certificate."""
    made = CheckRequest()
    source, request = made.attributes.source, made.attributes.request
    if address:
        source.address.socket_address.address = address.decode("ascii")
        source.address.socket_address.port_value = port
    source.principal = principal or ""
    request.time.seconds, request.time.nanos = divmod(time.time_ns(), 1_000_000_000)
    http = request.http
    http.id, http.method, http.scheme = _text(ident), _text(method), _text(scheme)
    http.host, http.path, http.size, http.protocol = _text(host), _text(path), size, _PROTOCOLS[version]
    for name, value in headers.items():
        http.headers[_text(name)] = _text(value)
    serialized: bytes = made.SerializeToString()
    return serialized


def read_response(message: bytes) -> Response:
    """Raises ValueError for what is no CheckResponse, and for headers that could change where a message ends."""
    try:
        told = CheckResponse.FromString(message)
    except DecodeError:
        raise ValueError("its answer is not a CheckResponse") from None
    if told.HasField("error_response"):
        raise ValueError("its answer says that it met an error")
    if told.status.code:
        denied = told.denied_response
        status = denied.status.code if 300 <= denied.status.code <= 599 else _FORBIDDEN
        # An answer with 304 ends with its head (RFC 9110 section 15.4.5): a body would be read as the next answer.
        body = b"" if status == _NOT_MODIFIED else denied.body.encode()
        return Response(status, [], [], _fields(denied.headers), body)
    ok = told.ok_response
    removed = [_name(name.encode()) for name in ok.headers_to_remove]
    return Response(0, _set(ok.headers), removed, _fields(ok.response_headers_to_add), b"")


def _text(value: bytes) -> str:
    """Strings of protobuf are UTF-8; of what is none, a replacement stands for each byte, as Envoy has it."""
    return value.decode("utf-8", "replace")


def _set(options: Iterable[object]) -> list[tuple[bytes, bytes]]:
    """The fields, each in place of those before it that have its name, unless it is to be appended."""
    found: list[tuple[bytes, bytes]] = []
    for option, field in zip(options, _fields(options), strict=True):
        if not option.append.value:  # type: ignore[attr-defined]
            found = [one for one in found if one[0] != field[0]]
        found.append(field)
    return found


def _fields(options: Iterable[object]) -> list[tuple[bytes, bytes]]:
    found = []
    size = 0
    for option in options:
        header = option.header  # type: ignore[attr-defined]
        value = (header.raw_value or header.value.encode()).strip(b" \t")
        name = _name(header.key.encode())
        if not _VALUE.fullmatch(value):
            raise ValueError(f"its answer has bytes in {name.decode()} that no header may have")
        size += len(name) + len(value)
        found.append((name, value))
    if len(found) > _MOST_FIELDS or size > _MOST_BYTES:
        raise ValueError(f"its answer has more than {_MOST_FIELDS} headers, or {_MOST_BYTES} bytes of them")
    return found


def _name(name: bytes) -> bytes:
    lowered = name.lower()
    if not _NAME.fullmatch(name) or lowered.decode() in FRAMING:
        raise ValueError(f"its answer has the header {name[:100]!r}, which is not for it to change")
    return lowered
