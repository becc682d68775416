"""`python -m bench`: what can be measured, measuring it, and reporting it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bench import report as reports
from bench import results as store
from bench.bed import Timing
from bench.errors import BenchError, Cannot
from bench.peers import OURS, PEERS, PROXIES, Setup
from bench.processes import signals_as_exit
from bench.results import Sample
from bench.runner import Progress
from bench.runner import run as run_suite
from bench.scenarios import SCENARIOS, Scenario

app = typer.Typer(
    name="bench",
    help="Tidegate side by side with its peers on one core. Without a command: every scenario, every peer.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RUNS = 5
DURATION = 2
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        _measure(list(SCENARIOS), list(PEERS), RUNS, DURATION)


@app.command("list")
def list_() -> None:
    """Show the scenarios and the proxies that are here."""
    for scenario in SCENARIOS.values():
        typer.echo(f"{scenario.name:<14} {scenario.title}")
    typer.echo("")
    for name, proxy in PROXIES.items():
        typer.echo(f"{name:<14} {proxy.version() or f'not installed (apt-get install {proxy.package})'}")


@app.command()
def run(
    scenarios: Annotated[list[str], typer.Argument(metavar="SCENARIO...", help="Names from `list`.")],
    peers: Annotated[str, typer.Option(help="Peers to measure against, by comma; empty for none.")] = ",".join(PEERS),
    runs: Annotated[int, typer.Option(min=1, help="Runs of each proxy in each scenario.")] = RUNS,
    duration: Annotated[int, typer.Option(min=1, help="Seconds that a run is measured.")] = DURATION,
) -> None:
    """Measure some scenarios."""
    _measure(scenarios, [name for name in peers.split(",") if name], runs, duration)


@app.command()
def config(peer: str, scenario: str) -> None:
    """Print the configuration that a proxy gets in a scenario (ports and directory are examples)."""
    proxy, wanted = (
        PROXIES[_known([peer], PROXIES, "proxy")[0]],
        SCENARIOS[_known([scenario], SCENARIOS, "scenario")[0]],
    )
    try:
        typer.echo(proxy.config(Setup(wanted.job, 8080, 9000, 9900, Path("/tmp/bench"))), nl=False)
    except Cannot as reason:
        raise BenchError(f"{peer} cannot do {scenario}: {reason}") from None


@app.command()
def report(
    file: Annotated[Path | None, typer.Argument(help="A result; default: the newest.")] = None,
    write: Annotated[Path | None, typer.Option(help=f"Put it between {BEGIN} and {END} of this file.")] = None,
) -> None:
    """Print a result as Markdown, or put it into a document."""
    text = reports.markdown(store.load(file or store.newest()))
    if write is None:
        typer.echo(text, nl=False)
        return
    before, found, rest = write.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise BenchError(f"{write}: has no {BEGIN} … {END}")
    write.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def _known(names: list[str], choices: Mapping[str, object], kind: str) -> list[str]:
    if unknown := [name for name in names if name not in choices]:
        raise BenchError(f"no such {kind}: {', '.join(unknown)} (there are: {', '.join(choices)})")
    return names


def _measure(scenarios: list[str], peers: list[str], runs: int, duration: int) -> None:
    """Runs, saves, shows. Exits with 1 if a proxy failed in a scenario."""
    chosen = [SCENARIOS[name] for name in dict.fromkeys(_known(scenarios, SCENARIOS, "scenario"))]
    against = [name for name in dict.fromkeys(_known(peers, PROXIES, "peer")) if name != OURS]
    console = Console(width=None if sys.stdout.isatty() else 120)
    with signals_as_exit():
        results = run_suite(chosen, against, runs, Timing(duration=duration), _progress(console))
    path = store.save(results)
    console.print()
    reports.show(results, console)
    console.print(Text(f"{results.seconds:.0f} s; raw samples in {path}", style="dim"))
    if any(subject.failed for outcome in results.outcomes for subject in outcome.subjects.values()):
        raise typer.Exit(1)


def _progress(console: Console) -> Progress:
    def progress(scenario: Scenario, name: str, number: int, found: Sample | str) -> None:
        if isinstance(found, str):
            text = found
        else:
            text = "  ".join(f"{found.values[m.key]:,.{m.digits}f} {m.title}" for m in scenario.metrics)
            text += "".join(f"  ! {warning}" for warning in found.warnings)
        console.print(Text(f"{scenario.name:<12} {number}  {name:<9} {text}"), soft_wrap=True)

    return progress


def main() -> int:
    """Returns the exit status; expected errors are one line each."""
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1
