"""Protocol Buffers messages as plain JSON values, the way the Open Inference Protocol's REST half shows them."""

from __future__ import annotations

import base64
import math
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

# The runtimes of Protocol Buffers (C and Python) have descriptor classes of their own, without a common type.
Field = Any


def to_plain(message: Message, *, complete: bool = False) -> dict[str, Any]:
    """Fields by their proto names, scalars with their defaults too, enums by name, bytes in base64.

    Unlike the protobuf JSON mapping, 64-bit integers are JSON numbers, as clients of the protocol expect. Messages that
    are not set are left out unless `complete`, which must not be used on types that contain themselves. A member of a
    oneof is shown only where it is set.
    """
    plain: dict[str, Any] = {}
    fields: Any = message.DESCRIPTOR.fields
    for field in fields:
        value = getattr(message, field.name)
        if _is_map(field):
            values = field.message_type.fields_by_name["value"]
            plain[field.name] = {str(key): _plain(values, value[key], complete) for key in sorted(value)}
        elif field.is_repeated:
            plain[field.name] = [_plain(field, item, complete) for item in value]
        elif _is_shown(message, field, complete):
            plain[field.name] = _plain(field, value, complete)
    return plain


def _is_shown(message: Message, field: Field, complete: bool) -> bool:
    if not field.has_presence or message.HasField(field.name):
        return True
    return complete and field.containing_oneof is None and field.type == FieldDescriptor.TYPE_MESSAGE


def _is_map(field: Field) -> bool:
    return field.type == FieldDescriptor.TYPE_MESSAGE and bool(field.message_type.GetOptions().map_entry)


def _plain(field: Field, value: Any, complete: bool) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return to_plain(value, complete=complete)
    if field.type == FieldDescriptor.TYPE_ENUM:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
