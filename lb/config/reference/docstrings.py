"""The docstrings of attributes, which say what a key means: of the reference, and of some errors."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


@cache
def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings below the attributes of `model` and of its bases say, by name.

    They are read from the sources here: pydantic would read them at each start of the daemon, for a fifth of the time
    that the configuration's modules take to load. A model of a compiled module has descriptions instead.
    """
    found = {name: field.description for name, field in model.model_fields.items() if field.description}
    for part in (part for part in reversed(model.__mro__) if issubclass(part, BaseModel) and part is not BaseModel):
        try:
            source = inspect.getsource(part)
        except (OSError, TypeError):
            continue
        (tree,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(tree, ast.ClassDef)
        for attribute, below in pairwise(tree.body):
            if (
                isinstance(attribute, ast.AnnAssign)
                and isinstance(attribute.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[attribute.target.id] = inspect.cleandoc(below.value.value)
    return found
