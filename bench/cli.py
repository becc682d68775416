"""`python -m bench`, `tidegate bench`: what can be measured, measuring it, reporting it, comparing two results."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bench import compare as comparing
from bench import report as reports
from bench import results as store
from bench.bed import Timing
from bench.commands import Commands
from bench.errors import BenchError, Cannot
from bench.peers import OURS, PEERS, PROXIES, Setup
from bench.peers.base import Certificate, show_files
from bench.processes import signals_as_exit
from bench.results import Sample
from bench.runner import Progress
from bench.runner import run as run_suite
from bench.scenarios import SCENARIOS, Scenario, autoscale_trace

app = typer.Typer(
    cls=Commands,
    name="bench",
    help="Tidegate side by side with its peers on one core. Without a command: the default scenarios, every peer.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RUNS = 3
DURATION = 1
ENVIRONMENTS = Path("build/environments")
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"

FileArgument = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A result; default: the newest.")]


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        _measure([s for s in SCENARIOS.values() if s.default], PEERS, RUNS, DURATION)


@app.command("list")
def list_() -> None:
    """Show the scenarios (* are in the default run) and the proxies that are here."""
    for scenario in SCENARIOS.values():
        typer.echo(f"{scenario.name:<24}{'*' if scenario.default else ' '} {scenario.title}")
    typer.echo("")
    for name, proxy in PROXIES.items():
        typer.echo(f"{name:<25} {proxy.version() or f'not installed ({proxy.install})'}")


@app.command()
def run(
    scenarios: Annotated[list[str], typer.Argument(metavar="SCENARIO...", help="Names from `list`, or `all`.")],
    peers: Annotated[str, typer.Option(help="Peers to measure against, by comma; empty for none.")] = ",".join(PEERS),
    runs: Annotated[int, typer.Option(min=1, help="Runs of each proxy in each scenario.")] = RUNS,
    duration: Annotated[int, typer.Option(min=1, help="Seconds at full load that a run is measured.")] = DURATION,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A CSV file of times and request counts for autoscale-trace.")
    ] = None,
    trace_where: Annotated[
        str | None, typer.Option(metavar="COLUMN=VALUE", help="Take only these rows of the trace.")
    ] = None,
) -> None:
    """Measure some scenarios."""
    names = list(SCENARIOS) if scenarios == ["all"] else _known(scenarios, SCENARIOS, "scenario")
    known = dict(SCENARIOS)
    if trace is not None:
        known["autoscale-trace"] = autoscale_trace.scenario(trace, trace_where)
    chosen = [known[name] for name in dict.fromkeys(names)]
    _measure(chosen, [name for name in peers.split(",") if name], runs, duration)


@app.command("model-servers")
def model_servers(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each server with each model.")] = RUNS,
    duration: Annotated[int, typer.Option(min=1, help="Seconds that a run is measured.")] = DURATION,
    environments: Annotated[
        Path, typer.Option(metavar="DIR", help="Python environments of Triton, MLServer and KServe.")
    ] = ENVIRONMENTS,
    install: Annotated[bool, typer.Option("--install", help="Make them, with pip.")] = False,
) -> None:
    """Measure the model server beside others, without a balancer; exit with 1 if a promise is not kept."""
    from bench.model_servers import cli

    if not cli.run(runs, duration, environments.resolve(), install, _console()):
        raise typer.Exit(1)


@app.command()
def clients(
    servers: Annotated[list[str] | None, typer.Argument(metavar="[SERVER...]", help="Default: all.")] = None,
    environments: Annotated[
        Path, typer.Option(metavar="DIR", help="Python environments of clients and servers.")
    ] = ENVIRONMENTS,
    install: Annotated[bool, typer.Option("--install", help="Make them, with pip.")] = False,
    logs: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep what clients, servers, daemons say.")] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep what was found as JSON.")] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"Put the tables between {BEGIN} and {END} of this file.")
    ] = None,
) -> None:
    """Ask model servers, alone and in pools, by stock clients; exit with 1 if something works only without a pool."""
    from bench.clients import cli, table
    from bench.clients.rig import KINDS

    names = _known(servers or list(KINDS), KINDS, "server")
    with signals_as_exit(), tempfile.TemporaryDirectory() as folder:
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
        found = cli.run(environments.resolve(), install, names, logs or Path(folder), _console())
    if save is not None:
        found.save(save)
    if write is not None:
        _insert(write, table.markdown(found, {name: kind.name for name, kind in KINDS.items()}))
    worse = table.worse(found)
    for one in worse:
        typer.echo(f"{one.server}, {one.arrangement}, {one.client}, {one.case}: {one.reason}")
    if worse:
        raise typer.Exit(1)


@app.command("local-transport")
def local_transport(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each way.")] = RUNS,
    duration: Annotated[int, typer.Option(min=1, help="Seconds that a run is measured.")] = DURATION,
) -> None:
    """Measure large tensors between worker and model server; exit with 1 if a promise is not kept."""
    from bench.model_servers import local

    if not local.run(runs, duration, _console()):
        raise typer.Exit(1)


@app.command()
def simulate(
    scenarios: Annotated[list[str] | None, typer.Argument(metavar="[SCENARIO...]", help="Default: all.")] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="A name, or a YAML mapping; `default` leaves it out. Repeated: compared.")
    ] = None,
    pool: Annotated[str, typer.Option(metavar="YAML", help="What the file says of the pool besides.")] = "",
    route: Annotated[str, typer.Option(metavar="YAML", help="A mapping: what it says of each route besides.")] = "",
    file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Your own file: its pools have an endpoint for each server."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="To measure [the scenario's].")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same figures.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Of each, by seeds from `seed` on; the table has medians.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Of each daemon.")] = 1,
    load: Annotated[float, typer.Option(min=0.01, help="So many times the scenario's requests.")] = 1.0,
    reports: Annotated[bool, typer.Option("--reports", help="Servers report their load, and answer probes.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep all figures.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Draw them, as SVG.")] = None,
    drawn: Annotated[
        int, typer.Option(min=0, metavar="N", help="So many scenarios more (alone, if none is named), drawn by a seed.")
    ] = 0,
    endpoints: Annotated[bool, typer.Option("--endpoints", help="Show what each server got.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the scenarios.")] = False,
) -> None:
    """Compare policies in simulated time: the daemon's balancing and the emulator's servers, without a network."""
    from bench.simulate import SCENARIOS as SIMULATED
    from bench.simulate import cli
    from bench.simulate.drawn import drawn as draw

    if list_:
        for one in SIMULATED.values():
            typer.echo(f"{one.name:<26}{one.title}")
        return
    names = _known(scenarios or ([] if drawn else list(SIMULATED)), SIMULATED, "scenario")
    options = cli.Options(seconds, seed, runs, workers, pool, route, file, load, reports)
    chosen = [SIMULATED[name] for name in names] + [draw(number) for number in range(1, drawn + 1)]
    cli.run(chosen, policy or [cli.DEFAULT], options, save=json, plots=plots, endpoints=endpoints, console=_console())


@app.command("cache-policies")
def cache_policies(
    trace: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="CSV with key, size (bytes), cost (µs). Default: made traces."),
    ] = None,
) -> None:
    """Replay traces through cache policies: the store's own, and those that it was chosen from."""
    from bench.caching import cli

    cli.run(trace or (), _console())


