"""Fuzz targets: each takes any bytes and either returns or raises what its contract names.

A target fails by an exception that it does not expect (AssertionError among them), by a crash, or by a report of a
sanitizer. Targets of parts that this build does not have are left out.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import re
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from compiled.bytes_to_values import (
    decode_pieces,
    forward,
    parse_hello,
    parse_http1,
    parse_proxy_header,
    parse_traceparent,
    set_cookie,
)
from compiled.http2_sessions import Http2Echo, Http2Probe, resets_in
from compiled.inference import (
    NotCombined,
    ask_rows,
    combine_rows,
    find_first_batch,
    render_bytes,
    row_keys,
    split_batch,
)
from compiled.inference import parse_request as parse_inference
from oip_rest import same_or_none

from lb.config.environment import Sources, expanded
from lb.config.network import parse_network
from lb.config.plan.plan import HopPlan, Http2Plan, ListenerPlan
from lb.config.plan.tables import COUNTERS, TablePlace
from lb.config.schema.maps import MapConfig, entries_of
from lb.config.schema.tables import TableConfig, table_plan
from lb.config.values import CLOSE, ELSE, OPEN, parse, values_in
from lb.errors import TidegateError
from lb.inference.errors import OipError
from lb.proxy.routing.values.format import Format
from lb.proxy.routing.values.lookup import Lookup, build
from lb.shared.segment import Segment
from lb.shared.stick_tables import StickTable
from lb.upstream.load import load_report
from lb.wire.grpc_service_pb2 import ModelInferRequest

Target = Callable[[bytes], None]

POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
HTTP2_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HTTP2 = Http2Plan(
    enabled=True, max_streams=128, stream_window=65536, connection_window=65536, max_age_ns=0, control_rate=200,
    reset_rate=200,
)  # fmt: skip
LISTENER = ListenerPlan(
    name="web", bind="", protocol="http", series=0, pool=-1, routes=(), header_timeout_ns=1, body_timeout_ns=1,
    idle_timeout_ns=1, send_timeout_ns=1, max_header_bytes=16384, max_headers=100, max_connections=1,
    forwarded="append", retry_buffer=0, http2=HTTP2, upgrades=(), upgrade_idle_timeout_ns=1,
    hop=HopPlan(("10.0.0.0/8",), 80, forwarded_header=True, via="gate", request_id=True, tracing=True, trace_ratio=0.5),
)  # fmt: skip
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def http1_message(data: bytes, response: bool) -> None:
    try:
        fields, body, complete, consumed = parse_http1(data, response)
    except ValueError:
        return
    assert 0 <= consumed <= len(data)
    assert len(body) <= len(data)
    if fields is None:
        assert not complete
        return
    for name, value in fields:
        # What is passed on must not become another field, or another message, at the next hop.
        assert TOKEN.fullmatch(name), name
        assert not set(value) & {0, 10, 13}, value
        assert value == value.rstrip(b" \t")
        assert name in data
        assert value in data


def http1_request(data: bytes) -> None:
    http1_message(data, False)


def http1_response(data: bytes) -> None:
    http1_message(data, True)


def http1_chunked(data: bytes) -> None:
    """A chunked body behind a good head: what is taken is what a plain reader of RFC 9112 section 7.1 finds."""
    try:
        _, body, complete, consumed = parse_http1(POST + data)
    except ValueError:
        return
    if complete:
        assert consumed > len(POST)
        assert body == chunked_body(data)


def chunked_body(data: bytes) -> bytes:
    found = []
    while True:
        line, _, data = data.partition(b"\r\n")
        size = int(re.match(rb"[0-9A-Fa-f]+", line)[0], 16)  # type: ignore[index]
        if size == 0:
            return b"".join(found)
        found.append(data[:size])
        assert data[size : size + 2] == b"\r\n"
        data = data[size + 2 :]


def forwarded_fields(data: bytes) -> None:
    """Fields of a request, and what becomes of them: always whole lines, whatever came."""
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + data.rstrip(b"\r\n") + b"\r\n\r\n"
    try:
        pairs, lines, left, source = forward(LISTENER, head, "10.1.1.1")
    except ValueError:
        return
    assert lines.count(b"\r\n") == len(pairs)
    assert lines.count(b"\r") == lines.count(b"\n") == len(pairs)
    assert not {name.lower() for name in left} & {b"x-request-id", b"traceparent", b"via", b"forwarded"}
    assert re.fullmatch(r"[0-9a-f.:]{2,45}", source)
    ids = dict(pairs)
    assert parse_traceparent(ids[b"traceparent"]) is not None
    assert re.fullmatch(rb"[!-~]{1,128}", ids[b"x-request-id"])


def traceparent(data: bytes) -> None:
    taken = parse_traceparent(data)
    match = re.fullmatch(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", data, re.DOTALL)
    good = (
        match is not None
        and match[1] != b"ff"
        and (match[1] != b"00" or match[5] is None)
        and match[2].strip(b"0") != b""
        and match[3].strip(b"0") != b""
    )
    assert (taken is not None) == good
    if taken is not None and match is not None:
        assert taken == (match[2].decode(), match[3].decode(), int(match[4], 16) & 3)


def grpc_web_text(data: bytes) -> None:
    """The first byte says in what pieces the text comes; that must not change what it means."""
    step = (data[0] if data else 0) % 7 + 1
    text = data[1:]
    pieces = [text[i : i + step] for i in range(0, len(text), step)]
    try:
        whole: bytes | None = decode_pieces([text])
    except ValueError:
        whole = None
    try:
        parts: bytes | None = decode_pieces(pieces)
    except ValueError:
        parts = None
    assert whole == parts
    if whole is not None:
        groups = [text[i : i + 4] for i in range(0, len(text), 4)]
        assert whole == b"".join(base64.b64decode(group, validate=True) for group in groups)


def oip_request(data: bytes) -> None:
    """Two bytes of the JSON part's length (-1: all of it), then a body in JSON or binary form."""
    if len(data) < 2:
        return
    (length,) = struct.unpack("<h", data[:2])
    request = None
    status = 0
    try:
        request = parse_inference(b"m", b"", data[2:], max(-1, length))
    except OipError as refusal:
        status = refusal.status
    if request is None:
        assert status == 400
        return
    message = ModelInferRequest.FromString(request.message())
    assert len(message.inputs) == len(message.raw_input_contents)


