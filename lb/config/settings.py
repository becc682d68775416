"""The settings that can be changed while the daemon runs: which there are, their values, and a configuration with
another value for one.

A setting is named as in the file: `log.level`, `pools.chat.queue.max`, `listeners.web.routes[0].max_in_flight`. A route
also goes by its name: `listeners.web.routes[chat].max_in_flight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Struct
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from lb.config.checks.file import Check, Found, check_config
from lb.config.document import where
from lb.config.forms import members_of, with_route
from lb.config.schema.base import did_you_mean
from lb.config.schema.file import Config, PoolConfig, RateLimitConfig, ServeConfig
from lb.config.schema.pools.engine import EngineConfig
from lb.config.units import FileContext
from lb.errors import ConfigError

# Of a pool: a fixed number of model servers or replicas, in place of `scaling`. No key of the file.
REPLICAS = "replicas"
# Those of the whole daemon, of a listener, of a route, and of a pool.
GLOBAL = ("log.level", "limits.max_in_flight", "limits.max_memory")
LISTENER = ("max_connections", "max_connections_per_source")
ROUTE = ("max_in_flight", "rate_limit.rate", "rate_limit.burst")
POOL = ("max_in_flight", "queue.max", "queue.timeout", "serve.min", "serve.max", "engine.min", "engine.max", REPLICAS)

MOST_REPLICAS = 1000

_ROUTE = re.compile(r"listeners\.(?P<listener>.+?)\.routes\[(?P<route>[^\]]+)\]\.(?P<rest>[a-z_.]+)")
_NAMED = {"listeners": LISTENER, "pools": POOL}
Location = tuple[str | int, ...]
Numbers = TypeVar("Numbers", ServeConfig, EngineConfig)
_AS_IN_A_FILE = FileContext(Path("/"))  # where a duration or a size has its unit; no setting here is a path


class Setting(Struct, frozen=True):
    """A setting of a configuration: its name in one form, and where it is."""

    name: str
    location: Location


def known() -> list[str]:
    """The names of all settings, with what stands for other names in capitals."""
    return [
        *GLOBAL,
        *(f"listeners.LISTENER.{name}" for name in LISTENER),
        *(f"listeners.LISTENER.routes[ROUTE].{name}" for name in ROUTE),
        *(f"pools.POOL.{name}" for name in POOL),
    ]


def find(config: Config, name: str) -> Setting:
    """Raises ConfigError when it is no setting that can be changed while the daemon runs, or `config` has no such
    listener, route or pool."""
    if name in GLOBAL:
        return Setting(name, tuple(name.split(".")))
    if match := _ROUTE.fullmatch(name):
        return _of_route(config, match["listener"], match["route"], match["rest"])
    section, _, rest = name.partition(".")
    for ending in _NAMED.get(section, ()):
        owner = rest.removesuffix(f".{ending}")
        if owner != rest:
            owners: Mapping[str, Any] = getattr(config, section)
            if owner not in owners:
                raise ConfigError([f"there is no {section[:-1]} {owner!r}{did_you_mean(owner, owners)}"])
            return Setting(name, (section, owner, *ending.split(".")))
    hint = did_you_mean(name, known()) or f"; {', '.join(known())} can"
    raise ConfigError([f"{name} cannot be changed while the daemon runs{hint}"])


def _of_route(config: Config, listener: str, route: str, rest: str) -> Setting:
    if listener not in config.listeners:
        raise ConfigError([f"there is no listener {listener!r}{did_you_mean(listener, config.listeners)}"])
    if rest not in ROUTE:
        raise ConfigError([f"{rest} of a route cannot be changed while the daemon runs; {', '.join(ROUTE)} can"])
    members = members_of(config.listeners[listener].routes)
    names = [member.name or f"{listener}/{i}" for i, member in enumerate(members)]
    if route in names:
        at = names.index(route)
    elif route.isascii() and route.isdigit() and len(route) < 9 and int(route) < len(names):
        at = int(route)
    else:
        raise ConfigError([f"listener {listener!r} has no route {route!r}{did_you_mean(route, names)}"])
    name = members[at].name
    shown = f"listeners.{listener}.routes[{at if name is None else name}].{rest}"
    return Setting(shown, ("listeners", listener, "routes", at, *rest.split(".")))


def anchor(config: Config, setting: Setting) -> Any:
    """What has to stay for the setting to mean the same after a reload: the requests that a route is for."""
    if setting.location[0] == "listeners" and "routes" in setting.location:
        _, listener, _, at = setting.location[:4]
        return config.listeners[str(listener)].routes[int(at)].match
    return None


def value(config: Config, setting: Setting) -> Any:
    """Its value in `config`, as the file spells it; None where it, or the section that it is in, is not there."""
    parent: Any = config
    for part in setting.location[:-1]:
        parent = getattr(parent, part) if isinstance(parent, BaseModel) and isinstance(part, str) else parent[part]
        if parent is None:
            return None
    name = str(setting.location[-1])
    if name == REPLICAS:
        return _replicas(parent)
    kind: type[BaseModel] = type(parent)
    return _adapter(kind, name).dump_python(getattr(parent, name), mode="json")


def _replicas(pool: PoolConfig) -> int | str | None:
    """The number that a pool is held to, or within which it is scaled; None where its endpoints are given."""
    numbers = pool.serve or pool.engine
    if numbers is None:
        return None
    fixed = numbers.min == numbers.max or (pool.serve is not None and pool.scaling is None)
    return numbers.min if fixed else f"{numbers.min}..{numbers.max}"


def _with_replicas(pool: PoolConfig, wanted: Any) -> PoolConfig:
    if type(wanted) is not int or not 1 <= wanted <= MOST_REPLICAS:
        raise _MissingError(f"{wanted!r} is no number from 1 to {MOST_REPLICAS}")
    if pool.serve is not None:  # schedules of `scaling` may know other numbers
        return pool.model_copy(update={"serve": _held(pool.serve, wanted), "scaling": None})
    if pool.engine is not None:
        return pool.model_copy(update={"engine": _held(pool.engine, wanted)})
    raise _MissingError("nothing starts the endpoints of this pool: it has neither serve nor engine")


def _held(numbers: Numbers, wanted: int) -> Numbers:
    held = numbers.model_copy(update={"min": wanted, "max": wanted})
    held.model_fields_set.discard("idle_timeout")  # of a pool that may be at zero, which this one is not meanwhile
    return held


@cache
def _adapter(kind: type[BaseModel], name: str) -> TypeAdapter[Any]:
    field = kind.model_fields[name]
    form: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(form)


def with_values(config: Config, values: Mapping[Setting, Any], checks: Sequence[Check] = ()) -> Config:
    """`config` with other values for these settings, checked as a file is. `checks` are further ones, as for a file.

    What was wrong before stays so: a reload may leave out what needs a restart. Raises ConfigError with every problem.
    """
    problems: list[str] = []
    changed = config
    for setting, wanted in values.items():
        try:
            changed = _with(changed, setting.location, wanted)
        except ValidationError as error:
            problems += [f"{setting.name}: {_said(setting, wanted, detail)}" for detail in error.errors()]
        except _MissingError as error:
            problems.append(f"{setting.name}: {error}")
    if not problems and (found := _checked(changed, checks)):
        before = set(_checked(config, checks))
        problems = [f"{path}: {text}" for path, text in found if (path, text) not in before]
    if problems:
        raise ConfigError(problems)
    return changed


def _said(setting: Setting, wanted: Any, detail: ErrorDetails) -> str:
    """What is wrong with a value, in the words for a file."""
    from lb.config.advice.explain import message  # loaded when there is a mistake

    within = detail["loc"] or setting.location[-1:]
    said = message({**detail, "loc": (*setting.location[:-1], *within)}, Config, wanted)
    return said.removesuffix("; leave it out")  # where there is no file: `none`


def _checked(config: Config, checks: Sequence[Check]) -> list[Found]:
    return [found for check in (check_config, *checks) for found in check(config)]


class _MissingError(Exception):
    """The section that a setting is in is not there, or it takes no such value."""


def _with(parent: Any, location: Location, wanted: Any) -> Any:
    """A copy of `parent` with `wanted` at `location`."""
    name, rest = location[0], location[1:]
    if isinstance(parent, Mapping):
        return {**parent, name: _with(parent[name], rest, wanted)}
    if isinstance(parent, Sequence):
        return with_route(parent, int(name), _with(parent[int(name)], rest, wanted))
    if rest:
        below = getattr(parent, str(name))
        if below is None:
            if name != "rate_limit" or rest != ("rate",):
                raise _MissingError(f"there is no section {name}")
            return parent.model_copy(update={"rate_limit": None if wanted is None else RateLimitConfig(rate=wanted)})
        if name == "rate_limit" and rest == ("rate",) and wanted is None:
            return parent.model_copy(update={"rate_limit": None})
        return parent.model_copy(update={str(name): _with(below, rest, wanted)})
    if isinstance(parent, PoolConfig) and name == REPLICAS:
        return _with_replicas(parent, wanted)
    if isinstance(parent, RateLimitConfig):  # whose values are checked together
        return RateLimitConfig.model_validate({**_given(parent), name: wanted})
    kind: type[BaseModel] = type(parent)
    checked = _adapter(kind, str(name)).validate_python(wanted, context=_AS_IN_A_FILE)
    return parent.model_copy(update={str(name): checked})


def _given(model: BaseModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.model_fields_set}


def overlaid(data: dict[str, Any], setting: Setting, value: Any) -> None:
    """Writes a value into the plain data of a file; sections that are not there are made."""
    parent: Any = data
    if setting.location[-1] == REPLICAS:
        pool = data["pools"][setting.location[1]]
        for section in ("serve", "engine"):
            if isinstance(pool.get(section), dict):
                pool[section] |= {"min": value, "max": value}
                if section == "serve":
                    pool.pop("scaling", None)
                return
        return
    for part, following in zip(setting.location, setting.location[1:], strict=False):
        if isinstance(parent, list):
            if int(part) >= len(parent):
                return
            parent = parent[int(part)]
        else:
            below = parent.get(part)
            if not isinstance(below, dict | list):
                below = parent[part] = {} if not isinstance(following, int) else []
            parent = below
    parent[setting.location[-1]] = value


def differences(running: Any, file: Any, location: Location = ()) -> list[tuple[str, Any, Any]]:
    """(setting, running, file) of every value that differs between the plain data of two files; None stands for one
    that is not there. Lists whose lengths differ are one value."""
    if isinstance(running, dict) and isinstance(file, dict):
        keys = [*running, *(key for key in file if key not in running)]
        return [found for key in keys for found in differences(running.get(key), file.get(key), (*location, str(key)))]
    if isinstance(running, list) and isinstance(file, list) and len(running) == len(file):
        return [
            found
            for i, (a, b) in enumerate(zip(running, file, strict=True))
            for found in differences(a, b, (*location, i))
        ]
    return [] if running == file and type(running) is type(file) else [(where(location), running, file)]


_SECRET = re.compile(r"password|passwd|secret|token|api_?key|authorization|credential|cookie", re.IGNORECASE)
_USERINFO = re.compile(r"(://)[^/@\s]+@")
_WEBHOOKS = re.compile(r"urls(?:\[\d+\])?")  # the name of a list of webhooks, or of one of its items
_PATH = re.compile(r"(https?://[^/?#\s]+/)(?!\$\{\w+\}(?:[?#]|$))[^?#\s]+", re.IGNORECASE)
_QUERY = re.compile(r"(?<=[?&])([^=&\s]+=)(?!\$\{)[^&\s]+")
HIDDEN = "(hidden)"


def without_secrets(data: Any, name: str = "") -> Any:
    """The plain data of a file without what may be secret: texts under names of secrets, and users, passwords and
    what a query says in URLs. Of a webhook also the path, which is the secret of Slack's and its like. Names of files
    and variables stay."""
    if isinstance(data, dict):
        return {key: without_secrets(item, str(key)) for key, item in data.items()}
    if isinstance(data, list):
        return [without_secrets(item, name) for item in data]
    if not isinstance(data, str):
        return data
    if _SECRET.search(name) and not name.endswith(("_file", "_header", "tokens")) and not data.startswith("${"):
        return HIDDEN
    if "://" not in data:
        return data
    url = _USERINFO.sub(rf"\1{HIDDEN}@", data)
    if _WEBHOOKS.fullmatch(name):
        url = _PATH.sub(rf"\1{HIDDEN}", url)
    return _QUERY.sub(rf"\1{HIDDEN}", url)
