"""Words that switch something on or off elsewhere (`off`, `none`, `unlimited`, a 0, `true`): what to write here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from annotated_types import Ge, Le
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lb.config.advice.annotations import model_of
from lb.config.reference.docstrings import docstrings
from lb.config.units import FileContext, format_duration, format_size, is_kind

_OFF = frozenset(("off", "none", "no", "false", "disabled", "disable", "never", "null", "nil", "default"))
_ENDLESS = frozenset(
    ("infinite", "infinity", "inf", "unlimited", "forever", "unbounded", "endless", "max", "unset", "-1", "nolimit")
)
_ZERO = re.compile(r"`0[sB]?`?: no limit|\b0: no limit")

# Sections that are always there, by the key: what comes nearest to being without.
_ALWAYS = {
    "admin": "; the admin server is always there: leave it out, and only this machine reaches it, or write"
    " {bind: unix:/run/tidegate/admin.sock}",
    "auth": "; write none to let anybody in",
    "queue": "; leave it out: nobody waits without max_in_flight, and with it {max: 0} lets nobody wait",
    "log": "; leave it out: without `access` no requests are logged; {level: error} says least",
    "policy": "; leave it out for auto",
    "http2": "; write {enabled: false}",
    "normalize_path": "; write false",
    "sequence": "; write {enabled: false}",
}


def is_off(given: Any) -> bool:
    """Whether `given` says that there is to be none."""
    return given is None or given is False or (isinstance(given, str) and given.strip().lower() in _OFF)


def is_endless(given: Any) -> bool:
    """Whether `given` says that there is to be no limit."""
    return (type(given) is int and given <= 0) or (isinstance(given, str) and given.strip().lower() in _ENDLESS)


def without(model: type[BaseModel] | None, field: str, given: Any) -> str:
    """What follows about `given` in place of a section, or of a limit, that is not wanted; "" about other values."""
    info = model.model_fields.get(field) if model is not None else None
    if model is not None and model.__name__ == "SlowStartConfig" and is_off(given):
        return "; leave slow_start out"
    if field in ("match", "path", "model") and given in ("*", "any", "all"):
        return "; leave it out for any"
    if info is None or not (is_off(given) or is_endless(given)):
        return ""
    if model_of(info.annotation) is not None:
        return _section(info, field) if is_off(given) else ""
    assert model is not None
    return _limit(info, docstrings(model).get(field, ""), field, is_off(given))


def _section(info: FieldInfo, field: str) -> str:
    if field in _ALWAYS:
        return _ALWAYS[field]
    return "; leave it out" + (": without it there is none" if info.default is None else " for its defaults")


def _limit(info: FieldInfo, meaning: str, field: str, off: bool) -> str:
    """About a number, duration or size; `off`: there is to be none of it."""
    if _ZERO.search(" ".join(meaning.split())):
        zero = {"Duration": "0s", "Size": "0B"}.get(is_kind(info), "0")
        return f"; write {zero} for no limit"
    if off and not is_kind(info) and any(isinstance(limit, Ge) and limit.ge == 0 for limit in info.metadata):
        return "; write 0"
    if info.is_required():
        return ""
    if info.default is None:
        text = meaning.partition("Default:")[2].strip().partition(".")[0]
        return "; leave it out" + (f" ({text.replace(chr(10), ' ')})" if text and "`" not in text else "")
    if not (field.startswith("max") or field.endswith("timeout")):
        return ""
    most = next((limit.le for limit in info.metadata if isinstance(limit, Le)), None)
    kind = is_kind(info)
    largest = {"Duration": "365d", "Size": "1024TiB"}.get(kind, "") if most is None else _spelled(most, kind)
    return "; there is always a limit" + (f", of {largest} at most" if largest else "")


def _spelled(number: Any, kind: str) -> str:
    return format_duration(number) if kind == "Duration" else format_size(number) if kind == "Size" else str(number)


def is_optional(model: type[BaseModel]) -> bool:
    """Whether an empty mapping is one of `model`."""
    try:
        model.model_validate({}, context=FileContext(Path("/")))
    except ValidationError:
        return False
    return True
