"""What takes a library: tokens and passwords, checked by a thread of each provider, away from the loop.

joserfc verifies tokens, with keys of `cryptography`; bcrypt and argon2-cffi verify passwords. They are imported with
the first provider that needs them. A check lets the loop go on while its library computes: all of them leave the
interpreter's lock.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from lb.errors import TidegateError

if TYPE_CHECKING:
    from lb.config.plan.access import ProviderPlan

log = logging.getLogger("tidegate.proxy")

EXTRA = "needs packages that are not installed: pip install tidegate[auth]"
REMEMBERED_PASSWORD = 300.0  # seconds
_KEYS_TRIED = 32  # of a set, for a token that names none
_HEADS = 256
_SIGNING_CURVES = ("Ed25519", "Ed448")  # of OKP (RFC 8037)


class Outcome(Struct, frozen=True):
    """`identity` is None where the credential is not accepted. `seconds`: for so long it is known."""

    identity: str | None = None
    seconds: float = 0.0
    available: bool = True  # False: nobody could say
    scopes: frozenset[str] = frozenset()
    claims: dict[str, frozenset[str]] | None = None  # those that routes ask for


REFUSED = Outcome()
UNAVAILABLE = Outcome(available=False)


class Check(Protocol):
    """`room` is how many credentials may wait for their check at once."""

    room: int

    def check(self, credential: bytes, now: float) -> Outcome:
        """At the Unix time `now`. Takes its time."""
        ...


def make_check(plan: ProviderPlan) -> Check | None:
    """None where nothing takes time. Raises ValueError for content that cannot be used, TidegateError without the
    packages."""
    try:
        if plan.type == "jwt":
            return TokenCheck(plan)
        if plan.type == "basic":
            return PasswordCheck(plan.content)
    except ImportError as error:
        raise TidegateError(f"auth.{plan.name}: type {plan.type} {EXTRA}") from error
    return None


class TokenCheck:
    """Signed tokens (RFC 7519) by the keys of a JWK set (RFC 7517), as RFC 8725 advises.

    The algorithm has to be on the list and fit the key's type: the set's symmetric keys are not looked at, so that no
    public key ever serves as a secret. What the token says of where its key is (`jku`, `x5u`, `jwk`) has no effect, nor
    has what its head says besides (RFC 7515 section 4), but for what is `crit`: no extension is understood.
    """

    room = 1024

    def __init__(self, plan: ProviderPlan) -> None:
        from joserfc.errors import JoseError, SecurityWarning

        # Which signatures are accepted is the configuration's to say; the log gets no lines of Python's for each.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        self._errors = (JoseError, ValueError, TypeError, KeyError, RecursionError)
        self._plan = plan
        self._verifiers = verifiers(plan.algorithms, plan.content) if plan.content else {}
        # Keys that fit, by the heads of tokens that were good: an issuer's are alike.
        self._by_head: dict[bytes, list[Verifier]] = {}

    def check(self, credential: bytes, now: float) -> Outcome:
        plan = self._plan
        if not plan.content:
            return UNAVAILABLE
        try:
            claims = self._verified(credential)
        except self._errors:
            return REFUSED
        if claims is None:
            return REFUSED
        expires, before = _time(claims.get("exp")), _time(claims.get("nbf", 0))
        if expires is None or before is None:
            return REFUSED
        left = expires + plan.leeway_s - now
        if left <= 0 or before - plan.leeway_s > now:
            return REFUSED
        audience = _claim(claims, plan.audience_claim)
        named = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
        if claims.get("iss") != plan.issuer or not any(one in plan.audience for one in named if isinstance(one, str)):
            return REFUSED
        identity = _claim(claims, plan.claim)
        if not isinstance(identity, str):
            return REFUSED
        kept = {name: _values(_claim(claims, name)) for name in plan.kept_claims} if plan.kept_claims else None
        return Outcome(identity, left, scopes=_scopes(claims), claims=kept)

    def _verified(self, credential: bytes) -> dict[str, Any] | None:
        """The claims of a token with a good signature. Raises one of `_errors` for what is no token."""
        signed, _, encoded = credential.rpartition(b".")
        head, _, payload = signed.partition(b".")
        signature = _decode(encoded)
        known = self._by_head.get(head)
        fitting = self._fitting(head) if known is None else known
        if not any(verifier.verifies(signed, signature) for verifier in fitting):
            return None
        if known is None:
            if len(self._by_head) >= _HEADS:
                self._by_head.clear()
            self._by_head[head] = fitting
        return _object(payload)

    def _fitting(self, head: bytes) -> list[Verifier]:
        parameters = _object(head)
        algorithm, kid = parameters["alg"], parameters.get("kid")
        if "crit" in parameters or not (kid is None or isinstance(kid, str)):
            return []
        listed = self._verifiers[algorithm]
        # A key without a `kid` may be of any token's: RFC 7517 section 4.5 leaves it out.
        fitting = [one for one in listed if kid in (None, one.kid)] + [
            one for one in listed if kid is not None and one.kid is None
        ]
        return fitting[:_KEYS_TRIED]


class Verifier(Struct, frozen=True):
    """A key of joserfc's with an algorithm that it is for."""

    algorithm: Any
    key: Any
    kid: str | None

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Raises JoseError for a key that is not for verifying."""
        return bool(self.algorithm.verify(signed, signature, self.key))


def verifiers(algorithms: Iterable[str], content: bytes) -> dict[str, list[Verifier]]:
    """By algorithm, for the keys of a JWK set. Raises ValueError as `read_key_set` does."""
    from joserfc import jws
    from joserfc.errors import JoseError

    keys, registry = read_key_set(content), jws.JWSRegistry(algorithms=list(algorithms))
    found: dict[str, list[Verifier]] = {}
    for name in algorithms:
        algorithm = registry.get_alg(name)
        found[name] = []
        for key, kid in keys:
            try:
                algorithm.check_key(key)  # its type, curve, `use` and `alg`
            except JoseError:
                continue
            found[name].append(Verifier(algorithm, key, kid))
    return found


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """`scope` has them with spaces between (RFC 8693 section 4.2), `scp` of Microsoft and Okta so or as a list."""
    found: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name)
        found.update(value.split(" ") if isinstance(value, str) else _values(value))
    return frozenset(found - {""})


def _claim(claims: dict[str, Any], name: str) -> Any:
    """The claim of that name, or, by a JSON Pointer (RFC 6901), a member of objects in it; None for none."""
    if not name.startswith("/"):
        return claims.get(name)
    found: Any = claims
    for part in name[1:].split("/"):
        if not isinstance(found, dict):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~"))
    return found


def _values(value: Any) -> frozenset[str]:
    """What a claim says, if that is a string, a boolean or a list of these; else nothing."""
    listed = value if isinstance(value, list) else [value]
    return frozenset(one if isinstance(one, str) else str(one).lower() for one in listed if isinstance(one, str | bool))


def _time(value: Any) -> float | None:
    """Unix seconds; None for what is none."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return float(value) if good else None


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Raises ValueError for a name that is there twice (RFC 7519 section 4): an endpoint that reads the
    token, too, may take the other one."""
    made = dict(members)
    if len(made) < len(members):
        raise ValueError("a name is there twice")
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _object(encoded: bytes) -> dict[str, Any]:
    """Raises ValueError or RecursionError."""
    found = _DECODER.decode(_decode(encoded).decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError("is no object")
    return found


_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")  # of base64url


def _decode(text: bytes) -> bytes:
    """base64url without padding (RFC 7515 section 2). Raises ValueError where the text is not the only one of its
    bytes."""
    padded = text.translate(_BASE64) + b"=" * (-len(text) % 4)
    data = binascii.a2b_base64(padded)
    if binascii.b2a_base64(data, newline=False) != padded:
        raise ValueError("is no base64url")
    return data


def read_key_set(content: bytes) -> list[tuple[Any, str | None]]:
    """The public signing keys of a JWK set, each with its `kid`. Keys of kinds that are not known are passed over.
    Raises ValueError when there is none."""
    from joserfc import jwk
    from joserfc.errors import JoseError

    try:
        listed = json.loads(content)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("is no JWK set: a JSON object with a list of `keys`") from None
    kinds = {"RSA": jwk.RSAKey, "EC": jwk.ECKey, "OKP": jwk.OKPKey}
    found = []
    for one in listed if isinstance(listed, list) else ():
        if not isinstance(one, dict) or one.get("kty") not in kinds or not _is_for_signatures(one):
            continue
        # Nothing private, and nothing that is not needed, such as certificates: no mistake in it can matter.
        public = {name: one[name] for name in ("kty", "alg", "n", "e", "crv", "x", "y") if one.get(name) is not None}
        if one["kty"] == "OKP":  # EdDSA and Ed25519 are two names for what its curve says (RFC 9864 section 2.2)
            public.pop("alg", None)
        try:
            key = kinds[one["kty"]].import_key(public)
            if one["kty"] == "RSA" and key.public_key.key_size < 2048:
                continue
            if one["kty"] == "OKP" and key.curve_name not in _SIGNING_CURVES:  # X25519 and X448 agree on keys
                continue
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        kid = one.get("kid")
        found.append((key, kid if isinstance(kid, str) else None))
    if not found:
        raise ValueError("has no public key to verify signatures with: RSA from 2048 bits on, EC or OKP")
    return found


def _is_for_signatures(key: dict[str, Any]) -> bool:
    """By its `use` and `key_ops` (RFC 7517 sections 4.2 and 4.3), which some issuers write as null."""
    uses = key.get("key_ops")
    return key.get("use") in (None, "sig") and (uses is None or (isinstance(uses, list) and "verify" in uses))


class PasswordCheck:
    """Passwords of an htpasswd file (RFC 7617)."""

    room = 32

    def __init__(self, content: bytes) -> None:
        import argon2
        import bcrypt

        self._bcrypt = bcrypt
        self._argon2 = argon2.PasswordHasher()
        self._argon2_errors = argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError
        self._users = read_passwords(content)
        # Who is not in the file takes as long as who is.
        self._nobody = next(iter(self._users.values()))

    def check(self, credential: bytes, now: float) -> Outcome:
        try:
            user, colon, password = base64.b64decode(credential, validate=True).partition(b":")
            name = user.decode("ascii")
        except (binascii.Error, ValueError):
            return REFUSED
        kept = self._users.get(name)
        good = self._matches(password, kept if kept is not None else self._nobody)
        return Outcome(name, REMEMBERED_PASSWORD) if good and colon and kept is not None else REFUSED

    def _matches(self, password: bytes, kept: str) -> bool:
        if kept.startswith("$argon2"):
            try:
                return bool(self._argon2.verify(kept, password))
            except self._argon2_errors:
                return False
        try:
            # bcrypt has looked at 72 bytes ever since: htpasswd hashes these of a longer password.
            return bool(self._bcrypt.checkpw(password[:_BCRYPT_MOST], kept.encode()))
        except ValueError:  # a zero byte
            return False


_PASSWORD = re.compile(
    r"([!-9;-~]{1,128}):(\$2[aby]\$(?:0[4-9]|1[0-9])\$[./A-Za-z0-9]{53}|\$argon2id?\$[!-9;-~]{1,300})", re.ASCII
)


_BCRYPT_MOST = 72  # bytes of a password
_ARGON2_LEAST = 16  # bytes of a digest
_ARGON2_MOST = 1 << 32  # KiB of memory


def read_passwords(content: bytes) -> dict[str, str]:
    """Users and what is kept of their passwords. Raises ValueError, which shows nothing of these."""
    found: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _PASSWORD.fullmatch(line)
        if match is None:
            raise ValueError(
                f"line {number} is not USER:HASH with bcrypt ($2y$, from htpasswd -B) or argon2, and a USER of "
                "1 to 128 printable ASCII characters"
            )
        if match[2].startswith("$argon2") and not _is_argon2(match[2]):
            raise ValueError(f"line {number}: the hash of {match[1]} is no whole one of argon2")
        if match[1] in found:
            raise ValueError(f"line {number}: {match[1]} has a password in a line before")
        found[match[1]] = match[2]
    if not found:
        raise ValueError("has no users")
    return found


def _is_argon2(kept: str) -> bool:
    """Whether a password can be verified by it: of one that is cut off, none ever is."""
    import argon2

    try:
        parameters = argon2.extract_parameters(kept)
    except (argon2.exceptions.InvalidHashError, ValueError):
        return False
    return bool(parameters.hash_len >= _ARGON2_LEAST and parameters.memory_cost < _ARGON2_MOST)


Told = Callable[[Any, Outcome], None]
"""Of a key that `Checker.ask` was given, what was found."""


class Checker:
    """Checks credentials by a thread, one after another. Methods are for the loop."""

    def __init__(self, check: Check, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.room = check.room
        self._check = check
        self._name = name
        self._loop = loop
        self._wanted: queue.SimpleQueue[tuple[Any, bytes, Told] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, key: Any, credential: bytes, told: Told) -> None:
        """`told(key, outcome)` is called by the loop, later."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"auth {self._name}", daemon=True)
            self._thread.start()
        self._wanted.put((key, credential, told))

    def close(self) -> None:
        """What has been asked is answered, nothing more."""
        self._wanted.put(None)

    def _run(self) -> None:
        while (asked := self._wanted.get()) is not None:
            key, credential, told = asked
            try:
                outcome = self._check.check(credential, time.time())
            except Exception:  # of a library: nobody may be let in by it, and the thread has to go on
                log.exception("auth.%s: a credential could not be checked", self._name)
                outcome = UNAVAILABLE
            try:
                self._loop.call_soon_threadsafe(told, key, outcome)
            except RuntimeError:  # the loop is closed
                return
