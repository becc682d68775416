"""Compiled functions that read and write bytes, called from Python: a name is that of the function which it calls."""

import socket

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from lb.http.authority cimport read_authority
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.tls.client_hello cimport HELLO_BAD, HELLO_LONG, HELLO_MAX, HELLO_MORE, HELLO_NOT_TLS, hello_parse, tg_hello
from lb.shared.data_digest cimport tg_digest_data
from lb.shared.hashing cimport hash128_keyed, tg_digest, tg_digest_final, tg_digest_init, tg_digest_update
from lb.http.head cimport MAX_SPANS, SCAN_BAD, Scan, worker_scan
from lb.http.http1 cimport Parser, new_request_parser, new_response_parser
from lb.http.kept_head cimport head_free, head_keep, head_restore, tg_kept_head
from lb.net.ip cimport AF_INET, AF_INET6
from lb.net.proxy_header cimport (
    PROXY_BAD, PROXY_CHECKSUM, PROXY_LONG, PROXY_MORE, PROXY_NONE, proxy_parse, proxy_write, tg_ends, tg_proxy, tg_tlvs,
)
from lb.http.codings cimport accept_codings, best_coding, tg_accepted
from lb.http.set_cookie cimport read_set_cookie
from lb.net.source_key cimport hash_source, tg_prefixes
from lb.net.stream cimport iovec
from lb.proxy.routing.textmap cimport TEXT_ABSENT, TextMap
from lb.http.trace cimport TRACEPARENT_SIZE, tg_trace, trace_begin, trace_parse, trace_threshold, trace_write
from lb.proxy.routing.headers.forwarded cimport Forwarding, tg_hop, tg_ids
from lb.http.grpc.web cimport (
    WEB_NO_MEMORY, WEB_OK, tg_web_decoder, web_decode, web_decode_end, web_encode, web_kind,
    web_trailers_begin, web_trailers_end,
)
from lb.http.grpc.text cimport (
    TIMEOUT_SIZE, grpc_status, grpc_status_of_http, grpc_timeout, grpc_timeout_ns, percent_decode, pushback_ms,
)

cdef dict HELLO_PROBLEMS = {HELLO_NOT_TLS: "not TLS", HELLO_BAD: "no ClientHello", HELLO_LONG: "too long"}
cdef dict PROXY_PROBLEMS = {
    PROXY_NONE: "no header", PROXY_BAD: "malformed", PROXY_LONG: "too long", PROXY_CHECKSUM: "the checksum is wrong",
}


def host_of(bytes text not None):
    """The host of an authority, None where it is none."""
    cdef size_t n
    return text[:n] if read_authority(<const char *>text, <size_t>len(text), &n) else None


def parse_hello(bytes data not None):
    """The ClientHello that `data` begins with: None when more bytes are needed, else (name, protocols offered).

    Raises ValueError when it is none, or a wrong one.
    """
    cdef tg_hello hello
    cdef unsigned char work[HELLO_MAX]
    cdef bytes names
    cdef int found = hello_parse(<const unsigned char *>data, <size_t>len(data), work, &hello)
    if found == HELLO_MORE:
        return None
    if found < 0:
        raise ValueError(HELLO_PROBLEMS[found])
    names = hello.alpn[:hello.alpn_length]
    protocols = []
    while names:
        protocols.append(names[1:1 + names[0]])
        names = names[1 + names[0]:]
    return hello.sni[:hello.sni_length].decode("ascii"), protocols


def coding_for(*fields: bytes) -> str:
    """The coding for an answer to a request with these Accept-Encoding fields."""
    cdef tg_accepted accepted
    memset(&accepted, 0, sizeof(accepted))
    for field in fields:
        accept_codings(&accepted, <bytes>field, <size_t>len(<bytes>field))
    return ("identity", "gzip", "deflate")[best_coding(&accepted)]


def parse_proxy_header(bytes data not None):
    """The header that `data` begins with: None when more bytes are needed, else its size and what it says.

    Raises ValueError when it is no header, or a wrong one.
    """
    cdef tg_proxy header
    cdef Py_ssize_t size = proxy_parse(<const unsigned char *>data, <size_t>len(data), &header)
    if size == PROXY_MORE:
        return None
    if size < 0:
        raise ValueError(PROXY_PROBLEMS[size])
    said = {"version": header.version, "local": bool(header.local), "source": None, "target": None}
    if header.ends.family:
        width = 4 if header.ends.family == AF_INET else 16
        source = (<const unsigned char *>header.ends.source)[:width]
        target = (<const unsigned char *>header.ends.target)[:width]
        said["source"] = (socket.inet_ntop(header.ends.family, source), header.ends.source_port)
        said["target"] = (socket.inet_ntop(header.ends.family, target), header.ends.target_port)
    for name, value in (
        ("alpn", header.tlvs.alpn[:header.tlvs.alpn_length]),
        ("authority", header.tlvs.authority[:header.tlvs.authority_length]),
        ("unique_id", header.tlvs.unique_id[:header.tlvs.unique_id_length]),
        ("ssl", header.tlvs.ssl[:header.tlvs.ssl_length]),
        ("tlvs", header.tlvs.all[:header.tlvs.all_length]),
    ):
        said[name] = value
    return size, said


