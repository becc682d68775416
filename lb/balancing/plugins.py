"""Policies that other packages bring along, by the entry-point group `tidegate.policies`."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lb.balancing.options import PolicyOptions
from lb.balancing.policy import Policy
from lb.errors import ConfigError

GROUP = "tidegate.policies"


@cache
def installed() -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of the group by name, as they were when this process first asked; nothing is imported."""
    found: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entry_points(group=GROUP):
        if entry not in found[entry.name]:
            found[entry.name].append(entry)
    return {name: tuple(entries) for name, entries in found.items()}


def origin(entry: EntryPoint) -> str:
    """Where an entry point comes from, for people."""
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"
    return f"{entry.value} of {package}"


def load(entry: EntryPoint) -> type[Policy]:
    """The policy class behind `entry`, whose package is imported. Raises ConfigError when it is of no use."""
    try:
        found = entry.load()
    except Exception as error:  # foreign code may raise anything
        raise _broken(entry, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, type) or not issubclass(found, Policy):
        raise _broken(entry, "it is not a subclass of lb.balancing.policy.Policy")
    if found.pick is Policy.pick:
        raise _broken(entry, "it does not define pick")
    if not isinstance(found.needs_key, bool):
        raise _broken(entry, "its needs_key is not True or False")
    if not isinstance(found.Options, type) or not issubclass(found.Options, PolicyOptions):
        raise _broken(entry, "its Options is not a subclass of lb.balancing.options.PolicyOptions")
    if found.Options.model_config.get("extra") != "forbid":
        raise _broken(entry, 'its Options is not closed (extra="forbid"), so a misspelt option would go unnoticed')
    return found


def _broken(entry: EntryPoint, reason: str) -> ConfigError:
    return ConfigError([f"policy {entry.name!r} ({origin(entry)}) cannot be used: {reason}"])