def oip_call(data: bytes) -> None:
    """A gRPC inference: if it has a key in the result cache, that is the key of what other readers take it for."""
    same_or_none(data)


def oip_response(data: bytes) -> None:
    """A model server's answer, as JSON or, by the first byte, with binary tensors."""
    binary = bool(data[:1] and data[0] & 1)
    body = b'{"parameters":{"binary_data_output":%s},"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}'
    request = parse_inference(b"m", b"", body % (b"true" if binary else b"false"), -1)
    with contextlib.suppress(TidegateError):
        render_bytes(request, data[1:])


BATCH = parse_inference(
    b"m",
    b"",
    b'{"inputs":[{"name":"x","shape":[3,1],"datatype":"BYTES","data":["a","","bc"]},'
    b'{"name":"i","shape":[3],"datatype":"INT8","data":[1,2,3]}]}',
    -1,
)


def oip_rows(data: bytes) -> None:
    """Answers to rows of a batch: the first byte says how long the stored one of the second row is, the rest is the
    model server's. An answer that comes of them has as many rows as the batch, and parts that can be read."""
    if not data:
        return
    rows = split_batch(BATCH, bytes(32))
    stored, reply = data[1 : 1 + data[0]], data[1 + data[0] :]
    keys = row_keys(rows)
    asked = ask_rows(rows, {keys[1][0]: stored} if stored else {})
    message = ModelInferRequest.FromString(asked.message())
    assert {tensor.shape[0] for tensor in message.inputs} <= {2, 3}
    with contextlib.suppress(NotCombined):
        whole, answers = combine_rows(rows, reply)
        assert len(answers) == message.inputs[0].shape[0]
        for one in (whole, *answers.values()):
            with contextlib.suppress(TidegateError):
                render_bytes(BATCH, one)


