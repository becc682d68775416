"""Policies by name: Tidegate's own, and those of the entry-point group `tidegate.policies`.

Workers load this module. What advises operators takes as long to load as all the rest: it is loaded when it is needed.
"""

from __future__ import annotations

from typing import Any

from lb.balancing.guard import Guard
from lb.balancing.options import FROM_FILE, PolicyOptions
from lb.balancing.policies.auto import Auto
from lb.balancing.policies.client_side_weighted_round_robin import ClientSideWeightedRoundRobin
from lb.balancing.policies.first import First
from lb.balancing.policies.least_request import LeastRequest
from lb.balancing.policies.least_time import LeastTime
from lb.balancing.policies.maglev import Maglev
from lb.balancing.policies.never_queue import NeverQueue
from lb.balancing.policies.peak_ewma import PeakEwma
from lb.balancing.policies.power_of_two import PowerOfTwo
from lb.balancing.policies.prequal import Prequal
from lb.balancing.policies.random import Random
from lb.balancing.policies.rendezvous import Rendezvous
from lb.balancing.policies.ring_hash import RingHash
from lb.balancing.policies.round_robin import RoundRobin
from lb.balancing.policies.shortest_expected_delay import ShortestExpectedDelay
from lb.balancing.policy import Policy
from lb.config.plan.plan import PolicyPlan
from lb.config.plugins import Family, words_of
from lb.endpoints.set import EndpointSet
from lb.errors import ConfigError

GROUP = "tidegate.policies"
PolicyType = type[Policy]

POLICIES: dict[str, PolicyType] = {
    "auto": Auto,
    "client_side_weighted_round_robin": ClientSideWeightedRoundRobin,
    "first": First,
    "least_request": LeastRequest,
    "least_time": LeastTime,
    "maglev": Maglev,
    "never_queue": NeverQueue,
    "peak_ewma": PeakEwma,
    "power_of_two": PowerOfTwo,
    "prequal": Prequal,
    "random": Random,
    "rendezvous": Rendezvous,
    "ring_hash": RingHash,
    "round_robin": RoundRobin,
    "shortest_expected_delay": ShortestExpectedDelay,
}


def _interface_is_wrong(kind: PolicyType) -> str:
    if not isinstance(kind.needs_key, bool):
        return "its needs_key is not True or False"
    code = getattr(kind.pick, "__code__", None)  # a compiled one has none
    if code is not None and code.co_argcount > 2 and not kind.pick.__defaults__:
        return "its pick takes more than one argument, choice (see docs/howto/add-a-policy.md)"
    return ""


def _elsewhere(name: str) -> str:
    from lb.config.advice.advice import policy_advice
    from lb.config.advice.foreign import POLICIES as POLICIES_ELSEWHERE

    return policy_advice(POLICIES_ELSEWHERE, name)


_FAMILY = Family(
    GROUP,
    "policy",
    Policy,
    POLICIES,
    method="pick",
    options=PolicyOptions,
    check=_interface_is_wrong,
    elsewhere=_elsewhere,
)
names = _FAMILY.names
find = _FAMILY.find


def options_model(name: str) -> type[PolicyOptions]:
    """The closed pydantic model of the policy's options. Raises ConfigError as `find` does."""
    return find(name).Options


def build(plan: PolicyPlan, endpoints: EndpointSet) -> Policy:
    """The policy that `plan` asks for, over `endpoints`.

    A plug-in comes behind a Guard. Raises ConfigError when there is no such policy, its options are wrong, or the
    plug-in's constructor fails.
    """
    kind = _FAMILY.found_before(plan.type)
    options = _checked(plan.type, kind, plan.options or {})
    if _FAMILY.is_own(plan.type):
        return kind(endpoints, options)
    try:
        return Guard(endpoints, kind(endpoints, options), plan.type)
    except BaseException as error:
        raise ConfigError([f"policy {plan.type!r} cannot be built: {words_of(error)}"]) from error


def _checked(name: str, kind: PolicyType, options: dict[str, Any]) -> PolicyOptions:
    """The options as their model. They were checked when the configuration was read. Raises ConfigError."""
    try:
        return kind.Options.model_validate(options, context=FROM_FILE)
    except BaseException as error:  # a plug-in's validator
        from lb.balancing.option_problems import option_problems

        raise ConfigError(
            [f"policy {name!r}: {path}: {text}" for path, text in option_problems(kind.Options, options)]
        ) from error
