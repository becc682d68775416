"""What requests prove themselves with where a task asks for it, and the files by which that is checked: an API key, and
a token (ES256) of an issuer that is made for this process."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import secrets
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

ISSUER, AUDIENCE = "https://issuer.bench", "bench"
KEYS, KEY_SET = "keys", "key-set.json"
_KEY = secrets.token_hex(32)
_LIFE = 24 * 3600  # seconds


def headers() -> dict[str, str]:
    """Both credentials, so that all rows are asked the same."""
    return {"X-Api-Key": _KEY, "Authorization": f"Bearer {token('alice')}"}


def files() -> dict[str, str]:
    """Text by file name."""
    return {KEYS: f"alice:sha256:{hashlib.sha256(_KEY.encode()).hexdigest()}\n", KEY_SET: key_set()}


def token(subject: str) -> str:
    """A signed token; each is another, as its `jti` is."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "exp": int(time.time()) + _LIFE,
        "jti": secrets.token_hex(8),
    }
    text = f"{_json({'alg': 'ES256', 'kid': 'bench'})}.{_json(claims)}"
    r, s = utils.decode_dss_signature(private_key().sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def key_set() -> str:
    """The public key as a JWK set."""
    point = private_key().public_key().public_numbers()
    x, y = (_encoded(number.to_bytes(32, "big")) for number in (point.x, point.y))
    return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "bench", "x": x, "y": y}]})


@functools.cache
def private_key() -> ec.EllipticCurvePrivateKey:
    """The issuer's."""
    return ec.generate_private_key(ec.SECP256R1())


def _json(value: object) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
