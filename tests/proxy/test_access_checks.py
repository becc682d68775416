"""Tokens and passwords against the checks that providers have: what is accepted, and every forgery that is known."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import argon2
import bcrypt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import utils
from joserfc import jwk, jws

from lb.config.plan.access import ProviderPlan
from lb.proxy.access.checks import REFUSED, UNAVAILABLE, Outcome, PasswordCheck, TokenCheck, make_check

NOW = 1_800_000_000.0
ISSUER = "https://issuer.example.org"
RSA = jwk.RSAKey.generate_key(2048)
EC = jwk.ECKey.generate_key("P-256")
ED = jwk.OKPKey.generate_key("Ed25519")
OTHER = jwk.RSAKey.generate_key(2048)
ALGORITHMS = ("RS256", "PS256", "ES256", "Ed25519")


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def public(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), **({"kid": kid} if kid is not None else {}), **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


SET = key_set(public(RSA, "rsa"), public(EC, "ec"), public(ED, "ed"))


def plan(content: bytes = SET, **changes: Any) -> ProviderPlan:
    settings = {"issuer": ISSUER, "audience": ("gate", "other"), "algorithms": ALGORITHMS, "leeway_s": 30, **changes}
    return ProviderPlan("sso", "jwt", "authorization", content=content, claim=settings.pop("claim", "sub"), **settings)


def claims(**changes: Any) -> dict[str, Any]:
    made = {"iss": ISSUER, "aud": "gate", "sub": "alice", "exp": NOW + 100, **changes}
    return {name: value for name, value in made.items() if value is not None}


def token(key: Any = RSA, alg: str = "RS256", head: dict[str, Any] | None = None, **changes: Any) -> str:
    protected = {
        "alg": alg,
        "kid": {"RS256": "rsa", "PS256": "rsa", "ES256": "ec", "Ed25519": "ed"}.get(alg),
        **(head or {}),
    }
    protected = {name: value for name, value in protected.items() if value is not None}
    return str(jws.serialize_compact(protected, json.dumps(claims(**changes)), key, algorithms=[alg]))


def check(text: str, content: bytes = SET, **changes: Any) -> Outcome:
    return TokenCheck(plan(content, **changes)).check(text.encode(), NOW)


@pytest.mark.parametrize(("key", "alg"), [(RSA, "RS256"), (RSA, "PS256"), (EC, "ES256"), (ED, "Ed25519")])
def test_good_tokens(key: Any, alg: str) -> None:
    assert check(token(key, alg)) == Outcome("alice", 130.0)
    assert check(token(key, alg, {"kid": None})).identity == "alice"  # a token may name no key
    assert check(token(key, alg, aud=["x", "other"])).identity == "alice"
    assert check(token(key, alg, email="a@b"), claim="email").identity == "a@b"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 31}, {"exp": None}, {"exp": "soon"}, {"exp": True}, {"exp": 1e300}, {"exp": float("nan")},
        {"nbf": NOW + 31}, {"nbf": "x"}, {"iss": None}, {"iss": "https://issuer.example.org/"}, {"iss": [ISSUER]},
        {"aud": None}, {"aud": "gat"}, {"aud": []}, {"aud": ["x", 1]}, {"aud": {"gate": 1}}, {"sub": None},
        {"sub": 1}, {"sub": ["alice"]},
    ],
    ids=str,
)  # fmt: skip
def test_claims_that_are_refused(changes: dict[str, Any]) -> None:
    assert check(token(**changes)) == REFUSED


def test_clocks_may_differ() -> None:
    assert check(token(exp=NOW - 29)).identity == "alice"
    assert check(token(nbf=NOW + 29)).identity == "alice"
    assert check(token(nbf=NOW + 1), leeway_s=0) == REFUSED
    assert check(token(exp=NOW), leeway_s=0) == REFUSED


def hmac_by(secret: bytes, alg: str = "HS256", kid: str = "rsa") -> str:
    text = f"{encoded({'alg': alg, 'kid': kid})}.{encoded(claims())}"
    return f"{text}.{encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def test_no_signature_and_a_public_key_as_a_secret() -> None:
    body = encoded(claims())
    for alg in ("none", "None", "NONE", "nOnE", "", None, 1, ["RS256"]):
        assert check(f"{encoded({'alg': alg})}.{body}.") == REFUSED
        assert check(f"{encoded({'alg': alg})}.{body}.{token().rpartition('.')[2]}") == REFUSED
    assert check(f"{encoded({'typ': 'JWT'})}.{body}.AA") == REFUSED
    key = RSA.public_key
    for form in (serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1):
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER):
            assert check(hmac_by(key.public_bytes(encoding, form))) == REFUSED
    assert check(hmac_by(SET)) == REFUSED
    # Not even where the set has a secret, and the list had HS256.
    secret = {"kty": "oct", "kid": "rsa", "k": encoded(b"0" * 32)}
    content = key_set(secret, public(EC))
    assert check(hmac_by(b"0" * 32), content) == REFUSED
    with pytest.raises(ValueError, match="has no public key"):
        TokenCheck(plan(key_set(secret)))


def test_wrong_keys_and_what_a_token_says_of_its_key() -> None:
    assert check(token(OTHER)) == REFUSED
    own = public(OTHER)
    for head in ({"jwk": own}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}, {"x5c": ["AA=="]}):
        text = f"{encoded({'alg': 'RS256', 'kid': 'rsa', **head})}.{encoded(claims())}"
        signed = OTHER.private_key.sign(text.encode(), *_pkcs1())
        assert check(f"{text}.{encoded(signed)}") == REFUSED
    for kid in ("nobody", "", "../../dev/null", "' OR 1=1 --", "rsa\0", 0, ["rsa"], {"kid": "rsa"}):
        text = f"{encoded({'alg': 'RS256', 'kid': kid})}.{encoded(claims())}"
        assert check(f"{text}.{encoded(RSA.private_key.sign(text.encode(), *_pkcs1()))}") == REFUSED
    # An algorithm that the key is not for, by its type, its curve or its `alg`.
    assert check(token(RSA, "RS256", {"kid": "ec"})) == REFUSED
    assert check(token(RSA, "PS256"), key_set(public(RSA, "rsa", alg="RS256"))) == REFUSED
    assert check(token(RSA, "RS256"), key_set(public(RSA, "rsa", use="enc"), public(EC))) == REFUSED
    assert check(token(), algorithms=("ES256",)) == REFUSED
    text = f"{encoded({'alg': 'RS256', 'kid': 'rsa', 'crit': ['exp'], 'exp': 1})}.{encoded(claims())}"
    assert check(f"{text}.{encoded(RSA.private_key.sign(text.encode(), *_pkcs1()))}") == REFUSED


def _pkcs1() -> tuple[Any, Any]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.PKCS1v15(), hashes.SHA256()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:-4],
        lambda t: t + "AAAA",
        lambda t: t.rpartition(".")[0] + ".",
        lambda t: t.rpartition(".")[0],
        lambda t: "",
        lambda t: "..",
        lambda t: t + "." + t,
        lambda t: t.replace(".", ".e30", 1),
        lambda t: t.partition(".")[0] + "." + encoded(claims(sub="root")) + "." + t.rpartition(".")[2],
        lambda t: "[" * 100_000 + "..",
        lambda t: encoded(b"[" * 100_000) + "." + t.partition(".")[2],
        lambda t: encoded(b'{"alg":"RS256","alg":"none","kid":"rsa"}') + "." + t.partition(".")[2],
        lambda t: "ä" + t,
    ],
)
def test_tokens_that_were_changed(change: Callable[[str], str]) -> None:
    assert check(change(token())) == REFUSED


def test_claims_that_are_no_object() -> None:
    for payload in (b"[]", b"null", b"1", b'"a"', b"\xff", b"[" * 100_000):
        text = f"{encoded({'alg': 'RS256', 'kid': 'rsa'})}.{encoded(payload)}"
        assert check(f"{text}.{encoded(RSA.private_key.sign(text.encode(), *_pkcs1()))}") == REFUSED


def signed(head: str, payload: str) -> str:
    text = f"{encoded(head.encode())}.{encoded(payload.encode())}"
    return f"{text}.{encoded(RSA.private_key.sign(text.encode(), *_pkcs1()))}"


def headed(**parameters: Any) -> str:
    return signed(json.dumps({"alg": "RS256", "kid": "rsa", **parameters}), json.dumps(claims()))


@pytest.mark.parametrize(
    "parameters",
    [
        {"typ": "at+jwt"}, {"cty": "JWT"}, {"x5t": "AA"}, {"x5t": 5}, {"x5t#S256": "A" * 43}, {"nonce": "x"},
        {"zip": "DEF"}, {"x5c": ["A" * 4000]}, {"b64": False},
        {"client": "c", "signer": "x", "iss": ISSUER, "exp": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_head_says_besides_is_ignored(parameters: dict[str, Any]) -> None:
    """RFC 7515 section 4."""
    assert check(headed(**parameters)).identity == "alice"


@pytest.mark.parametrize("critical", [["b64"], ["nonce"], ["exp"], [], "b64", None, {}])
def test_what_is_critical_is_refused(critical: Any) -> None:
    """RFC 7515 section 4.1.11; RFC 7797 section 7: the payload of a JWT is encoded."""
    assert check(headed(crit=critical, b64=True, nonce="x", exp=1)) == REFUSED


def test_a_text_that_is_not_the_only_one_of_its_bytes() -> None:
    """An endpoint may take another text for another token."""
    for key, alg in ((RSA, "RS256"), (EC, "ES256"), (ED, "Ed25519")):
        for number in range(3):
            parts = token(key, alg, jti=number).split(".")
            for index, part in enumerate(parts):
                last = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
                others = [
                    f"{part[:-1]}{last_one}"
                    for last_one in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
                    if last_one != part[-1]
                    and len(part) % 4
                    and base64.urlsafe_b64decode(f"{part[:-1]}{last_one}" + "=" * (-len(part) % 4)) == last
                ]
                more = [part + "=" * (-len(part) % 4), part + "\n", part + "!", " " + part, part.replace("-", "+")]
                for other in [*others, *(one for one in more if one != part)]:
                    assert check(".".join([*parts[:index], other, *parts[index + 1 :]])) == REFUSED, (alg, index, other)


def test_a_head_that_was_good_before() -> None:
    """It saves looking for the key, and nothing else."""
    tokens = TokenCheck(plan())
    assert tokens.check(token().encode(), NOW).identity == "alice"
    assert tokens.check(token(sub="bob").encode(), NOW).identity == "bob"
    assert tokens.check(token(OTHER).encode(), NOW) == REFUSED
    assert tokens.check(token(exp=NOW - 31).encode(), NOW) == REFUSED
    for number in range(600):
        assert tokens.check(headed(nonce=number).encode(), NOW).identity == "alice"


def test_tokens_of_two_keys_with_one_head() -> None:
    """As while keys rotate, where tokens name none, or both keys have one name."""
    both = [public(RSA, "rsa"), public(OTHER, "rsa")]
    for kid in ("rsa", None):
        tokens = TokenCheck(plan(key_set(*both)))
        for key in (RSA, OTHER, RSA, OTHER):
            assert tokens.check(token(key, head={"kid": kid}).encode(), NOW).identity == "alice"


def test_a_key_for_agreement_hides_no_key_for_signatures() -> None:
    agreement = public(jwk.OKPKey.generate_key("X25519"))
    for alg in ("EdDSA", "Ed25519"):
        assert (
            check(token(ED, alg, {"kid": None}), key_set(agreement, public(ED)), algorithms=(alg,)).identity == "alice"
        )
    with pytest.raises(ValueError, match="has no public key"):
        TokenCheck(plan(key_set(agreement)))


def test_names_that_are_there_twice() -> None:
    head, payload = json.dumps({"alg": "RS256", "kid": "rsa"}), json.dumps(claims(roles={"a": 1}))
    assert check(signed(head, payload)).identity == "alice"
    for twice in ('"sub": "root", ', '"aud": "x", ', '"exp": 1, ', '"iss": "x", ', '"x": 1, "x": 1, '):
        assert check(signed(head, payload.replace("{", "{" + twice, 1))) == REFUSED, twice
    assert check(signed(head, payload.replace('{"a": 1}', '{"a": 1, "a": 2}'))) == REFUSED
    for twice in ('"alg": "RS256", ', '"kid": "ec", '):
        assert check(signed(head.replace("{", "{" + twice), payload)) == REFUSED, twice


def test_signatures_that_fit_everything() -> None:
    """Zeros, which libraries have taken for ECDSA (CVE-2022-21449), and the group's order; one in DER."""
    good = token(EC, "ES256")
    text, _, signature = good.rpartition(".")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551.to_bytes(32, "big")
    raw = base64.urlsafe_b64decode(signature + "==")
    numbers = [int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")]
    for forged in (
        bytes(64),
        order * 2,
        bytes(32) + order,
        bytes(31) + b"\1" + bytes(32),
        utils.encode_dss_signature(*numbers),
    ):
        assert check(f"{text}.{encoded(forged)}") == REFUSED
    assert check(f"{token()}.AA.AA") == REFUSED  # five parts, as of an encrypted token
    assert (
        check(signed('{"alg": "RS256", "kid": "rsa", "b64": false, "crit": ["b64"]}', json.dumps(claims()))) == REFUSED
    )


def test_key_sets() -> None:
    assert check(token(), key_set(public(OTHER, "old"), public(RSA, "rsa"))).identity == "alice"
    assert check(token(head={"kid": None}), key_set(public(OTHER, "a"), public(RSA, "b"))).identity == "alice"
    private = RSA.as_dict(private=True)
    assert check(token(), key_set({**private, "kid": "rsa"})).identity == "alice"
    strange = ({"kty": "x"}, 1, {"kty": "RSA", "n": "!", "e": "AQAB"}, {"kty": "EC", "crv": "P-256", "x": "AA"})
    assert check(token(), key_set(*strange, public(RSA, "rsa"))).identity == "alice"  # type: ignore[arg-type]
    short = jwk.RSAKey.generate_key(1024)
    assert check(token(), b"") == UNAVAILABLE  # not fetched yet
    for content in (b" ", b"{}", b"[]", b"\xff", b'{"keys": 1}', key_set(public(short)), key_set(*strange)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"is no JWK set|has no public key"):
            TokenCheck(plan(content))


@pytest.mark.parametrize(
    "odd",
    [
        {"alg": None, "use": None, "key_ops": None},
        {"use": "sig", "key_ops": ["verify", "encrypt"]},
        {"x5c": "MII", "x5t": 5, "x5t#S256": [], "x5u": None},
        {"kid": None},
        {"ext": True, "exp": 1, "nbf": "x", "revoked": {}, "issuer": "x"},
    ],
)
def test_members_of_a_key_that_do_not_matter(odd: dict[str, Any]) -> None:
    assert check(token(), key_set(public(OTHER, "rsa"), {**public(RSA, "rsa"), **odd})).identity == "alice"


@pytest.mark.parametrize("uses", [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"key_ops": []}, {"key_ops": "verify"}])
def test_keys_that_are_not_for_signatures(uses: dict[str, Any]) -> None:
    assert check(token(), key_set(public(OTHER, "other"), {**public(RSA, "rsa"), **uses})) == REFUSED


