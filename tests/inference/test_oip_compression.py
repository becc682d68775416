"""Request bodies with a Content-Encoding."""

import gzip
import random
import zlib
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.inference.compression import MAX_MEMBERS, RATIO, decompress, decompressed
from lb.inference.errors import BodyTooLarge, OipError

# Without the time: processes that share the tests have to name them alike.
zipped = partial(gzip.compress, mtime=0)


@given(st.binary(max_size=2000))
def test_round_trip(body: bytes) -> None:
    assert decompress(b"gzip", zipped(body), 2000) == body
    assert decompress(b" X-GZIP ", zipped(body), len(body)) == body
    assert decompress(b"Deflate", zlib.compress(body), len(body)) == body
    assert decompress(b"identity", body, 2000) == body
    assert decompress(b"gzip", zipped(body[:10]) + zipped(body[10:]), 2000) == body


def status(encoding: bytes, body: bytes, limit: int) -> int:
    with pytest.raises(OipError) as caught:
        decompress(encoding, body, limit)
    return caught.value.status


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"compress", b"gzip, deflate", b"\xff"])
def test_unknown_encodings(encoding: bytes) -> None:
    assert status(encoding, b"", 10) == 501


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", zipped(bytes(1 << 24))),
        (b"deflate", zlib.compress(bytes(1 << 24))),
        (b"gzip", zipped(bytes(600)) * 2),
        (b"gzip", zipped(bytes(1001))),
        (b"identity", bytes(1001)),
    ],
)
def test_too_large(encoding: bytes, body: bytes) -> None:
    assert status(encoding, body, 1000) == 413


def test_more_than_a_ratio_is_refused_early() -> None:
    plain = bytes(64 << 20)
    for encoding, body in ((b"gzip", zipped(plain)), (b"deflate", zlib.compress(plain))):
        pieces = decompressed(encoding, memoryview(body), len(plain), RATIO)
        taken: list[int] = []
        with pytest.raises(BodyTooLarge, match="more than 100 times as large"):
            taken.extend(map(len, pieces))
        assert sum(taken) < 4 << 20


def test_pieces_are_small() -> None:
    plain = random.Random(1).randbytes(100_000) * 30
    pieces = list(decompressed(b"gzip", memoryview(zipped(plain)), len(plain), RATIO))
    assert b"".join(pieces) == plain
    assert max(len(piece) for piece in pieces) <= 64 << 10


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", b""),
        (b"gzip", b"not gzip"),
        (b"gzip", zipped(b"abc")[:-1]),
        (b"gzip", zipped(b"abc") + b"x"),
        (b"gzip", zipped(b"abc")[:-8] + bytes(8)),
        (b"gzip", zipped(b"") * (MAX_MEMBERS + 1)),
        (b"deflate", b""),
        (b"deflate", zlib.compress(b"abc")[:-1]),
        (b"deflate", zlib.compress(b"abc") + b"x"),
    ],
)
def test_damaged(encoding: bytes, body: bytes) -> None:
    assert status(encoding, body, 1000) == 400
