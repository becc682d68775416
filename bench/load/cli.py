"""The command line of the load generator."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.commands import Commands
from bench.errors import BenchError
from bench.load.arrivals import Arrivals, Constant, Poisson, Steps, Trace
from bench.load.invoke import MARK, MEASURING, side_by_side
from bench.load.request import Request, frame
from bench.load.runner import run as run_spec
from bench.load.show import show
from bench.load.spec import Spec, Tls

app = typer.Typer(
    cls=Commands,
    name="bench.load",
    help="An open-loop load generator. `python -m bench.load SPEC.json…` runs specifications at once and prints JSON.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Kind(StrEnum):
    """Protocols as the command line names them."""

    HTTP = "http"
    HTTPS = "https"
    GRPC = "grpc"
    GRPCS = "grpcs"
    TCP = "tcp"
    TLS = "tls"


class Shape(StrEnum):
    """Arrivals that have a rate."""

    CONSTANT = "constant"
    POISSON = "poisson"


_SECURE = {Kind.HTTPS: "http", Kind.GRPCS: "grpc", Kind.TLS: "tcp"}


@app.callback()
def _commands() -> None:
    pass


@app.command()
def run(
    protocol: Annotated[Kind, typer.Argument(help="http, https, grpc, grpcs, tcp or tls.")],
    address: Annotated[str, typer.Argument(help="HOST:PORT or unix:PATH.")],
    rate: Annotated[float, typer.Option(help="Requests per second; with a trace, its mean rate.")] = 0,
    arrivals: Annotated[Shape, typer.Option(help="How requests are spaced.")] = Shape.POISSON,
    step: Annotated[list[str] | None, typer.Option(help="RATE:SECONDS, repeated; instead of a rate.")] = None,
    trace: Annotated[Path | None, typer.Option(help="A CSV file of request counts.")] = None,
    trace_time: Annotated[str | None, typer.Option(help="Its column of times [second or minute].")] = None,
    trace_count: Annotated[str, typer.Option(help="Its column of counts.")] = "requests",
    trace_unit: Annotated[str | None, typer.Option(help="second or minute.")] = None,
    trace_where: Annotated[str | None, typer.Option(help="COLUMN=VALUE: only these rows.")] = None,
    trace_start: Annotated[float, typer.Option(help="Begin at this second of the trace.")] = 0,
    trace_speed: Annotated[float, typer.Option(help="Seconds of the trace per second.")] = 1,
    duration: Annotated[float | None, typer.Option(help="Seconds [5; a trace or steps: their own].")] = None,
    warmup: Annotated[float, typer.Option(help="Seconds before, not recorded.")] = 1,
    connections: Annotated[int, typer.Option(help="The most that are open.")] = 32,
    new_connections: Annotated[bool, typer.Option(help="One for each request.")] = False,
    path: Annotated[str, typer.Option(help="Of the URL, or the gRPC method.")] = "/",
    method: Annotated[str, typer.Option(help="HTTP's.")] = "GET",
    header: Annotated[list[str] | None, typer.Option(help="NAME: VALUE, repeated.")] = None,
    body: Annotated[Path | None, typer.Option(help="A file with the body, or the gRPC message (unframed).")] = None,
    status: Annotated[int, typer.Option(help="The HTTP status that is right.")] = 200,
    answer_length: Annotated[int | None, typer.Option(help="Bytes that the answer must have.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds from the intended time.")] = 10,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 1,
    ca: Annotated[str | None, typer.Option(help="Trusted certificates (PEM).")] = None,
    insecure: Annotated[bool, typer.Option(help="Do not verify certificates.")] = False,
) -> None:
    """Send requests on a schedule and show their latencies."""
    shape: Arrivals
    if trace is not None:
        shape = Trace(
            str(trace),
            trace_time,
            trace_count,
            trace_unit,
            trace_where,
            start=trace_start,
            speed=trace_speed,
            mean_rate=rate or None,
        )
    elif step:
        shape = Steps(tuple(_step(text) for text in step), arrivals is Shape.POISSON)
    else:
        if rate <= 0:
            raise BenchError("say how much to send: --rate, --step or --trace")
        shape = Constant(rate) if arrivals is Shape.CONSTANT else Poisson(rate)
        duration = 5.0 if duration is None else duration
    content = _content(body)
    name = _SECURE.get(protocol, protocol.value)
    request = Request(
        path=path,
        method=method,
        headers=dict(_header(text) for text in header or ()),
        body=frame(content) if name == "grpc" else content,
        status=status,
        answer_length=answer_length,
    )
    spec = Spec(
        protocol=name,  # type: ignore[arg-type]
        address=address,
        requests=(request,),
        arrivals=shape,
        connections=connections,
        new_connections=new_connections,
        timeout_s=timeout,
        warmup_s=warmup,
        duration_s=duration,
        seed=seed,
        tls=Tls(ca, verify=not insecure) if protocol in _SECURE else None,
    )
    show(run_spec(spec), Console(width=None if sys.stdout.isatty() else 120))


def run_files(paths: list[Path]) -> None:
    """Runs files with a spec each, all at once; their merged report is the last line that is printed.

    Raises BenchError if it cannot.
    """
    if len(paths) == 1:
        run_file(paths[0])
    else:
        print(MARK + side_by_side(paths).to_json(), flush=True)


def run_file(path: Path) -> None:
    """Runs a file with a spec; the report is the last line that is printed. Raises BenchError if it cannot."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from error
    report = run_spec(Spec.from_json(text), lambda: print(MEASURING, flush=True))
    print(MARK + report.to_json(), flush=True)


def _step(text: str) -> tuple[float, float]:
    rate, _, seconds = text.partition(":")
    try:
        return float(rate), float(seconds)
    except ValueError:
        raise BenchError(f"a step is RATE:SECONDS: {text!r}") from None


def _header(text: str) -> tuple[str, str]:
    name, sign, value = text.partition(":")
    if not name or not sign:
        raise BenchError(f"a header is NAME: VALUE: {text!r}")
    return name.strip(), value.strip()


def _content(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from error


def main() -> int:
    """Returns the exit status; expected errors are one line each."""
    arguments = sys.argv[1:]
    try:
        if arguments and arguments[0] != "run" and not arguments[0].startswith("-"):
            run_files([Path(each) for each in arguments])
            return 0
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BenchError as error:
        print(f"bench.load: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1