def test_keys_are_found_where_kids_say_little() -> None:
    """RFC 7517 section 4.5: a `kid` is optional, in the key and in the token."""
    assert check(token(), key_set(public(RSA))).identity == "alice"
    assert check(token(), key_set(public(OTHER), public(RSA))).identity == "alice"
    assert check(token(), key_set(public(OTHER, "rsa"), public(RSA))).identity == "alice"
    assert check(token(), key_set(public(RSA, "renamed"))) == REFUSED
    many = [public(OTHER, f"old-{number}") for number in range(29)]
    assert check(token(head={"kid": None}), key_set(*many, public(RSA, "rsa"))).identity == "alice"
    for name in ("EdDSA", "Ed25519"):
        for said in ("EdDSA", "Ed25519"):
            text = token(ED, name, head={"kid": "ed"})
            assert check(text, key_set(public(ED, "ed", alg=said)), algorithms=("EdDSA", "Ed25519")).identity == "alice"


def test_tokens_of_issuers() -> None:
    """What their tokens have instead of `aud`, and where they have roles."""
    cognito = token(aud=None, client_id="gate", token_use="access")
    assert check(cognito) == REFUSED
    assert check(cognito, audience_claim="client_id").identity == "alice"
    assert check(token(aud=None, client_id="else"), audience_claim="client_id") == REFUSED
    assert check(token(aud="gate"), audience_claim="client_id") == REFUSED
    roles = "/realm_access/roles", "/resource_access/my~1app/roles", "/a/b", "/sub/x", "/aud", "/list/0"
    keycloak = token(
        realm_access={"roles": ["infer"]},
        resource_access={"my/app": {"roles": ["user"]}},
        list=["x"],
        **{"/a/b": "top"},
    )
    assert check(keycloak, kept_claims=roles).claims == {
        roles[0]: {"infer"}, roles[1]: {"user"}, "/a/b": set(), "/sub/x": set(), "/aud": {"gate"}, "/list/0": set()
    }  # fmt: skip
    kubernetes = token(**{"kubernetes.io": {"serviceaccount": {"name": "client"}}})
    assert check(kubernetes, claim="/kubernetes.io/serviceaccount/name").identity == "client"
    assert check(kubernetes, claim="/kubernetes.io/serviceaccount") == REFUSED
    assert check(kubernetes, claim="/kubernetes.io/pod/name") == REFUSED
    assert check(token(exp=NOW + 100.25, nbf=NOW - 0.5)).identity == "alice"


