"""Compression of answers on their way to clients, and decompression of bodies on their way either side."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lb.config.plan.routes import CompressionPlan, DecompressionPlan
from lb.config.schema.base import Boolean, Integer, Model, problem, text
from lb.config.schema.routes.cache import switch
from lb.config.units import KIB, Size

# The package that a coding needs (lb.http.encoders), and the name that it is imported by.
_PACKAGES = {
    "gzip": ("zlib-ng", "zlib_ng"), "deflate": ("zlib-ng", "zlib_ng"),
    "br": ("brotli", "brotli"), "zstd": ("zstandard", "zstandard"),
}  # fmt: skip

# What text comes as: what images, sound, video and archives are is compressed already.
TYPES = (
    "text/*", "application/json", "application/ld+json", "application/manifest+json", "application/problem+json",
    "application/x-ndjson", "application/jsonl", "application/javascript", "application/xml", "application/rss+xml",
    "application/atom+xml", "application/wasm", "application/yaml", "image/svg+xml",
)  # fmt: skip
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"  # noqa: S105 (of a media type, no secret)

MediaType = Annotated[
    str, *text(rf"\*|{_TOKEN}/(?:\*|{_TOKEN})", "is not a type such as application/json, text/* or *")
]


def _check(where: str, codings: Sequence[str]) -> None:
    for coding in codings:
        package, module = _PACKAGES[coding]
        if find_spec(module) is None:
            raise problem(where, f"{coding} needs the package {package}: pip install {package}")
    if len(set(codings)) < len(codings):
        raise problem(where, "codings: one is named twice")


class CompressionConfig(Model):
    """Compression of endpoints' answers, for clients that accept it (`Accept-Encoding`). `compression: true` is an
    empty mapping."""

    codings: Annotated[list[Literal["zstd", "br", "gzip"]], Field(min_length=1, max_length=3)] = ["gzip"]
    """What may be used; of those that a client wants equally, the first. `br` and `zstd` need the extra `compression`
    of the package `tidegate`."""
    types: Annotated[list[MediaType], Field(min_length=1, max_length=64)] = list(TYPES)
    """Types of answers (`Content-Type` without parameters) that are compressed; `text/*` is every text, `*` everything.
    As NGINX's `gzip_types`. Default: text, JSON, XML, JavaScript, YAML, WebAssembly and SVG."""
    min_length: Size = 1 * KIB
    """Shortest answer that is compressed, by its `Content-Length`; an answer without one always is. As NGINX's
    `gzip_min_length`."""
    gzip_level: Annotated[Integer, Field(ge=1, le=9)] = 2
    """From 1, the fastest, to 9, the smallest. 2 makes answers smaller than level 1 of zlib, NGINX's default, in less
    time."""
    br_level: Annotated[Integer, Field(ge=0, le=11)] = 3
    """Likewise, from 0 to 11. From 5 on it takes more time than it saves on most networks."""
    zstd_level: Annotated[Integer, Field(ge=1, le=19)] = 3
    """Likewise, from 1 to 19."""
    private: Boolean = False
    """Whether answers to requests with `Cookie` or `Authorization`, and answers with `Set-Cookie`, are compressed, too.
    Where such an answer has a secret and repeats what the request says, its length tells the secret to whoever can
    have the client send requests and see the lengths (BREACH)."""

    @model_validator(mode="after")
    def _installed(self) -> CompressionConfig:
        _check("compression", self.codings)
        return self


Compression = Annotated[CompressionConfig | None, switch(CompressionConfig, "{codings: [gzip]}")]


class DecompressionConfig(Model):
    """Decompression of bodies on their way: an endpoint gets a request as if its client had not compressed it, and,
    with `answers`, a client gets an answer that it can read. `decompression: true` is an empty mapping."""

    requests: Boolean = True
    """Whether bodies of requests are decompressed."""
    answers: Boolean = False
    """Whether answers are decompressed for clients that do not take their coding by `Accept-Encoding`, as by NGINX's
    `gunzip`. A client that says nothing takes none."""

    codings: Annotated[list[Literal["gzip", "deflate", "br", "zstd"]], Field(min_length=1, max_length=4)] = [
        "gzip",
        "deflate",
    ]
    """Codings (`Content-Encoding`) that are undone. A body in another, or in several, passes as it is. `br` and `zstd`
    need the extra `compression` of the package `tidegate`."""
    max_ratio: Annotated[Integer, Field(ge=2, le=100_000)] = 100
    """Bytes that may come out for each byte that comes in, from 1 MiB on: a request over that gets 413, an answer is
    cut off. As Envoy's `max_inflate_ratio`. The `max_body` of the route bounds a request's body as it comes, and as it
    goes on."""

    @model_validator(mode="after")
    def _installed(self) -> DecompressionConfig:
        _check("decompression", self.codings)
        if not self.requests and not self.answers:
            raise problem("requests", "neither requests nor answers are decompressed; leave decompression out")
        return self


Decompression = Annotated[DecompressionConfig | None, switch(DecompressionConfig, "{codings: [gzip, deflate]}")]


def decompression_plan(config: DecompressionConfig | None) -> DecompressionPlan | None:
    """What `config` compiles to."""
    if config is None:
        return None
    return DecompressionPlan(
        codings=tuple(config.codings),
        requests=config.requests,
        answers=config.answers,
        max_ratio=config.max_ratio,
    )


def compression_plan(config: CompressionConfig | None) -> CompressionPlan | None:
    """What `config` compiles to."""
    if config is None:
        return None
    levels = {"gzip": config.gzip_level, "br": config.br_level, "zstd": config.zstd_level}
    return CompressionPlan(
        codings=tuple((coding, levels[coding]) for coding in config.codings),
        types=tuple(kind.lower() for kind in config.types),
        min_length=config.min_length,
        private=config.private,
    )
