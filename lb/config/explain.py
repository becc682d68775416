"""Validation errors of the models as sentences for operators."""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from lb.config.base import did_you_mean
from lb.config.document import join
from lb.config.units import format_duration, format_size, parse_duration, parse_size

_PLAIN = {
    "missing": "is required",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of names",
    "path_type": "must be a path",
    "string_too_short": "must not be empty",
}
_SHORT = 100  # longest text that is repeated in a message
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def message(error: ErrorDetails, root: type[BaseModel], raw: Any) -> str:
    """What is wrong, for one error of validating `root`; `raw` is the value in the file where the error is."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        model = model_at(root, error["loc"][:-1])
        known = [field.alias or name for name, field in model.model_fields.items()] if model else []
        return "unknown key" + did_you_mean(str(error["loc"][-1]), known)
    if kind == "literal_error":
        known = [word.strip(" '") for word in str(context["expected"]).replace(" or ", ",").split(",")]
        return f"{error['input']!r} is not one of {', '.join(known)}" + did_you_mean(str(error["input"]), known)
    if kind == "string_type":
        quotable = isinstance(error["input"], int | float)
        return "must be text; put it in quotes" if quotable else "must be text"
    if kind == "list_type":
        text = str(error["input"])
        # What begins otherwise, as ::/0 does, may need quotes there.
        scalar = isinstance(error["input"], str | int | float) and text[:1].isalnum() and len(text) <= _SHORT
        return f"must be a list; write [{text}]" if scalar else "must be a list"
    if kind in ("model_type", "model_attributes_type"):
        return f"must be a mapping{_form(model_at(root, error['loc']), error['input'])}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {_in_unit_of(raw, context[name])}"
    if kind == "too_short":
        return f"needs at least {context['min_length']} item{'s' if context['min_length'] > 1 else ''}"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters"
    return _PLAIN.get(kind, error["msg"])


def where(loc: tuple[int | str, ...]) -> str:
    """The path of an error's location; pydantic's mark for a key of a mapping is left out."""
    path = ""
    for part in loc:
        if part != "[key]":
            path = join(path, part)
    return path


def value_at(data: Any, location: tuple[int | str, ...]) -> Any:
    """The value at `location`; None when there is none in the file."""
    for part in location:
        if isinstance(data, dict):
            data = data.get(str(part))
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def model_at(root: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model that the configuration has at `loc`, or None when there is another kind of value."""
    annotation: Any = root
    for part in loc:
        model = model_of(annotation)
        if model is not None:
            if part not in model.model_fields:
                return None
            annotation = model.model_fields[str(part)].annotation
        else:
            annotation = item_of(annotation)
    return model_of(annotation)


def free_at(loc: tuple[int | str, ...], root: type[BaseModel]) -> bool:
    """Whether `loc` stands below a key that is left to others to check, as the options of a policy are."""
    for end in range(len(loc)):
        model = model_at(root, loc[:end])
        if model is not None and loc[end] not in model.model_fields:
            return model.model_config.get("extra") == "allow"
    return False


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model in `annotation`, looked for in `X | None` and `Annotated[X, …]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return next((m for m in map(model_of, get_args(annotation)) if m is not None), None)
    return None


def item_of(annotation: Any) -> Any:
    """What a list or a mapping holds, behind `X | None` and `Annotated[X, …]`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType, Annotated):
        return next((i for i in map(item_of, args) if i is not None), None)
    return args[-1] if origin in (list, dict) else None


def _form(model: type[BaseModel] | None, given: Any) -> str:
    """How a mapping that stands for `given` begins."""
    if model is None:
        return ""
    fields = [(field.alias or name, field.is_required()) for name, field in model.model_fields.items()]
    required = [name for name, is_required in fields if is_required]
    if given is True and not required:
        return "; {} is one with all defaults"
    if required:
        return f" such as {{{', '.join(f'{name}: …' for name in required)}}}"
    return f", with keys such as {', '.join(name for name, _ in fields[:4])}"


def _in_unit_of(raw: Any, bound: float) -> str:
    """`bound` as the file would spell it: with a unit when the value `raw` beside it has one."""
    for parse, spell in ((parse_duration, format_duration), (parse_size, format_size)):
        try:
            parse(str(raw))
        except ValueError:
            continue
        return spell(int(bound))
    return f"{bound:.15g}"
