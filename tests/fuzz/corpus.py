"""The corpora in tests/fuzz/corpus: one folder for each target, one input in each file.

`python tests/fuzz/corpus.py` writes those that are made from real messages (`made-…`); findings stay beside them
under the name that the engine gave them.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import sys
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
GENERATED = "made-"

ID, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
GET = b"GET /a?b=c HTTP/1.1\r\nHost: example.org\r\n"
TENSOR = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1.5, -2]}


def load(target: str) -> dict[str, bytes]:
    """The inputs of a target by their names; at least one, which is empty, even where there is no folder."""
    folder = CORPUS / target
    found = {path.name: path.read_bytes() for path in sorted(folder.glob("*"))} if folder.is_dir() else {}
    return found or {"empty": b""}


def http1_requests() -> list[bytes]:
    return [
        GET + b"\r\n",
        b"GET http://example.org:80/a HTTP/1.1\r\nHost: b\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
        b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
        GET
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x00",
        GET + b"Connection: close, X-A\r\nX-A: b\r\nTE: trailers\r\nKeep-Alive: timeout=5\r\n\r\n" + GET + b"\r\n",
        GET + b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(90)) + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\nBREW /pot HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nokPLAY / HTTP/1.1\r\nHost: a\r\n\r\n",
    ]


def http1_responses() -> list[bytes]:
    return [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.0 404 Not Found\r\nServer: x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n',
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x01x",
        b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n",
    ]


def chunked() -> list[bytes]:
    return [
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b'a;x=y;z="q"\r\n0123456789\r\nFF\r\n' + b"x" * 255 + b"\r\n000\r\n\r\n",
        b"1\r\na\r\n" * 100 + b"0\r\nTrailer: x\r\n\r\n",
        b"ffffffff\r\nx",
        b"5\r\nhello0\r\n\r\n",
    ]


def forwarded() -> list[bytes]:
    return [
        b"X-Forwarded-For: 203.0.113.9, 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\n"
        b"X-Forwarded-Port: 1",
        b"X-Forwarded-For: [2001:db8::1]:443\r\nX-Forwarded-For: 10.2.3.4:80 , , 10.0.0.1",
        b'Forwarded: for="[::1]";proto=http;by=a, for=b\r\nVia: 1.0 fred, 1.1 p (comment)',
        b"X-Request-Id: abc\r\ntraceparent: 00-" + ID + b"-" + SPAN + b"-01\r\ntracestate: a=b,c=d",
        b"traceparent: 00-" + ID + b"-" + SPAN + b"-01\r\ntraceparent: 00-" + ID + b"-" + SPAN + b"-00",
        b"Connection: x-forwarded-for, via\r\nX-Forwarded-For: unknown\r\nVia: a",
    ]


def traceparents() -> list[bytes]:
    tail = ID + b"-" + SPAN
    return [
        b"00-" + tail + b"-01",
        b"cc-" + tail + b"-00-more",
        b"ff-" + tail + b"-01",
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
    ]


def web_texts() -> list[bytes]:
    frame = b"\0\0\0\0\x05hello"
    texts = [
        b"",
        base64.b64encode(frame),
        base64.b64encode(frame[:4]) + base64.b64encode(frame[4:]),
        b"QQ==QUI=QUJD",
        b"QQ=",
        b"Q",
    ]
    return [bytes([step]) + text for step, text in enumerate(texts)]


def inference_requests() -> list[bytes]:
    whole = json.dumps({"id": "1", "inputs": [TENSOR], "outputs": [{"name": "y"}], "parameters": {"a": 1}}).encode()
    text = {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["a", "\u00e9"]}
    binary = json.dumps(
        {"inputs": [{"name": "x", "datatype": "INT8", "shape": [3], "parameters": {"binary_data_size": 3}}]}
    ).encode()
    nested = {"name": "n", "datatype": "BOOL", "shape": [1, 2], "data": [[True, False]]}
    return [
        struct.pack("<h", -1) + whole,
        struct.pack("<h", -1) + json.dumps({"inputs": [text, nested]}).encode(),
        struct.pack("<h", len(binary)) + binary + b"abc",
    ]


def inference_responses() -> list[bytes]:
    from lb.wire.grpc_service_pb2 import ModelInferResponse

    raw = ModelInferResponse(model_name="m", model_version="1", id="7")
    output = raw.outputs.add(name="y", datatype="FP32", shape=[2])
    output.parameters["k"].string_param = "v"
    raw.raw_output_contents.append(struct.pack("<2f", 1.5, float("nan")))
    typed = ModelInferResponse(model_name="m")
    typed.outputs.add(name="y", datatype="INT64", shape=[2]).contents.int64_contents.extend([1, -1])
    typed.outputs.add(name="z", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"\xff")
    messages = [raw.SerializeToString(), typed.SerializeToString()]
    return [bytes([flag]) + message for flag in (0, 1) for message in messages]


def batch_answers() -> list[bytes]:
    """A stored answer to one row, and a model server's to the two others, or to all three."""
    from lb.wire.grpc_service_pb2 import ModelInferResponse

    def answer(rows: int, typed: bool) -> bytes:
        made = ModelInferResponse(model_name="m", model_version="1")
        made.outputs.add(name="y", datatype="INT64", shape=[rows, 2])
        made.outputs.add(name="t", datatype="BYTES", shape=[rows])
        if typed:
            made.outputs[0].contents.int64_contents.extend(range(2 * rows))
            made.outputs[1].contents.bytes_contents.extend([b"a" * row for row in range(rows)])
        else:
            made.raw_output_contents.append(struct.pack(f"<{2 * rows}q", *range(2 * rows)))
            made.raw_output_contents.append(b"".join(struct.pack("<I", row) + b"a" * row for row in range(rows)))
        return bytes(made.SerializeToString())

    stored = [answer(1, typed) for typed in (False, True)]
    parts = [bytes([len(one)]) + one + answer(2, typed) for one in stored for typed in (False, True)]
    return [*parts, *(b"\0" + answer(3, typed) for typed in (False, True))]