def http2_client(data: bytes) -> None:
    """What an endpoint sends: the first byte says in what pieces, and how many streams are open meanwhile."""
    probe = Http2Probe()
    assert probe.start() == 0
    step = (data[0] if data else 0) % 31 + 1
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"a")]
    for _ in range((data[0] if data else 0) >> 6):
        probe.request(fields, b"", [b"body"])
    for i in range(1, len(data), step):
        if probe.receive(data[i : i + step]) < 0:
            break
        for _ in range(20):
            rc, _, _ = probe.gather(1 << 16)
            if rc <= 0:
                break


def http2_server(data: bytes) -> None:
    """What a client sends: the first byte says in what pieces. A head that is taken is fit for HTTP/1.1, too."""
    echo = Http2Echo()
    echo.reads = True
    step = (data[0] if data else 0) + 1
    for i in range(1, len(data), step):
        if echo.receive(data[i : i + step]) < 0:
            break
        for _ in range(20):
            rc, _ = echo.gather(1 << 16)
            if rc <= 0:
                break
    for event in echo.events:
        if event[0] in ("head", "trailers") and event[2] == 0:
            assert not set(event[3]) & set(b"\0\r\n "), event
            for name, value in event[4]:
                assert TOKEN.fullmatch(name), event
                assert not set(value) & {0, 10, 13}, event


def http2_pieces(data: bytes) -> None:
    """What a client sends means the same in whatever pieces it comes; the first byte says in which, and whether all
    begins as it should."""
    whole, parts = Http2Echo(window=4096), Http2Echo(window=4096)
    step = (data[0] if data else 0) % 40 + 1
    talk = (HTTP2_START if data and data[0] & 128 else b"") + data[1:]
    rc = whole.receive(talk)
    taken = 0
    for i in range(0, len(talk), step):
        taken = parts.receive(talk[i : i + step])
        if taken < 0:
            break
    assert taken == rc
    assert parts.events == whole.events
    # But for windows, which are given back when a half is gone, and that is seen later where more comes at once.
    assert without_windows(parts.gather(1 << 24)[1]) == without_windows(whole.gather(1 << 24)[1])


def without_windows(talk: bytes) -> list[bytes]:
    frames = []
    while talk:
        size = 9 + int.from_bytes(talk[:3], "big")
        if talk[3] != 8:
            frames.append(talk[:size])
        talk = talk[size:]
    return frames


def http2_resets(data: bytes) -> None:
    """The first byte says in what pieces the frames come; each piece's resets are those whose headers end in it."""
    step = (data[0] if data else 0) % 40 + 1
    talk = data[1:]
    ends, at = {}, 24
    while at + 9 <= len(talk):
        if talk[at + 3] == 3:
            ends[at + 8] = int.from_bytes(talk[at + 5 : at + 9], "big") & 0x7FFFFFFF
        at += 9 + int.from_bytes(talk[at : at + 3], "big")
    pieces = [talk[i : i + step] for i in range(0, len(talk), step)]
    wanted: list[set[int]] = []
    for number in range(len(pieces)):
        places = {}  # streams so far apart that they share a place displace each other
        for end, stream in ends.items():
            if end // step == number:
                places[(stream >> 1) % 8192] = stream
        wanted.append(set(places.values()))
    assert resets_in(pieces, [0, 1, *ends.values()]) == wanted


