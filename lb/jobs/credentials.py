"""Credentials of NATS's decentralised authentication: a user's JWT and the seed of its nkey, in one file as
`nsc generate creds` writes it. The seed signs a nonce of the server and is never sent."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nkeys

_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+([\w.=-]+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-----BEGIN USER NKEY SEED-----\s+(SU[A-Z2-7]+)\s+-+END USER NKEY SEED-+")


class Credentials:
    """The content of a file. Raises OSError where it cannot be read, ValueError where it is no such file."""

    def __init__(self, path: Path) -> None:
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            text = ""
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if jwt is None or seed is None:
            missing = "JWT" if jwt is None else "seed of an nkey"
            raise ValueError(f"{path}: there is no {missing} of a user in it, as in a file of `nsc generate creds`")
        self.jwt = jwt[1].encode()
        self._seed = seed[1].encode()
        try:
            self.sign("")
        except (nkeys.NkeysError, ValueError) as error:
            raise ValueError(f"{path}: the seed cannot be used: {error or type(error).__name__}") from None

    def sign(self, nonce: str) -> bytes:
        """The signature of a server's nonce, in base64 as the protocol has it."""
        return base64.b64encode(nkeys.from_seed(bytearray(self._seed)).sign(nonce.encode()))
