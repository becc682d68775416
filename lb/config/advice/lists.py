"""A list in a text's place, and a text in a list's: what to write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from lb.config.advice.annotations import item_of
from lb.config.advice.literal import one_of_hosts, quoted
from lb.config.schema.pools.health import instead_of_status
from lb.config.units import FileContext

_SEPARATORS = re.compile(r"\s*[,;|]\s*|\s+")


def takes(model: type[BaseModel], field: str, value: Any, item: bool = False) -> bool:
    """Whether `field` of `model`, or an item of it, may be `value`."""
    info = model.model_fields.get(field)
    if info is None:  # the key of a mapping
        return False
    hint = item_of(get_type_hints(model, include_extras=True)[field]) if item else _whole(info)
    try:
        TypeAdapter(hint).validate_python(value, context=FileContext(Path("/")))
    except (ValidationError, PydanticUserError):
        return False
    return True


def _whole(info: FieldInfo) -> Any:
    """The type of a field with its bounds."""
    whole: Any = info.annotation
    for part in info.metadata:
        whole = Annotated[whole, part]
    return whole


def as_list(model: type[BaseModel] | None, field: str, given: Any) -> str:
    """The list that the text `given` means, where each of its parts is what `field` takes; "" where none is."""
    if model is None or isinstance(given, bool) or not isinstance(given, str | int):
        return ""
    parts = [_respelled(field, part) for part in _SEPARATORS.split(str(given).strip()) if part]
    if not parts or not all(takes(model, field, part, item=True) for part in parts):
        return ""
    return f"[{', '.join(shown(part) for part in parts)}]"


def _respelled(field: str, part: str) -> str:
    meant = instead_of_status(part) if field == "status" and len(part) < 4 and not part.isdigit() else ""
    return meant or (part.upper() if field in ("method", "allow_methods") else part)


def instead_of_list(model: type[BaseModel] | None, field: str, given: Any) -> str:
    """What follows about a list or mapping where `field` takes one text."""
    if model is None:
        return ""
    if isinstance(given, dict):
        named = next((given[key] for key in ("name", "value", "address", "path", "ref") if key in given), None)
        return f"; write {field}: {shown(named)}" if isinstance(named, str) and takes(model, field, named) else ""
    if not isinstance(given, list) or not all(isinstance(item, str | int) for item in given):
        return ""
    items = [item for item in given if takes(model, field, item)]
    if len(given) == 1 and items:
        return f"; write {field}: {shown(given[0])}"
    if (model.__name__, field) == ("MatchConfig", "host") and given and items == given:
        return f"; write {one_of_hosts(given)}, or a route for each"
    if (model.__name__, field) == ("RouteConfig", "pool") and given and items == given:
        return f"; write pools: [{', '.join(f'{{pool: {shown(item)}}}' for item in given)}]"
    if (model.__name__, field) == ("ListenerConfig", "pool"):
        return "; it is one pool, which may have any number of endpoints"
    return ", and only one"


def shown(value: Any) -> str:
    """`value`, a text or number, as YAML has it inside of brackets."""
    return quoted(value) if isinstance(value, str) and not re.fullmatch(r"[1-5][0-9][0-9]", value) else str(value)
