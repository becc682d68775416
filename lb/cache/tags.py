"""Tags: names of what an answer depends on. A purge of a tag takes all answers that carry it.

    pool:P          of the pool
    model:P/M       of the model, in whatever version
    model:P/M/V     of that version; `model:P/M/` of answers to requests that name no version
    tenant:T        of the tenant
    url:H/T         of host and target (path and query) of an answer that an HTTP cache keeps, whatever the scheme

Names are percent-encoded (RFC 3986), so that a tag is printable ASCII without spaces and commas: as it is, it may stand
in a `Cache-Tag` or `Surrogate-Key` field. Clients and endpoints may give tags of their own. A tag that reads like one
of the above is purged with it.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

LONGEST = 1024  # bytes of a tag, Cloudflare's limit
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def of_pool(pool: str) -> str:
    return f"pool:{_part(pool)}"


def of_model(pool: str, model: str) -> str:
    return f"model:{_part(pool)}/{_part(model)}"


def of_version(pool: str, model: str, version: str) -> str:
    """`version` is "" of requests that name none: any version may have answered them."""
    return f"{of_model(pool, model)}/{_part(version)}"


def of_tenant(tenant: str) -> str:
    return f"tenant:{_part(tenant)}"


def of_url(url: str) -> str:
    """The tag of an absolute `http` or `https` URL. The host is in lower case and has no port that is the scheme's own;
    of the rest only what no request line may have is percent-encoded. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("must be a URL such as https://example.org/path")
    host = parts.netloc.lower()
    for port in (":80", ":443"):
        host = host.removesuffix(port)
    target = (parts.path or "/") + (f"?{parts.query}" if "?" in url.partition("#")[0] else "")
    return f"url:{host}{quote(target, safe=_PRINTABLE)}"


def url_of(tag: str) -> str | None:
    """Host and target of a tag of a URL, without a scheme; None of others."""
    kind, _, rest = tag.partition(":")
    return rest if kind == "url" and "/" in rest else None


def of_answer(pool: str, model: str, version: str) -> tuple[str, ...]:
    """What an answer of a model carries."""
    return of_pool(pool), of_model(pool, model), of_version(pool, model, version)


def of_models_answers(pool: str, model: str, version: str | None) -> tuple[str, ...]:
    """What to purge of a model: all of it, or with `version` what that version may have answered."""
    if version is None:
        return (of_model(pool, model),)
    return of_version(pool, model, version), of_version(pool, model, "")


def pool_of(tag: str) -> str | None:
    """The tag of the pool that a tag of a model, or of a pool, belongs to; None of others."""
    kind, _, rest = tag.partition(":")
    return f"pool:{rest.partition('/')[0]}" if kind in ("pool", "model") else None


def model_of(tag: str) -> str | None:
    """The model's name, percent-encoded; None of a tag that is of no model."""
    kind, _, rest = tag.partition(":")
    parts = rest.split("/")
    return parts[1] if kind == "model" and len(parts) > 1 and parts[1] else None


def _part(name: str) -> str:
    return quote(name, safe="")
