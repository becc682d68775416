"""What a cached answer is of, by its first bytes."""

from __future__ import annotations

from collections.abc import Iterator


def fields(message: bytes) -> Iterator[tuple[int, str]]:
    """The fields of text at the beginning of a protobuf message, by their numbers; those that are whole. Of a
    ModelInferResponse 1 is the model and 2 its version."""
    at = 0
    while at + 2 <= len(message) and message[at] in (0x0A, 0x12):  # fields 1 and 2, of bytes
        size = message[at + 1]
        end = at + 2 + size
        if size > 127 or end > len(message):
            return
        try:
            yield message[at] >> 3, message[at + 2 : end].decode()
        except UnicodeDecodeError:
            return
        at = end
