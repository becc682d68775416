"""Which models have to leave memory so that the others have room: the least recently used ones that are idle."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from backend.model import Model

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of memory that the process has now, mapped files among them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


@dataclass(frozen=True, slots=True)
class Use:
    """`last` is when a model was used or loaded last, in ms since 1970; `busy`: it has inferences."""

    model: Model
    last: int
    busy: bool


class Memory:
    """`limit` is in bytes. A model counts with what the process grew by as it was loaded, or the size of its files if
    that is more: a load that reuses what another model has left seems to take nothing."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes: dict[tuple[str, str], int] = {}

    def of(self, model: Model) -> int:
        """What the model takes; the most that was seen of this version."""
        key = (model.name, model.version)
        self._bytes[key] = max(model.resident_bytes, model.file_bytes, self._bytes.get(key, 0))
        return self._bytes[key]

    def leaving(self, uses: Iterable[Use], coming: Model | None = None) -> list[Model]:
        """Those of the models in memory that leave it now, for `coming` beside what stays. One model stays, however
        large it is, and so do those of sequences: what these have open would be lost."""
        uses = sorted(uses, key=lambda use: use.last)
        size = sum(self.of(use.model) for use in uses) + (self.of(coming) if coming is not None else 0)
        found = []
        for use in uses if coming is not None else uses[:-1]:
            if size <= self.limit:
                break
            if not use.busy and use.model.sequencing is None:
                found.append(use.model)
                size -= self.of(use.model)
        return found
