"""What is wrong with the policies of a configuration, and what else of them the master has to know."""

from __future__ import annotations

from collections.abc import Iterator

from lb.balancing.option_problems import option_problems
from lb.balancing.options import FROM_FILE
from lb.balancing.policies.client_side_weighted_round_robin import ReportOptions
from lb.balancing.registry import find
from lb.config.schema.file import Config, PolicyConfig
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
    yield from option_problems(kind.Options, policy.options, protocol)


def report_period(policy: PolicyConfig) -> int | None:
    """How often endpoints are to report their load out of band, in ns; None: they are not asked to. The options are
    known to be well."""
    if "oob" not in policy.options:
        return None
    options = find(policy.type).Options.model_validate(policy.options, context=FROM_FILE)
    return options.oob.period if isinstance(options, ReportOptions) and options.oob is not None else None
