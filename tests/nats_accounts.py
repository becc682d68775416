"""Operators, accounts and users of NATS's decentralised authentication, as `nsc` makes them: a key each, and a JWT that
the one above has signed (https://docs.nats.io/running-a-nats-service/nats_admin/security/jwt)."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import nkeys

_KINDS = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "user": nkeys.PREFIX_BYTE_USER,
}
_UNBOUNDED = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
_JETSTREAM = ("mem_storage", "disk_storage", "streams", "consumer")


class Holder:
    """One that has a key, by its kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), _KINDS[kind])
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def issue(self, subject: Holder, expires: float = 0, **claims: Any) -> str:
        """The JWT of another; `expires` in seconds from now, 0 for never."""
        now = int(time.time())
        body: dict[str, Any] = {
            "jti": os.urandom(16).hex(),
            "iat": now,
            "iss": self.public,
            "sub": subject.public,
            "name": subject.kind,
            "nats": {**claims, "type": subject.kind, "version": 2},
        }
        if expires:
            body["exp"] = int(now + expires)
        content = f"{_encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encoded(body)}"
        return f"{content}.{_base64(self._pair.sign(content.encode()))}"


class Site:
    """An operator with an account that has JetStream; `server` is the configuration of a server that trusts it."""

    def __init__(self) -> None:
        operator, system = Holder("operator"), Holder("account")
        self._account = Holder("account")
        limits: dict[str, Any] = dict.fromkeys(_UNBOUNDED, -1) | {"wildcards": True}
        jetstream = limits | dict.fromkeys(_JETSTREAM, -1)
        self.server = (
            f"operator: {operator.issue(operator)}\n"
            f"system_account: {system.public}\n"
            "resolver: MEMORY\n"
            "resolver_preload: {\n"
            f"  {system.public}: {operator.issue(system, limits=limits)}\n"
            f"  {self._account.public}: {operator.issue(self._account, limits=jetstream)}\n"
            "}\n"
        )

    def credentials(self, *, publish: list[str], subscribe: list[str], expires: float = 0) -> str:
        """The file of a user who may do so much."""
        user = Holder("user")
        jwt = self._account.issue(
            user, expires, pub={"allow": publish}, sub={"allow": subscribe}, subs=-1, data=-1, payload=-1
        )
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encoded(document: Any) -> str:
    return _base64(json.dumps(document).encode())
