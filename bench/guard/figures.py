"""The figures that are kept in the repository: what a request costs on each guarded path, and what counted it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.guard.callgrind import Length
from bench.guard.profile import Count

FORMAT = 1
STORED = Path(__file__).with_name("instructions.json")
_LEAST = 1.0  # instructions per request below which a function is not worth a line in the repository


@dataclass(frozen=True)
class Tolerance:
    """Changes, in percent of the stored instructions, that are not yet a change of the code.

    Between two runs of one build the figures differ by less than 0.3 %, all of it in what depends on the clock: the
    loop that finds a latency's bucket, and the text of the date once a second. Another compiler or library is a
    difference of its own.
    """

    same_toolchain: float = 2.0
    other_toolchain: float = 10.0


@dataclass(frozen=True)
class Figures:
    """What `bench.guard update` stores and `check` compares with."""

    toolchain: dict[str, str]
    length: Length
    paths: dict[str, Count]
    tolerance: Tolerance = Tolerance()


def save(figures: Figures, file: Path) -> None:
    """Writes `file`, functions below one instruction per request left out. Raises BenchError when it cannot."""
    data = {
        "format": FORMAT,
        "tolerance_percent": asdict(figures.tolerance),
        "length": asdict(figures.length),
        "toolchain": figures.toolchain,
        "paths": {name: _plain(count) for name, count in figures.paths.items()},
    }
    try:
        file.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise BenchError(f"{file}: cannot be written: {error.strerror}") from error


def load(file: Path) -> Figures:
    """Raises BenchError when there are none, or not in this format."""
    try:
        data = json.loads(file.read_text())
        if data["format"] != FORMAT:
            raise BenchError(
                f"{file}: has format {data['format']}, not {FORMAT}; store it anew: make bench-guard-update"
            )
        length = Length(**data["length"])
        return Figures(
            toolchain=data["toolchain"],
            length=length,
            paths={name: Count(length.requests, **count) for name, count in data["paths"].items()},
            tolerance=Tolerance(**data["tolerance_percent"]),
        )
    except FileNotFoundError:
        raise BenchError(f"{file}: there are no stored figures; store some: make bench-guard-update") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{file}: no figures of the guard: {error!r}") from error


def merge(old: Figures, new: Mapping[str, Count], toolchain: dict[str, str], length: Length) -> Figures:
    """`old` with the paths of `new` replaced. Raises BenchError when those were counted by other means."""
    if (old.toolchain, old.length) != (toolchain, length):
        raise BenchError(
            "the stored figures are of another toolchain or length, and some new ones beside them could not be "
            "compared; store all: make bench-guard-update"
        )
    return Figures(toolchain, length, {**old.paths, **new}, old.tolerance)


def _plain(count: Count) -> dict[str, Any]:
    functions = {name: round(n, 2) for name, n in count.functions.items() if n >= _LEAST}
    return {
        "instructions": round(count.instructions, 1),
        "system_calls": round(count.system_calls, 2),
        "functions": functions,
    }
