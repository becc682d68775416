"""Regular expressions: RE2's syntax, bytes, and time that is linear in the text."""

from __future__ import annotations

import pytest

from lb.http.regex import Regex


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (b"^/v[0-9]+/", [b"/v2/", b"/v22/x"], [b"/v/", b"x/v2/"]),
        (b"b", [b"abc"], [b"", b"ac"]),
        (b"^$", [b""], [b"a"]),
        (b"^.$", [b"\xff", b"\x00"], [b"\xc3\xa9"]),
        (b"(?i)abc", [b"xABCx"], [b"ab"]),
    ],
)
def test_search(pattern: bytes, yes: list[bytes], no: list[bytes]) -> None:
    regex = Regex(pattern)
    assert all(regex.matches(text) for text in yes)
    assert not any(regex.matches(text) for text in no)


def test_case_can_be_ignored() -> None:
    assert Regex(b"^A[b-c]$", fold=True).matches(b"aC")
    assert not Regex(b"^A[b-c]$").matches(b"ac")


@pytest.mark.parametrize("pattern", [b"(", b"a**", b"(?=a)", rb"(a)\1", b"[z-a]", b"a{5000}"])
def test_what_it_does_not_take_is_refused_with_a_reason(pattern: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Regex(pattern)


def test_groups_are_counted() -> None:
    assert Regex(b"(a)(?:b)(?P<x>c)").groups == 2


def test_a_pattern_that_makes_backtracking_explode_does_not() -> None:
    # With a backtracking engine this text would take longer than the test may.
    assert not Regex(b"^(a+)+$").matches(b"a" * 100_000 + b"b")