def proxy_header(int version, source, target, *, bytes alpn=b"", bytes authority=b"", bytes unique_id=b"",
                 bytes ssl=b"", bytes tlvs=b"", bint checksum=False):
    """A header of `version` for a connection between `source` and `target`, each (address, port); None: unknown. Of
    `tlvs`, a block of fields, those of other types are added."""
    cdef tg_ends ends
    cdef tg_tlvs fields
    cdef tg_buffer out
    cdef bytes first, second
    memset(&ends, 0, sizeof(ends))
    memset(&fields, 0, sizeof(fields))
    memset(&out, 0, sizeof(out))
    if source is not None:
        ends.family = AF_INET6 if ":" in source[0] else AF_INET
        first = socket.inet_pton(ends.family, source[0])
        second = socket.inet_pton(ends.family, target[0])
        memcpy(ends.source, <const char *>first, <size_t>len(first))
        memcpy(ends.target, <const char *>second, <size_t>len(second))
        ends.source_port = source[1]
        ends.target_port = target[1]
    fields.alpn = <const unsigned char *>alpn
    fields.alpn_length = <size_t>len(alpn)
    fields.authority = <const unsigned char *>authority
    fields.authority_length = <size_t>len(authority)
    fields.unique_id = <const unsigned char *>unique_id
    fields.unique_id_length = <size_t>len(unique_id)
    fields.ssl = <const unsigned char *>ssl
    fields.ssl_length = <size_t>len(ssl)
    fields.all = <const unsigned char *>tlvs
    fields.all_length = <size_t>len(tlvs)
    try:
        if proxy_write(&out, version, &ends, &fields, checksum, False) < 0:
            raise ValueError("too long")
        return tg_buffer_head(&out)[:tg_buffer_size(&out)]
    finally:
        tg_buffer_free(&out)


def hash128_bytes(key, data):
    """SipHash-2-4 of `data` with 128 bits, under the 16-byte `key`: 16 bytes."""
    cdef unsigned char out[16]
    cdef const unsigned char[::1] view = key
    cdef const unsigned char[::1] text = data
    if view.shape[0] != 16:
        raise ValueError(f"a key has 16 bytes, not {view.shape[0]}")
    hash128_keyed(&text[0] if text.shape[0] else NULL, text.shape[0], &view[0], out)
    return bytes(out[:16])


def digest_bytes(key, *pieces):
    """Keyed BLAKE2b-256 of the concatenated `pieces` under the 32-byte `key`: 32 bytes."""
    cdef tg_digest digest
    cdef unsigned char out[32]
    cdef const unsigned char[::1] view = key
    if view.shape[0] != 32:
        raise ValueError(f"a digest's key has 32 bytes, not {view.shape[0]}")
    cdef int failed = tg_digest_init(&digest, &view[0])
    for piece in pieces:
        view = piece
        if view.shape[0]:
            failed |= tg_digest_update(&digest, &view[0], view.shape[0])
    failed |= tg_digest_final(&digest, out)
    if failed:
        raise RuntimeError("libsodium failed to compute a digest")
    return <bytes> (<char *> out)[:32]


def data_digest_bytes(key, *pieces):
    """As `digest_bytes`, of pieces that are data of a tensor each (lb.shared.data_digest)."""
    cdef tg_digest digest
    cdef unsigned char out[32]
    cdef const unsigned char[::1] view = key
    cdef const unsigned char *secret = &view[0]
    cdef const unsigned char[::1] data
    if view.shape[0] != 32:
        raise ValueError(f"a digest's key has 32 bytes, not {view.shape[0]}")
    cdef int failed = tg_digest_init(&digest, secret)
    for piece in pieces:
        data = piece
        failed |= tg_digest_data(&digest, secret, &data[0] if data.shape[0] else NULL, data.shape[0])
    failed |= tg_digest_final(&digest, out)
    if failed:
        raise RuntimeError("a library failed to compute a digest")
    return <bytes> (<char *> out)[:32]