def basic(user: str, password: str) -> bytes:
    return base64.b64encode(f"{user}:{password}".encode())


def test_passwords() -> None:
    kept = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    strong = argon2.PasswordHasher(time_cost=1, memory_cost=64).hash("geheim")
    content = f"# users\nalice:{kept}\nbob:{strong}\ncarol:{kept.replace('$2b$', '$2y$')}\n".encode()
    made = make_check(ProviderPlan("staff", "basic", "authorization", content=content))
    assert isinstance(made, PasswordCheck)

    def identity(credential: bytes) -> str | None:
        return made.check(credential, NOW).identity

    assert identity(basic("alice", "secret")) == "alice"
    assert identity(basic("carol", "secret")) == "carol"
    assert identity(basic("bob", "geheim")) == "bob"
    long = "p\u00e4ss" * 16  # 80 bytes in UTF-8, of which htpasswd has hashed 72
    cut = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    of_long = PasswordCheck(f"eve:{cut}\n".encode())
    asked = [of_long.check(basic("eve", one), NOW).identity for one in (long, long[:-1], long[:50])]
    assert asked == ["eve", "eve", None]
    for user, password in (
        ("alice", "geheim"), ("bob", "secret"), ("dave", "secret"), ("", "secret"), ("alice", ""), ("alice", "a" * 100),
        ("alice", "secret\0"), ("Alice", "secret"), ("alicé", "secret"),
    ):  # fmt: skip
        assert identity(basic(user, password)) is None, (user, password)
    for credential in (b"", b"!", base64.b64encode(b"alice"), b"YWxpY2U6c2VjcmV0 "):
        assert identity(credential) is None
    for line in (
        "alice:secret",
        "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "alice:$apr1$a$b",
        "alice:$2y$03$" + "a" * 53,
    ):
        with pytest.raises(ValueError, match="line 1 is not USER:HASH") as error:
            PasswordCheck(line.encode())
        assert "secret" not in str(error.value)
    for broken in ("$argon2id$cut", strong[:60], strong.replace("m=64", "m=9999999999"), strong.replace("p=4", "p=x")):
        with pytest.raises(ValueError, match="line 2: the hash of bob is no whole one of argon2"):
            PasswordCheck(f"# users\nbob:{broken}\n".encode())
    with pytest.raises(ValueError, match="line 3: alice has a password in a line before"):
        PasswordCheck(f"alice:{kept}\nbob:{strong}\nalice:{strong}\n".encode())
