"""gRPC-Web: content types, bodies in base64, and trailers in the body."""

from __future__ import annotations

import base64
import struct

import pytest
from compiled.bytes_to_values import decode_pieces, encode_pieces, kind_of, trailers_frame
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("content_type", "kind", "rest"),
    [
        (b"application/grpc-web", 1, b""),
        (b"application/grpc-web+proto", 1, b"+proto"),
        (b"Application/GRPC-Web+json; charset=utf-8", 1, b"+json"),
        (b"application/grpc-web-text", 2, b""),
        (b"application/grpc-web-text+proto", 2, b"+proto"),
        (b"application/grpc-web;x", 1, b""),
        (b"application/grpc", 0, b""),
        (b"application/grpc+proto", 0, b""),
        (b"application/grpc-webby", 0, b""),
        (b"application/grpc-web-texts", 0, b""),
        (b"", 0, b""),
    ],
)
def test_kinds(content_type: bytes, kind: int, rest: bytes) -> None:
    assert kind_of(content_type) == (kind, rest)


@given(st.binary(max_size=400), st.lists(st.integers(0, 600), max_size=8))
def test_whatever_is_encoded_can_be_decoded_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    text = base64.b64encode(data)
    cuts = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert decode_pieces(pieces) == data


@given(st.lists(st.binary(max_size=50), max_size=10), st.integers(1, 7))
def test_padding_may_stand_in_the_middle(writes: list[bytes], step: int) -> None:
    text = b"".join(base64.b64encode(write) for write in writes)
    assert decode_pieces([text[i : i + step] for i in range(0, len(text), step)]) == b"".join(writes)


@given(st.lists(st.binary(max_size=50), max_size=16))
def test_encoding_is_the_standard_one(pieces: list[bytes]) -> None:
    assert encode_pieces(pieces) == base64.b64encode(b"".join(pieces))


@given(st.binary(max_size=60))
def test_text_that_is_none_is_refused(data: bytes) -> None:
    """Whatever is taken is what the standard library takes, group by group."""
    try:
        got = decode_pieces([data])
    except ValueError:
        return
    groups = [data[i : i + 4] for i in range(0, len(data), 4)]
    assert got == b"".join(base64.b64decode(group, validate=True) for group in groups)


@pytest.mark.parametrize(
    "text",
    [
        b"A",
        b"AA",
        b"AAA",
        b"AA=A",
        b"A===",
        b"====",
        b"AA==A",
        b"AA\n==",
        b"AAA-",
        b"AB==",
        b"AAB=",
        b"=AAA",
        b"\x80AAA",
    ],
)
def test_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"base64|group"):
        decode_pieces([text])


def test_trailers() -> None:
    frame = trailers_frame([(b"grpc-status", b"5"), (b"grpc-message", b"no%20such")])
    flag, length = struct.unpack(">BI", frame[:5])
    assert flag == 0x80
    assert frame[5:] == b"grpc-status: 5\r\ngrpc-message: no%20such\r\n"
    assert length == len(frame) - 5
    assert trailers_frame([]) == b"\x80\0\0\0\0"


def test_long_trailers_have_their_length() -> None:
    frame = trailers_frame([(b"x", b"y" * 100_000)])
    assert struct.unpack(">I", frame[1:5])[0] == len(frame) - 5 == 100_005