def parse_http1(data: bytes, response: bool = False, max_fields: int = 100):
    """Parses one message in one piece.

    Returns (head fields or None, body bytes, complete, consumed); raises ValueError with llhttp's reason on a bad
    message.
    """
    cdef Parser parser = new_response_parser() if response else new_request_parser()
    cdef Scan *scan = worker_scan()
    cdef Py_ssize_t n, at = 0
    cdef int i
    fields = None
    body = []
    scan.max_fields = max_fields
    while True:
        n = parser.execute(scan, <const char *>data + at, <size_t>(len(data) - at))
        if n < 0:
            raise ValueError(parser.why.decode() if scan.error == SCAN_BAD else "too many header fields")
        if scan.head:
            fields = [
                (scan.fields[i].name[:scan.fields[i].name_length], scan.fields[i].value[:scan.fields[i].value_length])
                for i in range(scan.field_count)
            ]
        for i in range(scan.span_count):
            body.append((<char *>scan.spans[i].iov_base)[:scan.spans[i].iov_len])
        at += n
        if scan.complete or scan.span_count < MAX_SPANS:
            return fields, b"".join(body), bool(scan.complete), at


def kept_head(list heads not None):
    """What `head_restore` gives of the last of these whole HTTP/1.1 heads, which one Scan has read one after the other:
    (method in text where it has no number, target, fields)."""
    cdef Parser parser = new_request_parser()
    cdef Scan *scan = worker_scan()
    cdef Scan *restored
    cdef tg_kept_head kept
    cdef bytes head
    cdef int i
    scan.max_fields = 100
    for head in heads:
        parser.reset()
        if parser.execute(scan, <const char *>head, <size_t>len(head)) != len(head):
            raise ValueError("not a whole head")
    restored = <Scan *>calloc(1, sizeof(Scan))
    memset(&kept, 0, sizeof(kept))
    try:
        if restored == NULL or head_keep(&kept, scan) < 0:
            raise MemoryError
        head_restore(restored, &kept)
        fields = [
            (restored.fields[i].name[:restored.fields[i].name_length],
             restored.fields[i].value[:restored.fields[i].value_length])
            for i in range(restored.field_count)
        ]
        method = restored.method_text[:restored.method_length] if restored.method_length else b""
        return method, restored.target[:restored.target_length], fields
    finally:
        head_free(&kept)
        free(restored)


def set_cookie(bytes field not None, bytes name not None, int64_t now):
    """`read_set_cookie`: (value, whether it is ended), None for a field about another cookie."""
    cdef const char *value = NULL
    cdef size_t size = 0
    cdef bint ended = False
    if not read_set_cookie(<const char *>field, <size_t>len(field), <const char *>name, <size_t>len(name), now, &value,
                           &size, &ended):
        return None
    return value[:size], ended


def source_key(str text not None, int v4, int v6):
    """`hash_source`."""
    cdef tg_prefixes prefixes
    prefixes.v4, prefixes.v6 = v4, v6
    data = text.encode()
    return hash_source(<const char *>data, <size_t>len(data), &prefixes)


def number_of(TextMap texts not None, bytes key not None):
    """The number of `key`, or None."""
    cdef int value = texts.find(<const char *>key, <size_t>len(key))
    return None if value == TEXT_ABSENT else value


def parse_traceparent(bytes text):
    """(trace id, parent id, flags) of a traceparent's value; None when it is to be ignored."""
    cdef tg_trace trace
    if trace_parse(<const char *>text, <size_t>len(text), &trace) < 0:
        return None
    return (<bytes>(<char *>trace.trace_id)[:16]).hex(), (<bytes>(<char *>trace.parent_id)[:8]).hex(), trace.flags


def new_traceparent(double ratio):
    """The traceparent of a new trace that is sampled with this probability."""
    cdef tg_trace trace
    cdef char text[TRACEPARENT_SIZE]
    trace_begin(&trace, trace_threshold(ratio))
    trace_write(&trace, text)
    return text[:TRACEPARENT_SIZE].decode("ascii")


cdef class HopMemory:
    """What `forward` has to free."""
    cdef tg_ids *ids
    cdef tg_buffer text

    def __dealloc__(self):
        free(self.ids)
        tg_buffer_free(&self.text)