def proxy_header(data: bytes) -> None:
    """Whatever is taken was all there, and says addresses of one family; a part of it asks for more."""
    try:
        taken = parse_proxy_header(data)
    except ValueError:
        return
    if taken is None:
        return
    size, said = taken
    assert 0 < size <= len(data)
    assert (said["source"] is None) == (said["target"] is None)
    assert not (said["local"] and said["source"])
    assert parse_proxy_header(data[:size]) == taken
    for part in {size // 2, size - 1}:
        assert parse_proxy_header(data[:part]) is None


def hello(data: bytes) -> None:
    """A ClientHello that is taken stays the same with more behind it, and is not there yet in its parts."""
    try:
        taken = parse_hello(data)
    except ValueError:
        return
    if taken is None:
        return
    name, protocols = taken
    assert not set(name) & set("\0\r\n /")
    assert all(protocols)
    assert parse_hello(data + b"more") == taken
    assert parse_hello(data[:5]) is None


def load_reports(data: bytes) -> None:
    """As either field: numbers that can be divided by and multiplied, or nothing."""
    for name in (b"endpoint-load-metrics", b"Endpoint-Load-Metrics-Bin"):
        found = load_report.parse(name, data)
        if found is not None:
            assert len(data) <= 4096
            for number in found[:3]:
                assert 0 <= number <= 1e18
            for number in found[3:]:
                assert number == -1 or 0 <= number <= 1e18
            assert found.utilization > 0 or found.rif >= 0
    # The message itself, whatever it is.
    load_report.parse(b"endpoint-load-metrics-bin", base64.b64encode(data))


def cookie_field(data: bytes) -> None:
    """The value is a part of the field, and only one without a value, or that is over, ends it."""
    found = set_cookie(data, b"SID", 1_800_000_000)
    pair = data.partition(b";")[0]
    assert (found is not None) == (b"=" in pair and pair.partition(b"=")[0].strip(b" \t") == b"SID")
    if found is not None:
        value, ended = found
        assert value == pair.partition(b"=")[2].strip(b" \t")
        assert ended or value
        if b"=" not in data.partition(b";")[2]:
            assert ended == (not value)


def first_batches(data: bytes) -> None:
    """What the beginning of a gRPC request tells, more of it does not change."""
    whole = find_first_batch(data)
    if whole is not None:
        model, batch = whole
        assert model in data
        assert 1 <= batch < 2**63
    for part in (len(data) // 3, len(data) - 1):
        told = find_first_batch(data[: max(part, 0)])
        assert told is None or told == whole


ENDS = {
    "field": b"\r\n\0", "cookie": b"\r\n\0; ,\"\\", "host": b"\r\n\0 /?#@\\", "path": b"\r\n\0 ?#\\",
    "query": b"\r\n\0 #", "text": b"\r\n\0", "html": b"\r\n\0<>\"'", "json": b"\r\n\0\"",
}  # fmt: skip


def value_text(data: bytes) -> None:
    """A text is one or is refused with the reason; whatever its values hold, none ends what it stands in."""
    text, _, value = data.partition(b"\n")
    try:
        marked = expanded(text.decode("latin-1"), Sources({"A": "a"}, Path("/nowhere")), [])
        parts = parse(marked)
    except ValueError:  # MalformedReferenceError is one
        parts = ()
    assert all(part.name for part in values_in(parts))
    for encoding, ends in ENDS.items():
        made = Format(f"{OPEN}client.address{ELSE}{OPEN}request.path{CLOSE}{CLOSE}", encoding)
        for known in ({"client.address": value}, {"request.path": value}):
            with contextlib.suppress(ValueError):
                result = made.filled(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", known)
                assert not set(result) & set(ends), (encoding, value, result)
    if parts and not any(part.name in ("map", "capture") for part in values_in(parts)):
        named = {value.argument.rpartition(".")[0] for value in values_in(parts) if value.name == "table"}
        tables = {("table", name): (f"{OPEN}header.x-a{CLOSE}", stick_table()) for name in named}
        with contextlib.suppress(ValueError):
            Format(marked, maps=tables).filled(b"GET /?a=b HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n", {})


def narrowest_networks(entries: dict[bytes, bytes], lookup: Lookup) -> None:
    """At the ends of each network, and beside them, an address has the value that Python's networks give it."""
    networks = sorted(
        ((parse_network(key.decode()), value) for key, value in entries.items()), key=lambda each: -each[0].prefixlen
    )
    for network, _ in networks[:64]:
        for number in (-1, 0, network.num_addresses - 1, network.num_addresses):
            with contextlib.suppress(ipaddress.AddressValueError):
                address = type(network.network_address)(int(network.network_address) + number)
                here = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
                inside = (value for known, value in networks if (here or address) in known)
                assert lookup.get(str(address).encode()) == next(inside, None), (str(address), networks)


def map_file(data: bytes) -> None:
    """A file is a map or is refused with the line; each of its keys is found, and what is found is one of its
    values."""
    kind = ("exact", "prefix", "suffix", "domain", "regex", "network")[data[0] % 6 if data else 0]
    config = MapConfig(key="x", file=Path("/x"), match=kind, ignore_case=bool(data[:1] > b"\x80"))
    try:
        entries = entries_of(config, data[1:])
        lookup = Lookup(build(entries, kind, config.ignore_case))
    except ValueError:
        return
    assert lookup.size == len(entries)
    if kind == "network":
        narrowest_networks(entries, lookup)
        return
    for key, value in entries.items():
        if kind != "regex" and (kind != "domain" or (key and not key.endswith(b"."))):
            assert lookup.get(key) == value, (kind, key)
    for text in (data, data[1:40], data[::-1]):
        found = lookup.get(text)
        assert found is None or found in entries.values()


@cache
def stick_table() -> StickTable:
    """A table of addresses that a worker counts in; each key may have one of 28 entries."""
    segment = Segment.create(1, 1, 1, stick_sets=4)
    config = TableConfig(
        key=f"{OPEN}client.address{CLOSE}", source={"ipv4_prefix": 24}, store=[*COUNTERS, "concurrent"]
    )
    return StickTable(Segment.attach(os.dup(segment.fd), 0), table_plan("fuzz", config, TablePlace(0, 0, 4)))


def stick_operations(data: bytes) -> None:
    """Whatever keys and orders come, a table counts what a dictionary does: of a key that it holds, from when it was
    taken hold of."""
    table = stick_table()
    table.wipe()
    held: dict[bytes, list[Any]] = {}  # by what the table calls the key: [its entry, holds]
    for order in data.split(b"\n")[:64]:
        key, what = order[1:], order[:1]
        if what == b"+" and sum(count for _, count in held.values()) < 20:
            key = key.partition(b"/")[0]  # no client has a network for its address
            ref = table.track(key)
            if ref is None:
                continue
            name = table.rows(key)[0][0]
            known = held.setdefault(name, [ref, 0])
            assert known[0] == ref
            known[1] += 1
            table.count(ref, "requests")
        elif what == b"-" and held:
            name, known = next(iter(held.items()))
            table.let_go(known[0])
            known[1] -= 1
            if not known[1]:
                del held[name]
        elif what == b"c":
            table.clear(key)
        elif what == b"=":
            table.put(key, {"gpc0": len(key)})
    found = {name: values["concurrent"] for name, _, values in table.rows() if values["concurrent"]}
    assert found == {name: count for name, (_, count) in held.items()}
    for ref, count in held.values():
        for _ in range(count):
            table.let_go(ref)
    assert not table.busy()


TARGETS: dict[str, Target] = {
    "http1_request": http1_request,
    "http1_response": http1_response,
    "http1_chunked": http1_chunked,
    "forwarded_fields": forwarded_fields,
    "traceparent": traceparent,
    "grpc_web_text": grpc_web_text,
    "oip_request": oip_request,
    "oip_call": oip_call,
    "oip_response": oip_response,
    "oip_rows": oip_rows,
    "http2_client": http2_client,
    "http2_server": http2_server,
    "http2_pieces": http2_pieces,
    "http2_resets": http2_resets,
    "proxy_header": proxy_header,
    "client_hello": hello,
    "load_report": load_reports,
    "set_cookie": cookie_field,
    "first_batch": first_batches,
    "value_text": value_text,
    "map_file": map_file,
    "stick_table": stick_operations,
}
