"""Which content coding an Accept-Encoding field asks for (RFC 9110 section 12.5.3)."""

from __future__ import annotations

import random

import pytest
from compiled.bytes_to_values import coding_for


@pytest.mark.parametrize(
    ("fields", "coding"),
    [
        ((), "identity"),
        ((b"",), "identity"),
        ((b"gzip",), "gzip"),
        ((b"x-gzip",), "gzip"),
        ((b"GZip",), "gzip"),
        ((b"deflate",), "deflate"),
        ((b"deflate, gzip",), "gzip"),
        ((b"gzip;q=0.5, deflate;q=0.8",), "deflate"),
        ((b"gzip ; q=0.5 ,\tdeflate ; Q=0.49",), "gzip"),
        ((b"gzip;q=0.001",), "gzip"),
        ((b"gzip;q=0",), "identity"),
        ((b"gzip;q=0.000, deflate;q=0.",), "identity"),
        ((b"gzip;q=1.000",), "gzip"),
        ((b"*",), "gzip"),
        ((b"*;q=0",), "identity"),
        ((b"gzip;q=0, *",), "deflate"),
        ((b"br, zstd",), "identity"),
        ((b"br;q=1.0, gzip;q=0.8, *;q=0.1",), "gzip"),
        ((b"identity",), "identity"),
        ((b"identity, gzip;q=0.5",), "identity"),
        ((b"identity;q=0.5, gzip",), "gzip"),
        ((b"identity;q=0, gzip;q=0",), "identity"),
        ((b"br", b"deflate"), "deflate"),
        ((b"gzip;q=0.1", b"deflate;q=0.2"), "deflate"),
        # Malformed elements are passed over.
        ((b"gzip;q=2",), "identity"),
        ((b"gzip;q=1.001",), "identity"),
        ((b"gzip;q=0.5555",), "identity"),
        ((b"gzip;q=.5",), "identity"),
        ((b"gzip;q=",), "identity"),
        ((b"gzip;level=9",), "identity"),
        ((b"gzip q=1",), "identity"),
        ((b"gzip;;q=1, deflate",), "deflate"),
        ((b",,gzip,,",), "gzip"),
        ((b"gzipped, ungzip",), "identity"),
    ],
)
def test_the_coding_of_the_answer(fields: tuple[bytes, ...], coding: str) -> None:
    assert coding_for(*fields) == coding


def test_no_bytes_are_read_beyond_a_field() -> None:
    dice = random.Random(7)
    for _ in range(20_000):
        field = bytes(dice.choices(b"gzipdeflate*;=q01., \t\xff", k=dice.randrange(24)))
        assert coding_for(field) in ("identity", "gzip", "deflate")
