"""`python -m backend cache`: the model cache for its operator. `tidegate models cache` is the same."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from backend.cache.store import Entry, Store
from backend.options import default_model_cache

_SHOWN = 12  # digits of a key in a table; any beginning that is one entry's alone names it


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 when a command fails, or when `verify` finds damage."""
    options = _parser().parse_args(arguments)
    folder: Path | None = options.dir or default_model_cache()
    if folder is None:
        print("error: this user has no folder for caches; name one with --dir", file=sys.stderr)
        return 1
    try:
        return int(options.command(Store(folder, sys.maxsize), options))
    except (OSError, LookupError) as error:
        print(f"error: {error.args[0] if isinstance(error, LookupError) else error}", file=sys.stderr)
        return 1


def _list(store: Store, options: argparse.Namespace) -> int:
    entries = store.entries()
    if options.json:
        print(json.dumps([_document(entry) for entry in entries], indent=2))
        return 0
    rows = [("entry", "model", "kind", "provider", "size", "built in", "used")]
    rows += [
        (entry.key[:_SHOWN], entry.name, entry.origin.kind, entry.origin.provider, _size(entry.size),
         f"{entry.build_seconds:.1f} s", _time(entry.used))
        for entry in entries
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{store.root}: {len(entries)} entries, {_size(sum(entry.size for entry in entries))}")
    return 0


def _inspect(store: Store, options: argparse.Namespace) -> int:
    print(json.dumps(_document(_named(store, options.entry)), indent=2))
    return 0


def _verify(store: Store, options: argparse.Namespace) -> int:
    damage = store.damage()
    for key, reason in sorted(damage.items()):
        print(f"{key[:_SHOWN]}: damaged: {reason}")
    print(f"{store.root}: {len(store.entries())} entries, {len(damage)} damaged")
    return 1 if damage else 0


def _purge(store: Store, options: argparse.Namespace) -> int:
    if options.all == bool(options.entry):
        raise LookupError("name entries, or --all")
    entries = store.entries() if options.all else [_named(store, entry) for entry in options.entry]
    for entry in entries:
        store.remove(entry.key)
    store.collect()
    print(f"{store.root}: {len(entries)} entries removed, {_size(sum(entry.size for entry in entries))}")
    return 0


def _named(store: Store, beginning: str) -> Entry:
    """Raises LookupError."""
    found = [entry for entry in store.entries() if entry.key.startswith(beginning)]
    if len(found) != 1:
        raise LookupError(f"{store.root}: {len(found) or 'no'} entries begin with '{beginning}'; expected one")
    return found[0]


def _document(entry: Entry) -> dict[str, Any]:
    document = asdict(entry) | {"folder": str(entry.folder), "size": entry.size}
    return document | {name: datetime.fromtimestamp(document[name]).isoformat() for name in ("created", "used")}


def _size(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >> shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size} B"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidegate models cache",
        description="The model cache: what takes long to build from a model, such as its optimised graph.",
        allow_abbrev=False,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--dir", type=Path, metavar="DIR",
        help="the folder that --model-cache of the model servers names (default: theirs, for this user)",
    )  # fmt: skip
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        made.set_defaults(command=function)
        return made

    command("list", _list, "the entries, the one used last first").add_argument("--json", action="store_true")
    command("inspect", _inspect, "what an entry was built from, and its files, as JSON").add_argument("entry")
    command("verify", _verify, "read all entries and hold them against their digests; exit with 1 if one is damaged")
    purge = command("purge", _purge, "remove entries; model servers that use them go on")
    purge.add_argument("entry", nargs="*", help="an entry, by the beginning of its key")
    purge.add_argument("--all", action="store_true", help="all entries")
    return parser
