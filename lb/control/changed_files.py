"""Which of the files on disk come into force where some of them have a mistake: each file stands alone, but for a
certificate with its key and its OCSP response, which belong together. What stands back keeps what is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from lb.config.schema.file import Config
from lb.config.schema.listeners.tls import Material, tls_files
from lb.config.sources import Ranges
from lb.control.certificates import MAX_MAPS, MAX_SOURCES, CertificateFacts, TlsFiles, size_of

Found = tuple[str, str]
_Kept = TypeVar("_Kept", bytes, Ranges)


class Settled(Struct):
    """What comes into force, and why other files do not: problems as (path, message)."""

    material: Material
    facts: tuple[CertificateFacts, ...]
    problems: list[Found]


def settle(
    config: Config, files: TlsFiles, found: Sequence[Found], old: Material, facts: Sequence[CertificateFacts]
) -> Settled:
    """What of `files`, in which `found` are the problems, comes into force beside `old` and `facts`, which were read
    for the same `config`."""
    problems = [each for each in found if each[0] not in ("maps", "listeners")]  # the totals are judged below
    bad = _held_back(config, {where for where, _ in problems})
    new = files.material
    maps, too_large = _within(MAX_MAPS, len, {**old.maps, **new.maps}, old.maps)
    problems += [(f"maps.{name}", f"all maps together take more than {MAX_MAPS >> 20} MiB") for name in too_large]
    sources, too_large = _within(MAX_SOURCES, size_of, {**old.sources, **new.sources}, old.sources)
    said = f"all lists of networks together take more than {MAX_SOURCES >> 20} MiB"
    problems += [(f"listeners.{name}", said) for name in too_large]
    known = {(fact.owner, fact.file): fact for fact in files.facts if Path(fact.file) not in bad}
    material = replace(
        new,
        files={path: (old if path in bad else new).files[path] for path in old.files},
        names={path: (old if path in bad else new).names[path] for path in old.names},
        staples={path: (old if path in bad else new).staples[path] for path in old.staples},
        maps=maps,
        sources=sources,
    )
    return Settled(material, tuple(known.get((fact.owner, fact.file), fact) for fact in facts), problems)


def _held_back(config: Config, places: Set[str]) -> Set[Path]:
    """The files that have a problem at one of `places`, and those that belong to them."""
    listed = list(tls_files(config))
    bad = {file.path for file in listed if file.where in places}
    pairs = [(file.path, file.key_of) for file in listed if file.key_of is not None]
    grown = True
    while grown:  # a certificate may be that of several keys and responses
        more = {path for pair in pairs if not bad.isdisjoint(pair) for path in pair}
        grown = not more <= bad
        bad |= more
    return bad


def _within(
    most: int, size: Callable[[_Kept], int], wanted: Mapping[str, _Kept], old: Mapping[str, _Kept]
) -> tuple[dict[str, _Kept], list[str]]:
    """`wanted` with as many of `old`, which fit, as it takes for all to fit, and the names of these: what has grown
    most stands back first."""
    kept, back = dict(wanted), []
    total = sum(map(size, kept.values()))
    for name in sorted(old, key=lambda name: size(old[name]) - size(kept[name])):
        if total <= most:
            break
        total -= size(kept[name]) - size(old[name])
        kept[name] = old[name]
        back.append(name)
    return kept, back
