"""Policies by name: Tidegate's own, and those of the entry-point group `tidegate.policies`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lb.balancing.client_side_weighted_round_robin import ClientSideWeightedRoundRobin
from lb.balancing.first import First
from lb.balancing.guard import Guard
from lb.balancing.least_request import LeastRequest
from lb.balancing.least_time import LeastTime
from lb.balancing.maglev import Maglev
from lb.balancing.options import PolicyOptions, ReportOptions
from lb.balancing.peak_ewma import PeakEwma
from lb.balancing.policy import Policy
from lb.balancing.power_of_two import PowerOfTwo
from lb.balancing.prequal import Prequal
from lb.balancing.random import Random
from lb.balancing.rendezvous import Rendezvous
from lb.balancing.ring_hash import RingHash
from lb.balancing.round_robin import RoundRobin
from lb.balancing.shortest_expected_delay import ShortestExpectedDelay
from lb.config.advice import policy_advice
from lb.config.explain import message, value_at, where
from lb.config.foreign import POLICIES as POLICIES_ELSEWHERE
from lb.config.plan import PolicyPlan
from lb.config.plugins import Family, words_of
from lb.config.schema import Config, PolicyConfig
from lb.config.units import FileContext
from lb.endpoints.set import EndpointSet
from lb.errors import ConfigError

GROUP = "tidegate.policies"
PolicyType = type[Policy]

# Options come from a file: a duration without a unit is a mistake there. What has a path would start from here.
_FROM_FILE = FileContext(Path())

POLICIES: dict[str, PolicyType] = {
    "client_side_weighted_round_robin": ClientSideWeightedRoundRobin,
    "first": First,
    "least_request": LeastRequest,
    "least_time": LeastTime,
    "maglev": Maglev,
    "peak_ewma": PeakEwma,
    "power_of_two": PowerOfTwo,
    "prequal": Prequal,
    "random": Random,
    "rendezvous": Rendezvous,
    "ring_hash": RingHash,
    "round_robin": RoundRobin,
    "shortest_expected_delay": ShortestExpectedDelay,
}


def _needs_key_is_wrong(kind: PolicyType) -> str:
    return "" if isinstance(kind.needs_key, bool) else "its needs_key is not True or False"


_FAMILY = Family(
    GROUP,
    "policy",
    Policy,
    POLICIES,
    method="pick",
    options=PolicyOptions,
    check=_needs_key_is_wrong,
    elsewhere=lambda name: policy_advice(POLICIES_ELSEWHERE, name),
)
names = _FAMILY.names
find = _FAMILY.find


def options_model(name: str) -> type[PolicyOptions]:
    """The closed pydantic model of the policy's options. Raises ConfigError as `find` does."""
    return find(name).Options


def report_period(policy: PolicyConfig) -> int | None:
    """How often endpoints are to report their load out of band, in ns; None: they are not asked to. The options are
    known to be well."""
    if "oob" not in policy.options:
        return None
    options = find(policy.type).Options.model_validate(policy.options, context=_FROM_FILE)
    return options.oob.period if isinstance(options, ReportOptions) and options.oob is not None else None


def build(plan: PolicyPlan, endpoints: EndpointSet) -> Policy:
    """The policy that `plan` asks for, over `endpoints`.

    A plug-in comes behind a Guard. Raises ConfigError when there is no such policy, its options are wrong, or the
    plug-in's constructor fails.
    """
    kind = find(plan.type)
    problems = [f"policy {plan.type!r}: {path}: {text}" for path, text in _option_problems(kind, plan.options or {})]
    if problems:
        raise ConfigError(problems)
    options = kind.Options.model_validate(plan.options or {}, context=_FROM_FILE)
    if _FAMILY.is_own(plan.type):
        return kind(endpoints, options)
    try:
        return Guard(endpoints, kind(endpoints, options), plan.type)
    except BaseException as error:
        raise ConfigError([f"policy {plan.type!r} cannot be built: {words_of(error)}"]) from error


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
    yield from _option_problems(kind, policy.options, protocol)


def _option_problems(
    kind: PolicyType, options: dict[str, Any], protocol: str | None = None
) -> Iterator[tuple[str, str]]:
    """`protocol` is the pool's; None where the configuration was checked already."""
    try:
        made = kind.Options.model_validate(options, context=_FROM_FILE)
        found = [] if protocol is None else list(made.problems(protocol))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            yield where(detail["loc"]), message(detail, kind.Options, value_at(options, detail["loc"]))
    except BaseException as error:  # a plug-in's validator
        yield "", f"the options cannot be checked: {words_of(error)}"
    else:
        yield from found