def forward(plan, bytes head, str peer="192.0.2.1", str scheme="http", int version=11):
    """What a request's head becomes: (new fields as HTTP/2 has them, the same as lines, names of the fields
    that came and go on, the client's address). `head` is a whole HTTP/1.1 head."""
    cdef Forwarding forwarding = Forwarding(plan)
    cdef Parser parser = new_request_parser()
    cdef Scan *scan = worker_scan()
    cdef HopMemory kept = HopMemory()
    cdef tg_hop hop
    cdef int i
    cdef char *text
    cdef bytes where = peer.encode()
    cdef bytes how = scheme.encode()
    if parser.execute(scan, <const char *>head, <size_t>len(head)) != len(head):
        raise ValueError("not a whole head")
    kept.ids = forwarding.identify(scan, <const char *>where, <size_t>len(where))
    hop.text = &kept.text
    hop.omit = 0
    if forwarding.collect(scan, kept.ids, <const char *>where, <size_t>len(where), <const char *>how, version,
                          &hop) < 0:
        raise MemoryError
    text = kept.text.data + kept.text.start
    pairs = [
        (<bytes>hop.fields[i].name, text[hop.fields[i].start:hop.fields[i].start + hop.fields[i].length])
        for i in range(hop.count)
    ]
    lines = text[:tg_buffer_size(&kept.text)] if hop.count else b""
    left = [scan.fields[i].name[:scan.fields[i].name_length] for i in range(scan.field_count) if not scan.fields[i].hop]
    source = where
    if kept.ids != NULL and kept.ids.source_length:
        source = kept.ids.source[:kept.ids.source_length]
    return pairs, lines, left, source.decode()


cdef class Text:
    """A buffer that frees itself."""
    cdef tg_buffer buffer

    def __dealloc__(self):
        tg_buffer_free(&self.buffer)

    cdef bytes taken(self):
        return tg_buffer_head(&self.buffer)[:tg_buffer_size(&self.buffer)] if tg_buffer_size(&self.buffer) else b""


def kind_of(bytes content_type):
    """(0 none, 1 binary or 2 text, what follows the type)."""
    cdef const char *format = NULL
    cdef size_t n = 0
    cdef int kind = web_kind(<const char *>content_type, <size_t>len(content_type), &format, &n)
    return kind, format[:n] if kind else b""


def decode_pieces(pieces):
    """A text body that comes in these pieces, decoded. Raises ValueError when it is none."""
    cdef tg_web_decoder decoder
    cdef Text out = Text()
    cdef bytes piece
    cdef int result
    memset(&decoder, 0, sizeof(decoder))
    for piece in pieces:
        result = web_decode(&decoder, <const char *>piece, <size_t>len(piece), &out.buffer)
        if result == WEB_NO_MEMORY:
            raise MemoryError
        if result != WEB_OK:
            raise ValueError("not base64")
    if web_decode_end(&decoder) != WEB_OK:
        raise ValueError("ends within a group")
    return out.taken()


def encode_pieces(pieces):
    """One write of a text body, given in at most 16 pieces."""
    cdef iovec parts[16]
    cdef Text out = Text()
    cdef bytes piece
    cdef int count = 0
    kept = list(pieces)
    if len(kept) > 16:
        raise ValueError("more than 16 pieces")
    for piece in kept:
        parts[count].iov_base = <char *>piece
        parts[count].iov_len = <size_t>len(piece)
        count += 1
    if web_encode(parts, count, &out.buffer) < 0:
        raise MemoryError
    return out.taken()


def trailers_frame(pairs):
    """The frame that carries these trailers: (name, value) of bytes."""
    cdef Text out = Text()
    cdef Py_ssize_t begun = web_trailers_begin(&out.buffer)
    cdef bytes line
    if begun < 0:
        raise MemoryError
    for name, value in pairs:
        line = name + b": " + value + b"\r\n"
        if tg_buffer_append(&out.buffer, <const char *>line, <size_t>len(line)) < 0:
            raise MemoryError
    web_trailers_end(&out.buffer, begun)
    return out.taken()


def timeout_text(ns: int) -> bytes:
    """The value of grpc-timeout for `ns` nanoseconds."""
    cdef char text[TIMEOUT_SIZE]
    cdef bint round
    cdef int n = grpc_timeout(text, ns, &round)
    return text[:n]


def decode_message(value: bytes) -> bytes:
    """The text of a grpc-message value."""
    cdef bytearray into = bytearray(value)
    cdef size_t n = percent_decode(into, value, len(value))
    return bytes(into[:n])


def status_of_http(status: int) -> int:
    """The gRPC code for an HTTP status without grpc-status."""
    return grpc_status_of_http(status)


def parse_status(value: bytes) -> int:
    """The gRPC code that a grpc-status value says."""
    return grpc_status(value, len(value))


def parse_pushback(value: bytes) -> int:
    """The milliseconds of a grpc-retry-pushback-ms value; -2: there is to be no retry."""
    return pushback_ms(value, len(value))


def parse_timeout(value: bytes) -> int:
    """The nanoseconds of a grpc-timeout value, 0 when it is none."""
    return grpc_timeout_ns(value, len(value))