@app.command()
def agreement(
    scenarios: Annotated[list[str] | None, typer.Argument(metavar="[SCENARIO...]", help="Default: all.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Real ones, and as many simulated.")] = RUNS,
) -> None:
    """Run scenarios for real and in simulated time, and show the ratio of their figures."""
    from bench.simulate import agreement as agreeing

    names = _known(scenarios or list(agreeing.TWINS), agreeing.TWINS, "scenario")
    console = _console()
    with signals_as_exit():
        found = agreeing.measure(names, runs, _progress(console))
    agreeing.show(found, console)


@app.command()
def config(peer: str, scenario: str) -> None:
    """Print the configuration that a proxy gets in a scenario (ports and directory are examples)."""
    wanted = SCENARIOS[_known([scenario], SCENARIOS, "scenario")[0]]
    _known([peer], dict.fromkeys(wanted.names(PROXIES)), "proxy")
    try:
        row = wanted.row(peer)
        proxy, task = PROXIES[row.proxy], row.task
        server = wanted.servers.get(proxy.upstream(task))
        ports = tuple(range(9000, 9000 + (task.endpoints or (server.ports if server else 1))))
        place = Path("/tmp/bench")
        files = (place / name for name in ("chain.pem", "key.pem", "both.pem", "authority.pem"))
        certificate = Certificate(*files) if task.tls else None
        models = place / "models" if task.serve else None
        setup = Setup(task, 8080, ports, 9900, place, certificate=certificate, models=models)
        typer.echo(show_files(proxy.files(setup)), nl=False)
    except Cannot as reason:
        raise BenchError(f"{peer} cannot do {scenario}: {reason}") from None


