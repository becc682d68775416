"""Who a request is from: the first check of a signed token, beside that of its signature alone. Later requests with it
cost a look-up (`tidegate bench run access-token`)."""

from __future__ import annotations

import json
import secrets
import time
from itertools import cycle

import pytest
from joserfc import jwk, jws
from pytest_benchmark.fixture import BenchmarkFixture

from lb.config.plan.access import ProviderPlan
from lb.proxy.access.checks import TokenCheck

ISSUER, AUDIENCE = "https://issuer.bench", "bench"
KEYS: dict[str, jwk.Key] = {
    "RS256": jwk.RSAKey.generate_key(2048),
    "ES256": jwk.ECKey.generate_key("P-256"),
    "Ed25519": jwk.OKPKey.generate_key("Ed25519"),
}


def token(algorithm: str, subject: str) -> bytes:
    """Of about 300 bytes and the signature; each is another, as its `jti` is."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "exp": int(time.time()) + 3600,
        "scope": "infer read",
        "jti": secrets.token_hex(16),
    }
    head = {"alg": algorithm, "typ": "JWT", "kid": "bench"}
    made: str = jws.serialize_compact(head, json.dumps(claims), KEYS[algorithm], algorithms=[algorithm])
    return made.encode()


@pytest.mark.parametrize("algorithm", KEYS)
def test_first_check(benchmark: BenchmarkFixture, algorithm: str) -> None:
    content = json.dumps({"keys": [KEYS[algorithm].as_dict(private=False, kid="bench")]}).encode()
    plan = ProviderPlan(
        "sso",
        "jwt",
        "authorization",
        content=content,
        issuer=ISSUER,
        audience=(AUDIENCE,),
        algorithms=(algorithm,),
        claim="sub",
        leeway_s=30,
    )
    check, now = TokenCheck(plan), time.time()
    tokens = cycle([token(algorithm, f"user-{i}") for i in range(64)])
    assert (benchmark(lambda: check.check(next(tokens), now)).identity or "").startswith("user-")


@pytest.mark.parametrize("algorithm", KEYS)
def test_signature_alone(benchmark: BenchmarkFixture, algorithm: str) -> None:
    model, text = jws.JWSRegistry(algorithms=[algorithm]).get_alg(algorithm), bytes(300)
    signature = model.sign(text, KEYS[algorithm])
    assert benchmark(lambda: model.verify(text, signature, KEYS[algorithm]))
