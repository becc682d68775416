"""What readers of YAML 1.1 make of the words `on`, `off`, `yes` and `no`: truth values, as keys the texts of these.

Helm, Ansible and PyYAML read such words as `true` and `false` and hand these on, so that the file has `true` for the
key `on`, and `false` for the value `off`. The one rule, for every section: where a key or a value is one of these words
and no truth value, the truth value that the word became stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WORDS = {True: ("on", "yes", "y"), False: ("off", "no", "n")}
_SPELLINGS = {True: "true", False: "false"}


def repaired(model: type[BaseModel]) -> Callable[[Any], Any] | None:
    """What gives a section of `model` its words back, in a copy; None where it has none of them."""
    keys = {_SPELLINGS[truth]: word for truth, words in _WORDS.items() for word in words if word in _keys(model)}
    values = {key: words for key, field in _keys(model).items() if (words := _words_of(field))}
    if not keys and not values:
        return None

    def repair(given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        changed: dict[Any, Any] = {}
        for key, value in given.items():
            name: Any = keys.get(str(key).lower(), key)
            if name in given or name in changed:
                name = key
            words = values.get(name, {})
            changed[name] = words.get(_truth(value), value) if words else value
        return changed

    return repair


def _truth(value: Any) -> bool | None:
    """The truth value that `value` is or spells."""
    text = str(value).lower() if isinstance(value, bool | str) else ""
    return next((truth for truth, spelling in _SPELLINGS.items() if text == spelling), None)


def _keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _words_of(field: FieldInfo) -> dict[bool | None, str]:
    """The words of YAML 1.1 that `field` takes, by their truth value; none of a field that takes truth values."""
    taken = set(_taken((field.annotation, *field.metadata)))
    if bool in taken:
        return {}
    return {truth: word for truth, words in _WORDS.items() for word in words if word in taken}


def _taken(annotations: tuple[Any, ...]) -> Iterator[Any]:
    """The types and the words that a file may have for a value of these annotations, items of lists and mappings left
    out."""
    for annotation in annotations:
        origin = get_origin(annotation)
        if origin is Literal:
            yield from get_args(annotation)
        elif origin in (list, dict, tuple):
            yield origin
        elif args := get_args(annotation):
            yield from _taken(args)
        elif (form := getattr(annotation, "json_schema_input_type", None)) is not None:
            yield from _taken((form,))
        elif isinstance(annotation, type):
            yield annotation
