"""What providers remember: how much, how long, and what of it a flood can push out."""

from __future__ import annotations

import hashlib

from compiled.access import look, remembered, settle

from lb.config.plan.access import ProviderPlan
from lb.proxy.access.checks import REFUSED, Outcome
from lb.proxy.access.provider import Provider

TABLE = 8192
MOST_REFUSED = 1024
SECOND = 1_000_000_000


def sha256(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def keys(count: int) -> Provider:
    return Provider(
        ProviderPlan("k", "api_key", "x-api-key", keys=tuple((f"n{i}", sha256(f"k{i}"), ()) for i in range(count)))
    )


def with_key(key: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n".encode()


def with_token(number: int) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a.b.{number}\r\n\r\n".encode()


def test_keys_that_are_known_have_bounded_tables_and_guesses_have_none() -> None:
    provider = keys(3 * TABLE)
    for number in range(3 * TABLE):
        assert look(provider, with_key(f"k{number}")) == ("granted", f"n{number}".encode())
    recent, older, refused = remembered(provider)
    assert (recent <= TABLE, older <= TABLE, refused) == (True, True, 0)
    before = remembered(provider)
    for number in range(100):
        assert look(provider, with_key(f"guess{number}"))[0] == "bad"
    assert remembered(provider) == before
    assert look(provider, with_key("k0")) == ("granted", b"n0")  # which was pushed out


def test_a_provider_of_a_changed_file_knows_nothing_of_the_one_before() -> None:
    provider = keys(2)
    assert look(provider, with_key("k1"))[0] == "granted"
    changed = keys(1)
    assert changed.digest != provider.digest  # so that it takes the other's place
    assert look(changed, with_key("k1"))[0] == "bad"
    assert remembered(changed) == (0, 0, 0)


def test_tokens_are_known_until_they_expire_and_refusals_for_two_seconds() -> None:
    provider = Provider(ProviderPlan("t", "jwt", "authorization"))
    assert look(provider, with_token(1))[0] == "unknown"
    settle(provider, with_token(1), Outcome("alice", 10.0))
    assert look(provider, with_token(1), 10 * SECOND - 1) == ("granted", b"alice")
    assert look(provider, with_token(1), 10 * SECOND)[0] == "unknown"
    settle(provider, with_token(2), REFUSED)
    assert look(provider, with_token(2), 2 * SECOND - 1)[0] == "bad"
    assert look(provider, with_token(2), 2 * SECOND)[0] == "unknown"
    for number, name in enumerate(("", " a", "a\r\nX: b", "ä", "a" * 256, "a\0")):
        settle(provider, with_token(10 + number), Outcome(name, 10.0))
        assert look(provider, with_token(10 + number))[0] == "bad"


def test_refused_tokens_push_out_no_good_one() -> None:
    provider = Provider(ProviderPlan("t", "jwt", "authorization"))
    settle(provider, with_token(0), Outcome("alice", 1000.0))
    for number in range(1, 3 * MOST_REFUSED):
        settle(provider, with_token(number), REFUSED)
    recent, older, refused = remembered(provider)
    assert (recent, older) == (1, 0)
    assert refused <= MOST_REFUSED
    assert look(provider, with_token(0)) == ("granted", b"alice")
    for number in range(3 * TABLE):
        settle(provider, with_token(10_000 + number), Outcome("bob", 1000.0))
        look(provider, with_token(0))  # what is asked for stays
    assert max(remembered(provider)) <= TABLE
    assert look(provider, with_token(0)) == ("granted", b"alice")


def test_what_has_not_the_form_of_a_token_is_not_checked() -> None:
    provider = Provider(ProviderPlan("t", "jwt", "authorization"))
    for text in ("a.b", "a.b.c.d", "a b.c.d", "a=.b.c", "a.b.c+", "a" * 20_000 + ".b.c"):
        request = f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {text}\r\n\r\n".encode()
        assert look(provider, request)[0] == "bad", text[:20]
