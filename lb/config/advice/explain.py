"""Validation errors of the models as sentences for operators."""

from __future__ import annotations

import re
from typing import Any

from annotated_types import Le
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from lb.config.advice import spelling
from lb.config.advice.advice import instead_of_key, instead_of_word, keys_of
from lb.config.advice.annotations import model_at
from lb.config.advice.carried import policy_of_mapping
from lb.config.advice.lists import as_list, instead_of_list, takes
from lb.config.advice.shapes import LISTS, instead_of, shown_form
from lb.config.advice.switched import is_off, is_optional, without
from lb.config.advice.variables import value_of_variable
from lb.config.units import format_duration, format_size, is_kind

_PLAIN = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "bool_type": "must be true or false",
    "path_type": "must be a path",
    "string_too_short": "must not be empty",
}
_BARE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_THOUSANDTHS = 1000
_SHORT = 100  # longest text that is repeated in a message
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def message(error: ErrorDetails, root: type[BaseModel], raw: Any) -> str:
    """What is wrong, for one error of validating `root`; `raw` is the value in the file where the error is."""
    said = _message(error, root, raw)
    return said if "variable" in said else said + _variable(raw)


def _message(error: ErrorDetails, root: type[BaseModel], raw: Any) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    model, field = _field(error, root)
    if kind == "extra_forbidden":
        return "unknown key" + instead_of_key(model_at(root, error["loc"][:-1]), str(error["loc"][-1]), given)
    if kind == "literal_error":
        known = [word.strip(" '") for word in str(context["expected"]).replace(" or ", ",").split(",")]
        listed = as_list(model, field, given) if isinstance(error["loc"][-1], int) else ""
        instead = f"; write {listed}" if listed else instead_of_word(model, field, str(given), known)
        return f"{given!r} is not one of {', '.join(known)}{instead}"
    if kind == "string_type":
        return "must be text" + _instead_of_no_text(given, model, field)
    if kind in ("list_type", "dict_type"):
        return _collection(kind, given, model, field)
    if kind in ("model_type", "model_attributes_type"):
        return "must be a mapping" + (without(model, field, given) or _form(model_at(root, error["loc"]), given))
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {_bound(model, field, context[name])}" + _beyond(model, field, given)
    if kind == "too_short":
        return f"needs at least {context['min_length']} item{'s' if context['min_length'] > 1 else ''}"
    if kind == "too_long":
        return f"has {context['actual_length'] or 'more'} items; {context['max_length']} are the most"
    if kind == "string_pattern_mismatch":
        return f"{given!r} does not match {context['pattern']}"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters"
    if kind == "missing" and _place(model, field) == ("PolicyConfig", "type") and isinstance(given, dict):
        return "is required" + policy_of_mapping(given)
    if kind == "missing":
        return "is required" + (f": {LISTS[place]}" if (place := _place(model, field)) in LISTS else "")
    said = _PLAIN.get(kind, error["msg"])
    if isinstance(error["loc"][-1] if error["loc"] else None, int) or kind == "text":
        # An item that reads like several, as `a, b` does.
        several = as_list(model, field, given)
        if several.count(",") and "; write " not in said:
            return f"{said}; write {several}"
    if kind in ("duration", "size") and (meant := without(model, field, given)):
        return said.partition("; ")[0] + meant
    return said + _instead(kind, given, model, field)


def _field(error: ErrorDetails, root: type[BaseModel]) -> tuple[type[BaseModel] | None, str]:
    """The model and the key of it that an error is about, also where it is about an item of a list."""
    for end in range(len(error["loc"]) - 1, -1, -1):
        part = error["loc"][end]
        if isinstance(part, str) and (model := model_at(root, error["loc"][:end])) is not None:
            return model, part
    return None, ""


def _place(model: type[BaseModel] | None, field: str) -> tuple[str, str]:
    return (model.__name__ if model is not None else "", field)


def _collection(kind: str, given: Any, model: type[BaseModel] | None, field: str) -> str:
    text = str(given)
    if kind == "list_type" and not is_off(given) and len(text) <= _SHORT and (listed := as_list(model, field, given)):
        return f"must be a list; write {listed}"
    if kind == "list_type" and model is not None and is_off(given) and takes(model, field, []):
        return "must be a list; write []"
    words = "must be a list" if kind == "list_type" else "must be a mapping of names"
    example = LISTS.get(_place(model, field))
    return f"{words}, such as {example}" if example else words


def _instead(kind: str, given: Any, model: type[BaseModel] | None, field: str) -> str:
    """What to write in place of a value that is none of its kind."""
    info = model.model_fields.get(field) if model is not None else None
    if kind in ("int_type", "float_type", "duration", "size") and (said := without(model, field, given)):
        return said
    written = ""
    if kind == "bool_type":
        written = spelling.truth(given)
    elif kind in ("int_type", "float_type"):
        share = any(isinstance(limit, Le) and limit.le == 1 for limit in (info.metadata if info is not None else ()))
        written = spelling.number(given, kind == "int_type", share)
    elif kind == "duration":
        written = spelling.duration(given)
    elif kind == "size":
        written = spelling.size(given)
        return f"; write {written} (units are powers of 1024)" if written else ""
    return f"; write {written}" if written else ""


def _variable(raw: Any) -> str:
    """About a value such as `$NAME`, which is text here."""
    found = _BARE.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        return ""
    meant = value_of_variable(found[1])
    return f"; {raw} is {meant} in texts here" if meant else f"; an environment variable is written ${{{found[1]}}}"


def _form(model: type[BaseModel] | None, given: Any) -> str:
    """How a mapping that stands for `given` looks."""
    if model is None:
        return ""
    written = instead_of(model, given)
    if written:
        return f"; write {written}"
    if given is True and is_optional(model):
        return "; {} is one with all defaults"
    example = shown_form(model)
    return f" such as {example}" if example else f", with keys such as {', '.join(keys_of(model)[:4])}"


def _bound(model: type[BaseModel] | None, field: str, bound: float) -> str:
    """`bound` as the file would spell it."""
    info = model.model_fields.get(field) if model is not None else None
    kind = is_kind(info) if info is not None else ""
    if kind:
        return (format_duration if kind == "Duration" else format_size)(int(bound))
    return f"{bound:.15g}"


def _beyond(model: type[BaseModel] | None, field: str, given: Any) -> str:
    """What a number that is too small or too large means elsewhere; an optional duration is the text of the file."""
    if isinstance(given, str):
        return without(model, field, given)
    if field == "success_rate_stdev_factor" and given >= _THOUSANDTHS:
        return f"; Envoy has thousandths of it: write {given / 1000:g}"
    return without(model, field, given) if given <= 0 else ""


def _instead_of_no_text(given: Any, model: type[BaseModel] | None, field: str) -> str:
    """What to write in place of a value that is no text."""
    if _place(model, field) == ("HealthConfig", "expect") and type(given) is int:
        return f"; write status: [{given}]" if given in range(100, 600) else "; write body: {contains: ok}"
    if isinstance(given, int | float):
        return "; put it in quotes"
    return instead_of_list(model, field, given)
