"""`python -m bench.guard`: count instructions per request, compare with what is stored, store."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bench.commands import Commands
from bench.errors import BenchError
from bench.guard import figures as store
from bench.guard.callgrind import Length, count
from bench.guard.compare import Verdict, allowed, compare, differences
from bench.guard.figures import Figures
from bench.guard.paths import PATHS
from bench.guard.profile import Count
from bench.guard.report import show_comparison, show_counts, show_profile
from bench.guard.toolchain import toolchain
from bench.processes import signals_as_exit

app = typer.Typer(
    cls=Commands,
    name="bench.guard",
    help="Instructions per request of the compiled data path, counted by callgrind.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_PATHS = typer.Argument(metavar="[PATH]...", help="Names from `list`; default: all.")
_FILE = typer.Option(help="The stored figures.")
_JOBS = typer.Option(min=1, help="Runs at the same time; default: one for each CPU.")
_REQUESTS = typer.Option(min=1, help="Requests that are counted.")
_WARMUP = typer.Option(min=1, help="Requests before them that are not.")

_DEFAULT = Length()


@app.command("list")
def list_() -> None:
    """Show the guarded paths."""
    for path in PATHS.values():
        typer.echo(f"{path.name:<12} {path.title}")


@app.command()
def run(
    paths: Annotated[list[str] | None, _PATHS] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
    jobs: Annotated[int | None, _JOBS] = None,
    requests: Annotated[int, _REQUESTS] = _DEFAULT.requests,
    warmup: Annotated[int, _WARMUP] = _DEFAULT.warmup,
) -> None:
    """Count and show."""
    length = Length(warmup, requests)
    counts = _count(_known(paths), length, jobs)
    if json_file is not None:
        store.save(Figures(toolchain(), length, counts), json_file)
    show_counts(_console(), counts)


@app.command()
def check(
    paths: Annotated[list[str] | None, _PATHS] = None,
    file: Annotated[Path, _FILE] = store.STORED,
    jobs: Annotated[int | None, _JOBS] = None,
) -> None:
    """Compare with the stored figures; exits with 1 when a path costs more, or has no figure."""
    stored, here = store.load(file), toolchain()
    console = _console()
    others = differences(stored.toolchain, here)
    percent = allowed(stored.tolerance, not others)
    for line in others:
        console.print(Text(f"another toolchain: {line}", style="yellow"), soft_wrap=True)
    comparisons = compare(stored, _count(_known(paths), stored.length, jobs), percent)
    show_comparison(console, comparisons, percent)
    found = {one.verdict for one in comparisons}
    gone = sorted(stored.paths.keys() - PATHS.keys())
    if gone:
        console.print(Text(f"stored, but no path any more: {', '.join(gone)}", style="yellow"))
    if Verdict.BETTER in found:
        console.print(Text("A path costs less: store it, or the gain can be lost unseen: make bench-guard-update"))
    if Verdict.NEW in found:
        console.print(Text("A path has no stored figure: make bench-guard-update"))
    if Verdict.WORSE in found:
        console.print(Text("A path costs more. If that is what it is worth, say so in the commit and store it."))
    if gone or found & {Verdict.WORSE, Verdict.NEW}:
        raise typer.Exit(1)


@app.command()
def update(
    paths: Annotated[list[str] | None, _PATHS] = None,
    file: Annotated[Path, _FILE] = store.STORED,
    jobs: Annotated[int | None, _JOBS] = None,
) -> None:
    """Count and store. Some paths only: if the rest was counted by the same toolchain."""
    here, chosen = toolchain(), _known(paths)
    old = store.load(file) if file.exists() else None
    length = old.length if old is not None else _DEFAULT
    if old is not None and paths:
        store.merge(old, {}, here, length)  # refuses before the time is spent
    counts = _count(chosen, length, jobs)
    if old is not None and paths:
        made = store.merge(old, counts, here, length)
    else:
        made = Figures(here, length, counts, old.tolerance if old is not None else store.Tolerance())
    store.save(made, file)
    show_counts(_console(), counts)


@app.command()
def profile(
    path: str,
    top: Annotated[int, typer.Option(min=1, help="Functions to show.")] = 25,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all of it there.")] = None,
    requests: Annotated[int, _REQUESTS] = _DEFAULT.requests,
    warmup: Annotated[int, _WARMUP] = _DEFAULT.warmup,
) -> None:
    """Show the costliest functions of a path, by what they do themselves."""
    (name,) = _known([path])
    counted = _count([name], Length(warmup, requests), 1)[name]
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(counted), indent=1) + "\n")
    show_profile(_console(), name, counted, top)


def _known(paths: list[str] | None) -> list[str]:
    if unknown := [name for name in paths or () if name not in PATHS]:
        raise BenchError(f"no such path: {', '.join(unknown)} (there are: {', '.join(PATHS)})")
    return list(dict.fromkeys(paths)) if paths else list(PATHS)


def _count(paths: list[str], length: Length, jobs: int | None) -> dict[str, Count]:
    def progress(path: str, found: Count) -> None:
        print(f"{path}: {found.instructions:,.1f} instructions per request", file=sys.stderr)

    with signals_as_exit():
        return count(paths, length, jobs=jobs or len(os.sched_getaffinity(0)), progress=progress)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Returns the exit status; expected errors are one line each."""
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BenchError as error:
        print(f"bench.guard: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1
