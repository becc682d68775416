"""What can go wrong with ONNX Runtime."""

from __future__ import annotations


class OrtError(Exception):
    """What ONNX Runtime says of a call that has failed. `invalid`: its arguments were wrong."""

    def __init__(self, text: str, invalid: bool = False) -> None:
        super().__init__(text)
        self.invalid = invalid


class LibraryError(Exception):
    """ONNX Runtime's library cannot be used, and why."""
