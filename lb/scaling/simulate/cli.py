"""`tidegate scaling simulate`: rules side by side on a trace."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.table import Table

from lb.config.load import load
from lb.config.schema.file import PoolConfig, ScalingConfig
from lb.config.units import HOUR, MICROSECOND, MILLISECOND, format_duration, parse_duration
from lb.errors import TidegateError
from lb.scaling.registry import RULES, build
from lb.scaling.scaler import Scaler
from lb.scaling.simulate.page import write
from lb.scaling.simulate.run import SIGNALS, Result, Setup, simulate
from lb.scaling.simulate.trace import read

DESCRIPTION = (
    "Replay a trace of requests against scaling rules, in simulated time. The pool has one queue and equal replicas. A "
    "request is late, a violation, when its answer comes more than the SLO after it. A replica is paid for from the "
    "order to start until it has stopped."
)
MOST = 100_000  # replicas, requests at once: as many as a configuration can say
MOST_SEED = 2**64 - 1


def main(arguments: Sequence[str]) -> int:
    """The command with these arguments; the exit status. Raises TidegateError."""
    parser = argparse.ArgumentParser(prog="tidegate scaling simulate", description=DESCRIPTION, allow_abbrev=False)
    _add_options(parser)
    try:
        options = parser.parse_args(arguments)
    except SystemExit as ended:  # after --help, or what is wrong with the command line
        return int(ended.code or 0)
    return _run(options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--trace", metavar="FILE", type=Path, required=True, help="CSV with `second` or `minute`, and `requests`.")
    add("--where", metavar="COLUMN=VALUE", help="Only the rows of the trace that have this value.")
    add("--scale", metavar="X", type=_positive, default=1.0, help="Multiplies the trace's requests. Default: 1.")
    add("--service-time", metavar="TIME", type=_service_time, default="20ms", help="Of one request. Default: 20ms.")
    add(
        "--service", choices=("fixed", "exponential"), default="fixed",
        help="Whether all service times are alike, or exponential with that mean. Default: fixed.",
    )  # fmt: skip
    add(
        "--concurrency",
        metavar="N",
        type=_number(1, MOST),
        default=1,
        help="Requests a replica serves at once. Default: 1.",
    )
    add("--start-time", metavar="TIME", type=_time, default="30s", help="From order to ready. Default: 30s.")
    add("--slo", metavar="TIME", type=_objective, default="200ms", help="From a request to its answer. Default: 200ms.")
    add("--min", metavar="N", type=_number(0, MOST), default=1, help="Fewest replicas. Default: 1.")
    add("--max", metavar="N", type=_number(1, MOST), default=500, help="Most replicas. Default: 500.")
    add(
        "--config", metavar="FILE", type=Path,
        help="The rules of this file's pools as well, each with the pool's options, `min` and `max`.",
    )  # fmt: skip
    add(
        "--begin", metavar="TIME", type=_moment,
        help="When the trace begins, for schedules: `2026-12-24 18:00`, in UTC where it names no other offset.",
    )  # fmt: skip
    add(
        "--rules", metavar="NAMES", type=_names, default=",".join(RULES),
        help=f"Rules to compare, with commas. Default: all of {', '.join(RULES)}.",
    )  # fmt: skip
    add("--seed", metavar="N", type=_number(0, MOST_SEED), default=1, help="Of the random times. Default: 1.")
    add(
        "--page", metavar="FILE", type=_page, help="Draw the comparison as a page (.html), or the drawing alone (.svg)."
    )
    add("--json", action="store_true", help="Print the results as JSON.")


def _run(options: argparse.Namespace) -> int:
    """Simulates each rule and shows what came of it. Raises TidegateError."""
    if options.min > options.max:
        raise TidegateError(f"--min {options.min} is more than --max {options.max}")
    trace = read(options.trace, options.scale, options.where)
    setup = Setup(
        options.service_time, options.concurrency, options.start_time, options.slo, options.min, options.max,
        options.seed, options.service == "exponential",
    )  # fmt: skip
    compared = {
        **(_of_file(options.config, setup, options.begin) if options.config is not None else {}),
        **{name: (setup, rule(name, setup)) for name in options.rules},
    }
    wall = options.begin or 0.0
    results = {name: simulate(trace, one, scaler, wall) for name, (one, scaler) in compared.items()}
    if options.json:
        print(json.dumps({name: _figures(result) for name, result in results.items()}, indent=1))
    else:
        _show(results)
    if options.page is not None:
        title = f"{options.trace.stem}: {', '.join(results)}"
        write(options.page, results, trace.length, title, _told(options))
    return 0


def _of_file(path: Path, setup: Setup, begin: float | None) -> dict[str, tuple[Setup, Scaler]]:
    """The rule of each pool of the file that has one, between the pool's limits, by `pool NAME`. A pool that goes by
    what is not simulated is left out, which is told. Raises ConfigError, and TidegateError where no pool is left, or
    one has schedules and nobody says when the trace begins."""
    found = {}
    for name, pool in load(path, files=False).pools.items():
        limited = _limited(setup, pool)
        if pool.scaling is None or limited is None:
            continue
        if pool.scaling.schedules and begin is None:
            raise TidegateError(f"pool {name} of {path} has schedules: say with --begin when the trace begins")
        absent = [signal.type for signal in pool.scaling.signals if signal.type not in SIGNALS]
        if absent:
            told = f"it goes by {' and '.join(dict.fromkeys(absent))}, and the simulation has {', '.join(SIGNALS)}"
            print(f"tidegate: pool {name} of {path} is left out: {told}", file=sys.stderr)
            continue
        found[f"pool {name}"] = limited, build(pool.scaling)
    if not found:
        raise TidegateError(f"no pool of {path} has `scaling` that can be simulated, and `serve` or `engine`")
    return found


def _limited(setup: Setup, pool: PoolConfig) -> Setup | None:
    """The setup between the limits of a pool; None where nothing is scaled."""
    scaled = pool.serve if pool.engine is None or pool.engine.ray is not None else pool.engine
    if scaled is None:
        return None
    return replace(setup, minimum=scaled.min, maximum=scaled.max, idle=scaled.idle_timeout)


def rule(name: str, setup: Setup) -> Scaler:
    """A rule with its defaults, told what its users would tell it: how many requests a replica serves at once, and the
    objective."""
    settings: dict[str, Any] = {"rule": name}
    if name == "auto":
        settings["objective"] = f"{setup.objective / MICROSECOND:f}us"
    if name == "kpa":
        settings["kpa"] = {"container_concurrency": setup.concurrency}
    return build(ScalingConfig.model_validate(settings))


def _figures(result: Result) -> dict[str, float]:
    return {
        "requests": result.requests,
        "violations": result.violations,
        "replica_seconds": result.replica_seconds,
        "changes": result.changes,
        "peak": result.peak,
    }


def _show(results: Mapping[str, Result]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rule")
    for title in ("requests", "late", "of all", "replica seconds", "changes", "peak"):
        table.add_column(title, justify="right")
    for name, r in results.items():
        share = f"{100 * r.violations / r.requests:.3f} %" if r.requests else ""
        table.add_row(
            name, f"{r.requests:,}", f"{r.violations:,}", share, f"{r.replica_seconds:,.0f}", f"{r.changes:,}",
            f"{r.peak:,}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 400).print(table)


def _told(options: argparse.Namespace) -> str:
    """The command that makes the page again; without what has no say in it."""
    words = ["tidegate", "scaling", "simulate", "--trace", str(options.trace)]
    if options.where is not None:
        words += ["--where", options.where]
    for name in ("service_time", "start_time", "slo"):
        words += [f"--{name.replace('_', '-')}", format_duration(getattr(options, name))]
    for name in ("scale", "service", "concurrency", "min", "max", "seed"):
        words += [f"--{name}", f"{getattr(options, name)}"]
    if options.config is not None:
        words += ["--config", str(options.config)]
    if options.begin is not None:
        words += ["--begin", datetime.fromtimestamp(options.begin, UTC).isoformat(sep=" ")]
    return shlex.join([*words, "--rules", ",".join(options.rules)])


def _time(text: str) -> int:
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def _service_time(text: str) -> int:
    value = _time(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return value


def _objective(text: str) -> int:
    value = _time(text)
    if not MILLISECOND <= value <= HOUR:  # as of `scaling.objective`
        raise argparse.ArgumentTypeError(f"{text} is not between 1ms and 1h")
    return value


def _moment(text: str) -> float:
    """Seconds since the epoch."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date; write 2026-12-24, or 2026-12-24 18:00") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _page(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".html", ".svg"):
        raise argparse.ArgumentTypeError(f"{text} ends neither in .html nor in .svg")
    return path


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return value


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        if int(text) > most:
            raise argparse.ArgumentTypeError(f"{text} is more than {most}")
        return int(text)

    return number


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in RULES:
            raise argparse.ArgumentTypeError(f"no such rule: {name!r} (there are: {', '.join(RULES)})")
    return names