@app.command()
def report(
    file: FileArgument = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown instead of terminal tables.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page with plots.")] = None,
    write: Annotated[
        Path | None, typer.Option(help=f"Put it between {BEGIN} and {END} of this file, its plots beside the file.")
    ] = None,
) -> None:
    """Show a result as tables, as Markdown, as a page, or put it into a document."""
    results = store.load(file or store.newest())
    if html is not None:
        from bench.report import page

        html.write_text(page.html(results))
    if write is not None:
        _insert(write, reports.markdown(results, _plots(results, write)))
    if markdown:
        typer.echo(reports.markdown(results), nl=False)
    elif html is None and write is None:
        reports.show(results, _console())


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json")],
    second: Annotated[Path, typer.Argument(metavar="B.json")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
) -> None:
    """Say whether two results agree on every ratio within their spreads; exit with 1 if a headline does not."""
    a, b = store.load(first), store.load(second)
    agreements = comparing.compare(a, b)
    if markdown:
        typer.echo(comparing.markdown(agreements, a, b), nl=False)
    else:
        comparing.show(agreements, a, b, _console())
    if comparing.disagreements(agreements):
        raise typer.Exit(1)


def _plots(results: store.Results, document: Path) -> str:
    """Writes the plots into a folder named as the document; returns the folder as seen from the document."""
    from bench.report import plots

    folder = document.with_suffix("")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    plots.write_all(results, folder)
    return folder.name


def _insert(document: Path, text: str) -> None:
    before, found, rest = document.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise BenchError(f"{document}: has no {BEGIN} … {END}")
    document.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def _known(names: list[str], choices: Mapping[str, object], kind: str) -> list[str]:
    if unknown := [name for name in names if name not in choices]:
        raise BenchError(f"no such {kind}: {', '.join(unknown)} (there are: {', '.join(choices)})")
    return names


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)


def _measure(scenarios: Sequence[Scenario], peers: Sequence[str], runs: int, duration: int) -> None:
    """Runs, saves, shows. Exits with 1 if a proxy failed in a scenario."""
    against = [name for name in dict.fromkeys(_known(list(peers), PROXIES, "peer")) if name != OURS]
    console = _console()
    with signals_as_exit():
        results = run_suite(scenarios, against, runs, Timing(duration=duration), _progress(console))
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
            text = "  ".join(
                f"{found.values[m.key]:,.{m.digits}f} {m.title}" for m in scenario.metrics if m.key in found.values
            )
            text += "".join(f"  ! {warning}" for warning in found.warnings)
        console.print(Text(f"{scenario.name:<23} {number}  {name:<13} {text}"), soft_wrap=True)

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
