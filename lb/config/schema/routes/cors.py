"""Cross-origin requests (CORS, the Fetch standard section 3.3): which pages of other origins may ask."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from lb.config.plan.routes import CorsPlan
from lb.config.schema.base import Boolean, Model, Regex, Token, problem
from lb.config.units import HOUR, SECOND, Duration

_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(?:\*\.)?(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII
)
_USUAL = {"http": "80", "https": "443"}


def _origin(value: str) -> str:
    if value == "*":
        return value
    found = _ORIGIN.fullmatch(value)
    if found is None:
        raise problem(
            "origin", f"{value!r} is not an origin such as https://app.example.org or https://*.example.org, or *"
        )
    if found[2] is not None and found[2] == _USUAL.get(found[1]):
        raise problem("origin", f"{value!r}: browsers leave out :{found[2]}, so that it would match no origin")
    return value


Origin = Annotated[str, AfterValidator(_origin)]


class CorsConfig(Model):
    """Pages of which other origins may send requests of this route from a browser. Preflight requests are answered by
    Tidegate; fields of this kind in the answers of endpoints are replaced. Names are those of Envoy's CorsPolicy."""

    allow_origins: Annotated[list[Origin], Field(max_length=256)] = []
    """Origins as browsers write them: `https://app.example.org`, with a port where it is not the usual one;
    `https://*.example.org` for any name below; `*` alone for every page there is."""
    allow_origin_regexes: Annotated[list[Regex], Field(max_length=32)] = []
    """Regular expressions (RE2's syntax) for whole origins."""
    allow_methods: Annotated[list[Token], Field(min_length=1, max_length=64)] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE",
    ]  # fmt: skip
    """Methods that pages may use, `*` for any."""
    allow_headers: Annotated[list[Token], Field(max_length=64)] = [
        "authorization", "content-type", "grpc-timeout", "idempotency-key", "inference-header-content-length", "prefer",
        "priority", "x-api-key", "x-grpc-web", "x-tidegate-deadline", "x-tidegate-webhook", "x-user-agent",
    ]  # fmt: skip
    """Headers that pages may send, beside those that they always may; `*` for any but `authorization`."""
    expose_headers: Annotated[list[Token], Field(max_length=64)] = [
        "content-location", "grpc-message", "grpc-status", "grpc-status-details-bin", "inference-header-content-length",
        "location", "preference-applied", "retry-after",
    ]  # fmt: skip
    """Headers of answers that pages may read, beside those that they always may; `*` for any."""
    allow_credentials: Boolean = False
    """Whether pages may send cookies, client certificates and what the browser knows for `Authorization`."""
    max_age: Duration = 2 * HOUR
    """How long a browser may keep the answer to a preflight request. Chromium keeps it for two hours at most."""

    @model_validator(mode="after")
    def _possible(self) -> CorsConfig:
        if not self.allow_origins and not self.allow_origin_regexes:
            raise problem("cors", "one of allow_origins and allow_origin_regexes is needed")
        if "*" in self.allow_origins and (len(self.allow_origins) > 1 or self.allow_origin_regexes):
            raise problem("cors", "allow_origins: * stands for every origin, the others add nothing")
        if not self.allow_credentials:
            return self
        if "*" in self.allow_origins:
            raise problem("cors", "allow_origins: browsers take no * together with allow_credentials; name the origins")
        for name in ("allow_methods", "allow_headers", "expose_headers"):
            if "*" in getattr(self, name):
                raise problem("cors", f"{name}: * is a plain name to browsers together with allow_credentials")
        return self


def cors_plan(config: CorsConfig | None) -> CorsPlan | None:
    """Its plan."""
    if config is None:
        return None
    return CorsPlan(
        origins=tuple(config.allow_origins),
        regexes=tuple(f"^(?:{regex})$" for regex in config.allow_origin_regexes),
        allow_methods=", ".join(config.allow_methods),
        allow_headers=", ".join(config.allow_headers),
        expose_headers=", ".join(config.expose_headers),
        credentials=config.allow_credentials,
        max_age_s=config.max_age // SECOND,
    )
