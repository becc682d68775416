"""The admin server's section of the file.

Apart from the rest: a command that asks the daemon needs this section alone, and loads no other.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lb.config.address import is_loopback, parse_bind
from lb.config.schema.base import Bind, FilePath, Model, Name, problem

Role = Literal["viewer", "operator", "admin"]


class AdminTokenConfig(Model):
    """A token of a person or program, with what it is good for."""

    name: Name
    """Whose it is: each change that is asked for is a line of the log with this name (`tidegate.audit`)."""
    role: Role
    """`viewer` reads: metrics, status, explanations. `operator` also changes what a restart undoes: drains, weights,
    purges, jobs, logs. `admin` does all, a reload too."""
    file: FilePath
    """File with the secret, as that of `token_file`."""


class AdminConfig(Model):
    """The admin server: `/metrics`, `/healthz`, `/readyz`, the API under `/api/v1/` and the dashboard. A request has
    10 s for its head and 10 s for its body of at most 64 KiB, an answer 60 s to be read, a silent connection 75 s.
    There are at most 4096 connections, and half as many as the process may have descriptors. Requests that pages of
    other sites send (`Origin`, `Sec-Fetch-Site`) are refused."""

    bind: Bind = "127.0.0.1:9900"
    """`IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`. An address that other machines can reach needs `token_file` or
    `tokens`.
    Without one, requests by another name than `localhost` or an address are refused. Changing it needs a restart."""
    token_file: FilePath | None = None
    """File with the secret that callers send as `Authorization: Bearer …`. It is read again when it changes, or when a
    reload names another one; one that cannot be used leaves the secret in force that was read last. Default: none is
    asked for."""

    tokens: Annotated[list[AdminTokenConfig], Field(max_length=100)] = []
    """Tokens with names and roles, beside that of `token_file`, which may do all. Default: none."""

    @model_validator(mode="after")
    def _guarded(self) -> AdminConfig:
        names = [token.name for token in self.tokens]
        if len(set(names)) != len(names):
            raise problem("admin", "tokens: two have the same name")
        if {"local", "token"} & set(names):
            raise problem("admin", "tokens: local and token stand for callers without a name of their own")
        if self.token_file is None and not self.tokens and not is_loopback(parse_bind(self.bind)):
            raise problem("admin", f"{self.bind} can be reached from other machines, so token_file is needed")
        return self
