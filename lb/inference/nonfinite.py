"""JSON with the literals NaN, Infinity and -Infinity, which RFC 8259 has not and stock clients write all the same:
Python's json module does by default, and tritonclient by it."""

from __future__ import annotations

import json
import re
from typing import Any

# It takes 5 to 20 ms per MiB, which others wait for.
LARGEST = 64 << 10
_LITERAL = re.compile(rb"NaN|Infinity")


class TooLong(ValueError):
    """A text with such literals that is longer than is read."""


def load(text: bytes | memoryview) -> Any:
    """The document of a text that is JSON but for these literals, which become floats.

    Raises TooLong, with a reason for the client, above 64 KiB, and ValueError for any other text. Unlike strict JSON,
    its strings may have lone surrogates and its integers more than 64 bits.
    """
    if _LITERAL.search(text) is None:
        raise ValueError
    if len(text) > LARGEST:
        raise TooLong(f"NaN and infinities are taken in parameters of up to {LARGEST} bytes")
    try:
        return json.loads(str(text, "utf-8"))
    except RecursionError:
        raise ValueError from None
