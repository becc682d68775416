"""Which models are ready where: what the checks learn of a pool's models, as bits that the data path can look at.

Each model of a pool has a bit, the same for all its endpoints; the plan tells the workers which one. An endpoint's word
in the shared segment has the bits of those that are not ready there. A bit is only given to another model when no
worker can take it for the old one any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec import Struct, field

from lb.config.checks.health import MOST_MODELS
from lb.health.check import NO_INDEX, Models
from lb.health.monitor import Target
from lb.health.transitions import TransitionLog

log = logging.getLogger("tidegate.health")

_NAMED = 8  # models that one line of the log names
LINGER_NS = 60_000_000_000  # an exchange that began under an old plan may still choose by its bits

Endpoint = tuple[str, int]  # address, slot


class ReadyBits(Protocol):
    """What lb.shared.segment.Segment has for it."""

    def set_models_unready(self, slot: int, mask: int) -> None: ...


class _Pool(Struct):
    bits: dict[str, int] = field(default_factory=dict)
    retired: dict[int, int] = field(default_factory=dict)  # bit -> since, monotonic ns
    said: dict[Endpoint, Models] = field(default_factory=dict)
    complete: set[Endpoint] = field(default_factory=set)  # who named all that they have: no other is ready there
    untracked: frozenset[str] = frozenset()
    listed: tuple[str, ...] = ()  # those that the configuration names
    checked: bool = False  # the checks ask for models
    withheld: dict[Endpoint, frozenset[str]] = field(default_factory=dict)  # whatever the checks say
    # By server calls: (endpoint, model) -> when, monotonic ns, and whether it is ready since. A check that began before
    # then does not know of it.
    changed: dict[tuple[Endpoint, str], tuple[int, bool]] = field(default_factory=dict)


class ModelReadiness:
    """Of all pools whose checks ask for models, or that have endpoints which models are withheld from. What a server
    says of a model is believed at once: it is no failed try that a second one could set right."""

    def __init__(self, bits: ReadyBits, transitions: TransitionLog, now: Callable[[], int]) -> None:
        self._segment = bits
        self._transitions = transitions
        self._now = now
        self._pools: dict[str, _Pool] = {}

    def names(self) -> dict[str, tuple[str, ...]]:
        """For the plan: pool -> its models, each at the place of its bit; "" where a bit is free."""
        found = {}
        for name, pool in self._pools.items():
            models = [""] * (max(pool.bits.values(), default=-1) + 1)
            for model, bit in pool.bits.items():
                models[bit] = model
            found[name] = tuple(models)
        return found

    def status(self) -> dict[str, dict[str, Models]]:
        """pool -> address -> model -> whether it is ready there: also of models that others name and it does not."""
        found: dict[str, dict[str, Models]] = {}
        for name, pool in self._pools.items():
            rows = found[name] = {}
            for endpoint, said in pool.said.items():
                unnamed = pool.bits if endpoint in pool.complete else ()
                rows[endpoint[0]] = dict(sorted({**dict.fromkeys(unnamed, False), **said}.items()))
        return found

    def follow(self, listed: Mapping[str, Iterable[str]], endpoints: Mapping[str, Iterable[Endpoint]]) -> None:
        """From now on of these pools: `listed` has the models that the configuration names, none where it is for the
        servers to say. What was said by other endpoints, or of other pools, is forgotten."""
        for name, pool in self._pools.items():
            stay = set(endpoints.get(name, ()))
            pool.withheld = {endpoint: models for endpoint, models in pool.withheld.items() if endpoint in stay}
        for name in self._pools.keys() - listed.keys():
            self._uncheck(name)
        for name, models in listed.items():
            pool = self._pools.setdefault(name, _Pool())
            pool.checked, pool.listed = True, tuple(models)
            stay = set(endpoints.get(name, ()))
            pool.said = {endpoint: said for endpoint, said in pool.said.items() if endpoint in stay}
            pool.changed = {key: told for key, told in pool.changed.items() if key[0] in stay}
            pool.complete &= stay
            asked = set(models)
            if asked:
                # Nobody is asked about others any more, who could take back what is known of them.
                pool.complete.clear()
                pool.said = {e: {m: said[m] for m in said if m in asked} for e, said in pool.said.items()}
            self._assign(name, pool)

    def _uncheck(self, name: str) -> None:
        """Its checks do not ask for models, or not any more."""
        pool = self._pools[name]
        for _, slot in pool.said:
            self._segment.set_models_unready(slot, 0)
        pool.said, pool.complete, pool.listed, pool.checked = {}, set(), (), False
        pool.changed.clear()
        self._assign(name, pool)
        if not pool.withheld:
            del self._pools[name]

    def withhold(self, name: str, withheld: Mapping[Endpoint, frozenset[str]]) -> bool:
        """From now on these endpoints of a pool count as not ready for these models, and no others do but by their
        checks; whether the plan has to tell something new."""
        pool = self._pools.get(name)
        if pool is None:
            if not withheld:
                return False
            pool = self._pools[name] = _Pool()
        if pool.withheld == withheld:
            return False
        for _, slot in pool.withheld.keys() - withheld.keys() - pool.said.keys():
            self._segment.set_models_unready(slot, 0)
        pool.withheld = dict(withheld)
        changed = self._assign(name, pool)
        if not withheld and not pool.checked:
            del self._pools[name]
        return changed

    def change(self, name: str, endpoints: Iterable[Endpoint], model: str, ready: bool) -> bool:
        """These endpoints of a pool have done a load, or an unload, of the model: that is believed before a check says
        so, as the client that asked for it goes on at once. Whether the plan has to tell something new."""
        pool = self._pools.get(name)
        if pool is None or not pool.checked or (pool.listed and model not in pool.listed):
            return False
        now = self._now()
        for endpoint in endpoints:
            if endpoint not in pool.said or not (pool.listed or endpoint in pool.complete):
                continue  # never checked, or without an index: nothing is known of its models
            said = pool.said[endpoint]
            pool.changed[endpoint, model] = now, ready
            was = said.get(model)
            if was is not ready:
                pool.said[endpoint] = {**said, model: ready}
                self._transitions.add(
                    name, endpoint[0], f"model {model}", _word(was), _word(ready), "loaded" if ready else "unloaded"
                )
        return self._assign(name, pool)

    def report(self, target: Target, models: Models, begun: int) -> bool:
        """What an endpoint says of its models in a check that began then (monotonic ns); whether the pool has others
        than before, which the plan has to tell."""
        pool = self._pools.get(target.pool)
        if pool is None or not pool.checked:
            return False
        endpoint = (target.address, target.slot)
        for key in [key for key in pool.changed if key[0] == endpoint]:
            at, ready = pool.changed[key]
            if at <= begun:
                del pool.changed[key]
            elif models is not NO_INDEX:
                models = {**models, key[1]: ready}
        before = pool.said.get(endpoint)
        index = target.health.models == "index" and models is not NO_INDEX
        if before == models and index == (endpoint in pool.complete):
            return False
        if index:
            pool.complete.add(endpoint)
        elif models is NO_INDEX:
            pool.complete.discard(endpoint)
            log.warning(
                "pool %s: endpoint %s: the server has no index of its models (RepositoryIndex): requests for any model "
                "go there while it is ready; name the models in health.models to have them asked about",
                target.pool, target.address,
            )  # fmt: skip
        pool.said[endpoint] = dict(models)
        if models is not NO_INDEX:
            self._tell(target, before or {}, models)
        return self._assign(target.pool, pool)

    def _assign(self, name: str, pool: _Pool) -> bool:
        """Bits for those models that are named now, and the endpoints' words by them; whether the bits are others."""
        before = dict(pool.bits)
        told = [*pool.said.values(), *map(sorted, pool.withheld.values())]
        named = list(dict.fromkeys([*pool.listed, *(model for models in told for model in models)]))
        now = self._now()
        for model in pool.bits.keys() - set(named):
            pool.retired[pool.bits.pop(model)] = now
        pool.retired = {bit: since for bit, since in pool.retired.items() if now - since < LINGER_NS}
        free = [bit for bit in range(MOST_MODELS) if bit not in pool.bits.values() and bit not in pool.retired]
        left = []
        for model in named:
            if model not in pool.bits:
                if free:
                    pool.bits[model] = free.pop(0)
                else:
                    left.append(model)
        self._complain(name, pool, frozenset(left))
        for endpoint in pool.said.keys() | pool.withheld.keys():
            said, unnamed = pool.said.get(endpoint, NO_INDEX), endpoint not in pool.complete
            without = pool.withheld.get(endpoint, frozenset())
            unready = sum(
                1 << bit for model, bit in pool.bits.items() if model in without or not said.get(model, unnamed)
            )
            self._segment.set_models_unready(endpoint[1], unready)
        return pool.bits != before

    def _complain(self, name: str, pool: _Pool, left: frozenset[str]) -> None:
        if left - pool.untracked:
            more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            log.warning(
                "pool %s: it has more than %d models, so requests for these go to any endpoint: %s%s",
                name, MOST_MODELS, ", ".join(sorted(left)[:_NAMED]), more,
            )  # fmt: skip
        pool.untracked = left

    def _tell(self, target: Target, before: Models, after: Models) -> None:
        """Changes, and what is not ready from the beginning."""
        for model in sorted(before.keys() | after.keys()):
            was, ready = before.get(model), bool(after.get(model))
            if was is ready or (was is None and ready):
                continue
            reason = "the server says so" if model in after else "the server does not name it any more"
            self._transitions.add(target.pool, target.address, f"model {model}", _word(was), _word(ready), reason)
            log.log(
                logging.INFO if ready else logging.WARNING,
                "pool %s: endpoint %s: model %s is %s: %s", target.pool, target.address, model, _word(ready), reason,
            )  # fmt: skip


def _word(ready: bool | None) -> str:
    return "unknown" if ready is None else "ready" if ready else "unready"
