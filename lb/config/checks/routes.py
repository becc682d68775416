"""Routes of one listener that can never take a request: mistakes that no single field shows."""

from __future__ import annotations

from collections.abc import Iterator

from lb.config.forms import Member, members_of
from lb.config.normal import normal_path
from lb.config.plan.compile_route import compile_normalize, conditions_of
from lb.config.plan.routes import NormalizePlan
from lb.config.schema.listeners.listener import ListenerConfig
from lb.config.schema.routes.match import MatchConfig
from lb.config.schema.routes.template import Template

Found = tuple[str, str]

_Place = tuple[str, bool, str, str]  # as place_of has it


class _Seen:
    """The routes so far with one host and one path."""

    def __init__(self, first: int, match: MatchConfig) -> None:
        self.matches = [(first, match)]
        self.by_text: dict[str, int] = {}
        self.open = first if _unconditional(match) else -1

    def twin(self, number: int, match: MatchConfig) -> int:
        """Number of the first route with this match. Texts are made only where routes share a place."""
        for earlier, other in self.matches:
            self.by_text.setdefault(_text(other), earlier)
        self.matches.clear()
        return self.by_text.setdefault(_text(match), number)


def check_table(path: str, listener: ListenerConfig) -> Iterator[Found]:
    """Routes that others hide, and paths that no request has once it is normalised."""
    plan = compile_normalize(listener.normalize_path)
    firsts: dict[_Place, int] = {}
    shared: dict[_Place, _Seen] = {}
    for i, member in enumerate(members_of(listener.routes)):
        _, _, kind, text = place = member.place
        if "%" in text or "//" in text or "/." in text:
            yield from _spelled(f"{path}.routes[{i}].match.path", member, plan)
        if kind == "template":  # names do not tell templates apart
            place = (*place[:3], Template.parse(text).key.decode("latin-1"))
        first = firsts.setdefault(place, i)
        if first == i:
            continue
        known = shared.get(place) or shared.setdefault(place, _Seen(first, listener.routes[first].match))
        where, match = f"{path}.routes[{i}].match", member.route.match
        twin = known.twin(i, match)
        if twin != i:
            yield where, f"is never reached: routes[{twin}] has the same"
        elif known.open >= 0:
            yield where, f"is never reached: routes[{known.open}] takes every request with that host and path"
        elif _unconditional(match):
            known.open = i


def _spelled(path: str, member: Member, plan: NormalizePlan | None) -> Iterator[Found]:
    """What is wrong where normalisation leaves no path that reads like that of a route."""
    _, _, kind, text = member.place
    if plan is None or member.first.match.path is None or kind == "regex":
        return
    # What follows a prefix's last slash may still become a longer segment, so nothing is said of it.
    end = text.rindex("/") + 1 if kind == "prefix" else len(text)
    normal = normal_path(text[:end], plan)
    if normal is None:
        yield f"{path}.{kind}", f"{text!r} is never reached: normalize_path refuses such paths"
    elif normal != text[:end]:
        yield (
            f"{path}.{kind}",
            f"{text!r} is never reached: normalize_path makes {normal + text[end:]!r} of such a path",
        )


def _unconditional(match: MatchConfig) -> bool:
    return not match.method and next(conditions_of(match), None) is None


def _text(match: MatchConfig) -> str:
    return repr(match)
