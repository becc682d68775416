"""Which requests of a listener have the choice of their endpoint explained, and what that compiles to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field, model_validator

from lb.config.plan.plan import ExplainPlan
from lb.config.schema.base import Model, Number, problem
from lb.config.schema.listeners.hop import Network


class ExplainConfig(Model):
    """Explanations of the choices that are made for real requests: the candidates, their scores, who was taken, and
    why. Each costs some Python for every endpoint of the pool, so sample few."""

    sample: Number = Field(default=0, ge=0, le=1)
    """Share of the requests whose line in the access log gets an `explain` object. Needs `log.access`."""
    trusted: list[Network] = []
    """Networks of the clients that may ask for it: a request from there with `X-Tidegate-Explain: 1` is answered with a
    header of that name, which has the explanation as JSON, addresses of endpoints included. The client is whom
    `trusted_proxies` say it is. Nobody's header is passed on to an endpoint. Default: nobody may."""

    @model_validator(mode="after")
    def _something(self) -> ExplainConfig:
        if not self.sample and not self.trusted:
            raise problem("explain", "explains nothing; give it a sample, or networks that are trusted")
        return self


def explain_plan(explain: ExplainConfig | None) -> ExplainPlan | None:
    """What `explain` compiles to."""
    return None if explain is None else ExplainPlan(explain.sample, tuple(explain.trusted))


def check_explain(listeners: Mapping[str, ExplainConfig | None], access_log: str) -> Iterator[tuple[str, str]]:
    """Samples that would go nowhere, as (path, message)."""
    for name, explain in listeners.items():
        if explain is not None and explain.sample and not access_log:
            yield f"listeners.{name}.explain.sample", "explains to the access log, which is off; set log.access"
