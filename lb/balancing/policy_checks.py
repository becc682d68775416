"""What is wrong with the policies of a configuration, and what else of them the master has to know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from lb.balancing.options import ReportOptions
from lb.balancing.registry import FROM_FILE, PolicyType, find
from lb.config.explain import message, value_at, where
from lb.config.plugins import words_of
from lb.config.schema import Config, PolicyConfig
from lb.errors import ConfigError


def check_policies(config: Config) -> list[tuple[str, str]]:
    """Every problem with the policies of `config`, as (path, message): a check for lb.config.load."""
    return [
        (f"pools.{name}.policy{'.' if path else ''}{path}", text)
        for name, pool in config.pools.items()
        for path, text in _problems(pool.policy, pool.protocol)
    ]


def _problems(policy: PolicyConfig, protocol: str) -> Iterator[tuple[str, str]]:
    try:
        kind = find(policy.type)
    except ConfigError as error:
        yield "", str(error)
        return
    if kind.needs_key and policy.key is None:
        yield "key", f"is required: {policy.type} chooses by a key (header, cookie, query, source or model)"
    if not kind.needs_key and policy.key is not None:
        yield "key", f"has no effect: {policy.type} does not choose by a key"
    yield from option_problems(kind, policy.options, protocol)


def option_problems(
    kind: PolicyType, options: dict[str, Any], protocol: str | None = None
) -> Iterator[tuple[str, str]]:
    """`protocol` is the pool's; None where the configuration was checked already."""
    try:
        made = kind.Options.model_validate(options, context=FROM_FILE)
        found = [] if protocol is None else list(made.problems(protocol))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            yield where(detail["loc"]), message(detail, kind.Options, value_at(options, detail["loc"]))
    except BaseException as error:  # a plug-in's validator
        yield "", f"the options cannot be checked: {words_of(error)}"
    else:
        yield from found


def report_period(policy: PolicyConfig) -> int | None:
    """How often endpoints are to report their load out of band, in ns; None: they are not asked to. The options are
    known to be well."""
    if "oob" not in policy.options:
        return None
    options = find(policy.type).Options.model_validate(policy.options, context=FROM_FILE)
    return options.oob.period if isinstance(options, ReportOptions) and options.oob is not None else None
