"""What the annotations of the models say: which model, list or mapping stands at a place of the file."""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


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
