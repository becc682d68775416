"""Tags: names of what an answer depends on. A purge of a tag takes all answers that carry it.

    pool:P          of the pool
    model:P/M       of the model, in whatever version
    model:P/M/V     of that version; `model:P/M/` of answers to requests that name no version
    tenant:T        of the tenant

Names are percent-encoded (RFC 3986), so that a tag is printable ASCII without spaces and commas: as it is, it may stand
in a `Cache-Tag` or `Surrogate-Key` field. Clients and endpoints may give tags of their own. A tag that reads like one
of the above is purged with it.
"""

from __future__ import annotations

from urllib.parse import quote

LONGEST = 1024  # bytes of a tag, Cloudflare's limit


def of_pool(pool: str) -> str:
    return f"pool:{_part(pool)}"


def of_model(pool: str, model: str) -> str:
    return f"model:{_part(pool)}/{_part(model)}"


def of_version(pool: str, model: str, version: str) -> str:
    """`version` is "" of requests that name none: any version may have answered them."""
    return f"{of_model(pool, model)}/{_part(version)}"


def of_tenant(tenant: str) -> str:
    return f"tenant:{_part(tenant)}"


def of_answer(pool: str, model: str, version: str) -> tuple[str, ...]:
    """What an answer of a model carries."""
    return of_pool(pool), of_model(pool, model), of_version(pool, model, version)


def of_models_answers(pool: str, model: str, version: str | None) -> tuple[str, ...]:
    """What to purge of a model: all of it, or with `version` what that version may have answered."""
    if version is None:
        return (of_model(pool, model),)
    return of_version(pool, model, version), of_version(pool, model, "")


def _part(name: str) -> str:
    return quote(name, safe="")
