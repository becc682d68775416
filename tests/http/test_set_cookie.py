"""What a Set-Cookie field says of a cookie, as browsers read it (RFC 6265 section 5)."""

from __future__ import annotations

import random
from email.utils import formatdate

import pytest
from compiled.bytes_to_values import set_cookie

NOW = 1_800_000_000  # 2027-01-15 08:00:00 UTC
NAME = b"SID"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"SID=abc", b"abc"),
        (b"SID=abc; Path=/; HttpOnly", b"abc"),
        (b"  SID  =  abc  ;Secure", b"abc"),
        (b'SID="a b"; Path=/', b'"a b"'),
        (b"SID=a=b==; Max-Age=60", b"a=b=="),
        (b"SID=abc; Max-Age=0; max-age=5", b"abc"),
        (b"SID=abc; Max-Age=1x", b"abc"),
        (b"SID=abc; Max-Age=-", b"abc"),
        (b"SID=abc; Max-Age=", b"abc"),
        (b"SID=abc; Max-Age=99999999999999999999999999", b"abc"),
        (b"SID=abc; Expires=Fri, 15 Jan 2027 08:00:01 GMT", b"abc"),
        (b"SID=abc; Expires=never", b"abc"),
        (b"SID=abc; Expires=Fri, 15 Jan 2026", b"abc"),  # no time: no date
        (b"SID=abc; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60", b"abc"),  # Max-Age goes before
        (b"SID=abc; Expires; Max-Age; =; ;;", b"abc"),
    ],
)
def test_a_cookie_that_is_given(field: bytes, value: bytes) -> None:
    assert set_cookie(field, NAME, NOW) == (value, False)


@pytest.mark.parametrize(
    "field",
    [
        b"SID=",
        b"SID=; Path=/; Max-Age=60",
        b"SID=abc; Max-Age=0",
        b"SID=abc; MAX-AGE = 000",
        b"SID=abc; Max-Age=-1",
        b"SID=abc; Max-Age=60; Max-Age=0",
        b"SID=deleted; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/",
        b"SID=deleted; expires=Thu, 01-Jan-70 00:00:01 GMT",
        b"SID=deleted; expires=Thursday, 01-Jan-1970 00:00:10 GMT",
        b"SID=deleted; expires=Sun Nov  6 08:49:37 1994",
        b"SID=deleted; expires=Fri, 15 Jan 2027 08:00:00 GMT",
        b"SID=deleted; expires=Mon, 29-Feb-2016 23:59:59 GMT",
        b"SID=deleted; expires=Fri, 31 Dec 1999 23:59:59 GMT; Secure",
    ],
)
def test_a_cookie_that_is_taken_away(field: bytes) -> None:
    found = set_cookie(field, NAME, NOW)
    assert found
    assert found[1]


@pytest.mark.parametrize(
    "field", [b"", b";", b"=", b"SID", b"SID; a=b", b"sid=abc", b"XSID=abc", b"SIDX=abc", b"a=SID=abc", b"a; SID=abc"]
)
def test_another_cookie(field: bytes) -> None:
    assert set_cookie(field, NAME, NOW) is None


def test_dates_around_now() -> None:
    chance = random.Random(5)
    for _ in range(3000):
        when = chance.randrange(-8_000_000_000, 60_000_000_000)  # 1716 to 3871
        field = f"SID=abc; Expires={formatdate(when, usegmt=True)}".encode()
        assert set_cookie(field, NAME, when) == (b"abc", True), field
        assert set_cookie(field, NAME, when - 1) == (b"abc", False), field


def test_whatever_comes() -> None:
    chance = random.Random(6)
    pieces = [
        b"SID",
        b"=",
        b";",
        b" ",
        b"\t",
        b"Max-Age",
        b"Expires",
        b"-",
        b"0",
        b"9" * 30,
        b"Jan",
        b":",
        b"\xff",
        b"1",
    ]
    for _ in range(20_000):
        field = b"SID=" * chance.randrange(2) + b"".join(chance.choices(pieces, k=chance.randrange(12)))
        found = set_cookie(field, NAME, NOW)
        name, equals, rest = field.partition(b";")[0].partition(b"=")
        if equals and name.strip(b" \t") == NAME:
            assert found
            assert found[0] == rest.strip(b" \t")
        else:
            assert found is None
