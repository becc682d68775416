"""Heads that outlive the bytes they came in."""

from __future__ import annotations

import pytest
from compiled.bytes_to_values import kept_head

OWN_METHOD = b"SUMMARISE /a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /infer?b=1 HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"
FIELDS = [(b"Host", b"a"), (b"X-Empty", b""), (b"Content-Length", b"0")]


@pytest.mark.parametrize("before", [[], [OWN_METHOD], [POST, OWN_METHOD]])
def test_a_kept_head_is_the_one_that_was_read_last(before: list[bytes]) -> None:
    assert kept_head([*before, POST]) == (b"", b"/infer?b=1", FIELDS)


def test_a_method_without_a_number_is_kept() -> None:
    assert kept_head([POST, OWN_METHOD]) == (b"SUMMARISE", b"/a", [(b"Host", b"a")])
