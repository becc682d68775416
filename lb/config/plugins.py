"""Classes by name: Tidegate's own of a kind, and those that other packages bring along by an entry-point group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from lb.config.schema.base import did_you_mean, plain
from lb.errors import ConfigError

T = TypeVar("T")


@cache
def installed(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of a group by name, as they were when this process first asked; nothing is imported."""
    found: dict[str, list[EntryPoint]] = defaultdict(list)
    for distribution in _plug_ins(group):
        for entry in distribution.entry_points.select(group=group):
            if entry not in found[entry.name]:
                found[entry.name].append(entry)
    return {name: tuple(entries) for name, entries in found.items()}


def _plug_ins(group: str) -> list[Distribution]:
    """The installed packages that have something in a group. To take the entry points of all the others apart would be
    a tenth of a start."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        if group in (distribution.read_text("entry_points.txt") or ""):
            found.setdefault(distribution.name, distribution)  # the one that an import finds
    return list(found.values())


class Family(Generic[T]):
    """The classes of one kind, called `noun` in messages: `own`, and those of the entry-point group `group`, which have
    to be subclasses of `base`, define `method`, have closed `Options` derived from `options`, and pass `check`, which
    gives the reason why one is of no use ("": it is). `elsewhere` gives the advice about a name that
    others use ("": it is none)."""

    def __init__(
        self,
        group: str,
        noun: str,
        base: type[Any],
        own: Mapping[str, type[T]],
        *,
        method: str,
        options: type[BaseModel],
        check: Callable[[type[T]], str] = lambda _: "",
        elsewhere: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._group = group
        self._noun = noun
        self._base = base
        self._own = own
        self._method = method
        self._options = options
        self._check = check
        self._elsewhere = elsewhere

    def names(self) -> list[str]:
        """Every name, in order."""
        return sorted({*self._own, *installed(self._group)})

    def is_own(self, name: str) -> bool:
        """Whether the class of that name is Tidegate's own."""
        return name in self._own

    def find(self, name: str) -> type[T]:
        """The class of that name; the package of a plug-in is imported. Raises ConfigError when there is none, more
        than one, or a plug-in that is broken."""
        entries = installed(self._group).get(name, ())
        owners = [*(["Tidegate itself"] if name in self._own else []), *map(_origin, entries)]
        if len(owners) > 1:
            raise ConfigError(
                [f"there is more than one {self._noun} {name!r}: by {', by '.join(owners)}; uninstall all but one"]
            )
        if entries:
            return self._load(entries[0])
        if name not in self._own:
            hint = _same(name, self.names()) or self._elsewhere(name) or did_you_mean(name, self.names())
            raise ConfigError([f"there is no {self._noun} {name!r}{hint}"])
        return self._own[name]

    def found_before(self, name: str) -> type[T]:
        """As `find`, of a name that another process has found: it has compared Tidegate's own with the plug-ins."""
        return self._own.get(name) or self.find(name)

    def _load(self, entry: EntryPoint) -> type[T]:
        try:
            found = entry.load()
        except BaseException as error:
            raise self._broken(entry, words_of(error)) from error
        reason = self._reason(found)
        if reason:
            raise self._broken(entry, reason)
        kind: type[T] = found
        return kind

    def _reason(self, found: object) -> str:
        if not isinstance(found, type) or not issubclass(found, self._base):
            return f"it is not a subclass of {_path(self._base)}"
        if getattr(found, self._method) is getattr(self._base, self._method):
            return f"it does not define {self._method}"
        options = getattr(found, "Options", None)
        if not isinstance(options, type) or not issubclass(options, self._options):
            return f"its Options is not a subclass of {_path(self._options)}"
        if options.model_config.get("extra") != "forbid":
            return 'its Options is not closed (extra="forbid"), so a misspelt option would go unnoticed'
        return self._check(found)

    def _broken(self, entry: EntryPoint, reason: str) -> ConfigError:
        return ConfigError([f"{self._noun} {entry.name!r} ({_origin(entry)}) cannot be used: {reason}"])


def _same(name: str, known: Sequence[str]) -> str:
    """About a name that is another spelling of one that is known."""
    return next((f"; write {other}" for other in known if plain(other) == plain(name)), "")


def words_of(error: BaseException) -> str:
    """What foreign code raised, which may be anything: an extension's panic or a `sys.exit()` must not end the daemon
    any more than another error. A KeyboardInterrupt is the operator's, and is raised again."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    return f"{type(error).__name__}: {error}"


def _origin(entry: EntryPoint) -> str:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"
    return f"{entry.value} of {package}"


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
