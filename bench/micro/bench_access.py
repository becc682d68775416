"""Who a request is from: the first check of a signed token, beside that of its signature alone. Later requests with it
cost a look-up (`tidegate bench run access-token`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pytest_benchmark.fixture import BenchmarkFixture

from bench.peers.access import AUDIENCE, ISSUER, key_set, private_key, token
from lb.config.plan.access import ProviderPlan
from lb.proxy.access.checks import TokenCheck


@pytest.fixture
def tokens() -> Iterator[bytes]:
    return cycle([token(f"user-{i}").encode() for i in range(64)])


def test_first_check(benchmark: BenchmarkFixture, tokens: Iterator[bytes]) -> None:
    plan = ProviderPlan(
        "sso",
        "jwt",
        "authorization",
        content=key_set().encode(),
        issuer=ISSUER,
        audience=(AUDIENCE,),
        algorithms=("ES256",),
        claim="sub",
        leeway_s=30,
    )
    check, now = TokenCheck(plan), time.time()
    assert (benchmark(lambda: check.check(next(tokens), now)).identity or "").startswith("user-")


def test_signature_alone(benchmark: BenchmarkFixture) -> None:
    text, key = bytes(200), private_key()
    algorithm = ec.ECDSA(hashes.SHA256())
    signature, public = key.sign(text, algorithm), key.public_key()
    benchmark(lambda: public.verify(signature, text, algorithm))