def http2_answers() -> list[bytes]:
    import h2.config
    import h2.connection
    from compiled.http2_sessions import Http2Probe

    probe = Http2Probe()
    probe.start()
    for _ in range(2):
        probe.request(
            [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"a")], b"", [b"x"]
        )
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()
    while True:
        rc, head, pieces = probe.gather(1 << 16)
        if not rc:
            break
        server.receive_data(head + b"".join(data for _, data in pieces))
    server.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    server.send_data(1, b"\0\0\0\0\x02ok")
    server.send_headers(1, [("grpc-status", "0")], end_stream=True)
    server.reset_stream(3, 8)
    server.ping(b"12345678")
    server.close_connection(0)
    talk = server.data_to_send()
    refusal = b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x07"
    return [
        bytes([0x9F]) + talk,
        bytes([0x40]) + talk[: len(talk) // 2],
        bytes([0x80]) + refusal,
        b"\x01HTTP/1.1 400 Bad Request\r\n\r\n",
    ]


def http2_requests() -> list[bytes]:
    import h2.config
    import h2.connection

    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    head = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/x?y")]
    client.send_headers(1, [*head, ("cookie", "a=b"), ("cookie", "c=d"), ("te", "trailers")])
    client.send_data(1, b"hello")
    client.send_headers(1, [("x-checksum", "1")], end_stream=True)
    client.send_headers(3, [(":method", "GET"), *head[1:]], end_stream=True)
    client.reset_stream(3, 8)
    client.ping(b"12345678")
    client.send_headers(5, [(":method", "OPTIONS"), *head[1:3], (":path", "*")], end_stream=True)
    client.close_connection()
    talk = client.data_to_send()
    plain = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    get = b"\x82\x86\x84\x41\x01a"
    return [
        b"\xff" + talk,
        b"\x06" + talk[: len(talk) * 2 // 3],
        b"\xff" + plain + b"\0\0\6\1\5\0\0\0\1" + get + b"\0\0\4\3\0\0\0\0\1\0\0\0\x08",
        b"\xff" + plain + b"\0\0\1\1\1\0\0\0\1\x82" + b"\0\0\5\x09\4\0\0\0\1" + get[1:],
        b"\xff" + plain + b"\0\0\x0c\1\5\0\0\0\1" + get + b"\0\2X-\1b",
    ]


def http2_frames() -> list[bytes]:
    """Frames behind a beginning that is as it should be."""

    def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    post = b"\x83\x86\x84\x41\x01a"
    get = b"\x82\x86\x84\x41\x01a\xbe\xbf"
    return [
        b"\x80" + frame(1, 0x2C, 1, b"\2" + bytes(5) + post + bytes(2)) + frame(0, 9, 1, b"\1body\0"),
        b"\x85" + frame(1, 0, 1, post[:3]) + frame(9, 4, 1, post[3:]) + frame(0, 0, 1, bytes(3000)) + frame(0, 1, 1),
        b"\x91" + frame(4, 0, 0, bytes([0, 4, 0, 0, 0, 9])) + frame(1, 4, 1, post) + frame(0, 1, 1, b"x" * 30)
        + frame(8, 0, 1, b"\0\0\0\5") + frame(4, 0, 0, bytes([0, 4, 0, 0, 9, 9])) + frame(8, 0, 0, b"\0\0\0\1"),
        b"\xa7" + frame(1, 4, 1, post) + frame(3, 0, 1, b"\0\0\0\x08") + frame(0, 0, 1, b"late") + frame(6, 0, 0, get),
        b"\x82" + frame(1, 4, 1, post + b"\x40\1x\1y") + frame(1, 5, 1, b"\x40\1t\1u") + frame(1, 5, 3, get),
        b"\x9f" + frame(4, 1, 0) + frame(2, 0, 7, bytes(5)) + frame(0x55, 0, 0, b"?") + frame(7, 0, 0, bytes(8)),
        b"\x03" + http2_requests()[0][1:],
    ]  # fmt: skip


def proxy_headers() -> list[bytes]:
    magic = b"\r\n\r\n\0\r\nQUIT\n"
    ends4 = bytes([192, 0, 2, 1, 198, 51, 100, 1]) + struct.pack(">HH", 1000, 443)
    ends6 = bytes.fromhex("20010db8000000000000000000000001" * 2) + struct.pack(">HH", 1, 2)
    tls = b"\x01\0\0\0\0" + b"\x21\0\7TLSv1.3"
    tlvs = b"\x01\0\2h2" + b"\x02\0\1a" + b"\x05\0\4abcd" + b"\x20" + struct.pack(">H", len(tls)) + tls
    return [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\nGET /",
        b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
        b"PROXY UNKNOWN and more\r\n",
        magic + b"\x20\0\0\0",
        magic + b"\x21\x11" + struct.pack(">H", 12) + ends4,
        magic + b"\x21\x21" + struct.pack(">H", 36 + len(tlvs)) + ends6 + tlvs + b"behind",
        magic + b"\x21\x11" + struct.pack(">H", 12 + len(tlvs)) + ends4 + tlvs,
    ]


def client_hellos() -> list[bytes]:
    import ssl

    found = []
    for name, protocols in (("models.example.org", ["h2", "http/1.1"]), (None, [])):
        context = ssl.create_default_context()
        context.check_hostname = False
        if protocols:
            context.set_alpn_protocols(protocols)
        out = ssl.MemoryBIO()
        try:
            context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
        except ssl.SSLWantReadError:
            found.append(out.read())
    record, _ = found
    half = (len(record) - 5) // 2
    # The same in two records (RFC 8446 section 5.1).
    found.append(record[:3] + struct.pack(">H", half) + record[5 : 5 + half]
                 + record[:3] + struct.pack(">H", len(record) - 5 - half) + record[5 + half :])  # fmt: skip
    return found


def load_reports() -> list[bytes]:
    def double(number: int, value: float) -> bytes:
        return bytes([number << 3 | 1]) + struct.pack("<d", value)

    def metric(name: bytes, value: float) -> bytes:
        return b"\x42" + bytes([len(name) + 11]) + b"\x0a" + bytes([len(name)]) + name + double(2, value)

    message = double(1, 0.3) + b"\x18\x0a" + double(6, 12.5) + double(7, 0.5) + double(9, 0.75)
    named = b"\x42\x0c\x0a\x01k" + double(2, 1.0)[:9]
    found = [message, message + named, double(1, math.nan), double(9, -1.0), double(6, math.inf), message[:-3]]
    found += [base64.b64encode(each) for each in found] + [b"BIN " + base64.b64encode(message)]
    return [
        *found,
        b"TEXT cpu_utilization=0.3, rps_fractional=12,eps=1e0,named_metrics.k=1",
        b'JSON {"cpuUtilization": 0.3, "rps": "10", "namedMetrics": {"k": 1}, "eps": 0}',
        b"JSON [1]",
        b"TEXT cpu_utilization",
        b"TEXT application_utilization=nan",
        base64.b64encode(double(9, 0.5) + metric(b"rif", 3.0) + metric(b"latency_ms", 4.5)),
        base64.b64encode(metric(b"rif", -1.0) + metric(b"rif", math.nan)),
        b"TEXT named_metrics.rif=3, named_metrics.latency_ms = +4.5e0",
        b'JSON {"named_metrics": {"rif": 3, "latency_ms": "4.5"}}',
    ]


def cookie_fields() -> list[bytes]:
    return [
        b"SID=31d4d96e407aad42; Path=/; HttpOnly; Secure; SameSite=Lax",
        b"SID=a; Max-Age=2592000",
        b"SID=; Path=/; Max-Age=0",
        b"SID=deleted; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/",
        b"SID=a; Expires=Wednesday, 09-Nov-99 23:12:40 GMT",
        b"SID=a; Expires=Sun Nov  6 08:49:37 2094; Max-Age=-1",
    ]


def first_batches() -> list[bytes]:
    from lb.wire.grpc_service_pb2 import ModelInferRequest

    found = []
    for shapes, contents in (([[32, 3, 4], [1]], 0), ([[300]], 5), ([[]], 0), ([], 0), ([[-1, 2]], 3)):
        message = ModelInferRequest(model_name="digits", model_version="1", id="x", raw_input_contents=[b"\1" * 40])
        for shape in shapes:
            message.inputs.add(name="x", datatype="FP32", shape=shape).contents.fp32_contents.extend([0.5] * contents)
        text = message.SerializeToString()
        found.append(b"\0" + struct.pack(">I", len(text)) + text)
    return [*found, found[0] + found[1], b"\1" + found[0][1:], found[1][:30]]


def inference_calls() -> list[bytes]:
    from lb.wire.grpc_service_pb2 import ModelInferRequest

    raw = ModelInferRequest(model_name="m", model_version="1", id="7", raw_input_contents=[bytes(8), b"\1\0\0\0x"])
    for name, datatype, shape in (("x", "FP32", [2]), ("y", "BYTES", [1, 1])):
        raw.inputs.add(name=name, datatype=datatype, shape=shape)
    raw.parameters["k"].string_param = "v"
    raw.inputs[0].parameters["d"].double_param = 0.5
    raw.outputs.add(name="z").parameters["classification"].int64_param = 3
    typed = ModelInferRequest(model_name="m")
    contents = {"BOOL": "bool", "INT8": "int", "INT64": "int64", "UINT16": "uint", "UINT64": "uint64", "FP64": "fp64"}
    for datatype, field in contents.items():
        given = typed.inputs.add(name=datatype, datatype=datatype, shape=[2])
        getattr(given.contents, f"{field}_contents").extend([0, 1])
    typed.inputs.add(name="t", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"", b"ab"])
    found = [message.SerializeToString() for message in (raw, typed)]
    return [*found, found[0] + found[0], found[1][:-3]]


def value_texts() -> list[bytes]:
    return [
        b"${client.address}\n192.0.2.7",
        b"a ${header.x-a:-${cookie.b:-${A:-c}}} $${request.host}\na\r\nb: c",
        b'${query.a}${request.uri}${capture.1}\n/a/../b?c=<d>&e="f"',
        b"${request.hos} ${ ${map.a:-b}\n\0;,\\ %",
        b"${table.users.requests} ${table.a.b.request_rate:-0} ${table.users.reqests}\nx",
    ]


def map_files() -> list[bytes]:
    return [
        b"\x00# tenants\na.example.org acme\nb.example.org\tblue team\n\nlist-only\n",
        b"\x01/v2/models/ a\n/v2/ b\n",
        b"\x82.ORG a\nexample.org b\n",
        b"\x03.example.org. a\nwww.example.org b\n",
        b"\x04^/a[0-9]+ a\n(?i)b$ b\n",
        b"\x0510.0.0.0/8 a\n10.1.0.0/16 b\n10.1.2.3 c\n::/0 d\n2001:db8::/32 e\n::ffff:10.9.0.0/112 f\n",
    ]


def stick_tables() -> list[bytes]:
    return [
        b"+192.0.2.7\n+192.0.2.9\n+2001:db8::1\n+::ffff:192.0.2.1\nc192.0.2.0/24\n-\n-",
        b"".join(b"+key %d\n-\n" % (i % 25) for i in range(32)),
        b"+" + b"x" * 200 + b"\n+" + b"x" * 201 + b"\n=\0\x18\xc0\0\2\0\n+192.0.2.3\nc\0\x18\xc0\0\2\0\n+",
    ]


MAKERS = {
    "http1_request": http1_requests,
    "http1_response": http1_responses,
    "http1_chunked": chunked,
    "forwarded_fields": forwarded,
    "traceparent": traceparents,
    "grpc_web_text": web_texts,
    "oip_request": inference_requests,
    "oip_call": inference_calls,
    "oip_response": inference_responses,
    "oip_rows": batch_answers,
    "http2_client": http2_answers,
    "http2_server": http2_requests,
    "http2_pieces": http2_frames,
    "http2_resets": http2_requests,
    "proxy_header": proxy_headers,
    "client_hello": client_hellos,
    "load_report": load_reports,
    "set_cookie": cookie_fields,
    "first_batch": first_batches,
    "value_text": value_texts,
    "map_file": map_files,
    "stick_table": stick_tables,
}
# What libraries spell as they like, and anew each time.
LIBRARIES = {"http2_client", "http2_server", "http2_pieces", "http2_resets", "client_hello"}


def write() -> int:
    """Writes the made inputs anew; how many there are."""
    count = 0
    for target, maker in MAKERS.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{GENERATED}*"):
            old.unlink()
        for number, data in enumerate(maker()):
            (folder / f"{GENERATED}{number:02}").write_bytes(data)
            count += 1
    return count


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
    print(f"{write()} inputs in {CORPUS}")
