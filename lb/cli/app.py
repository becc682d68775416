"""Commands and options; what they do is in the modules beside this one, imported only when they are used."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sized
from pathlib import Path
from typing import Annotated

import typer

import lb
from lb.cli.commands import Commands
from lb.dataclass import dataclass
from lb.errors import ConfigError, TidegateError

DEFAULT_CONFIG = Path("/etc/tidegate/tidegate.yaml")

app = typer.Typer(
    cls=Commands,
    name="tidegate",
    help="A load balancer for AI inference: balances, checks, caches, supervises and scales model servers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", envvar="TIDEGATE_CONFIG", help="The configuration file.")
]
AdminOption = Annotated[
    str,
    typer.Option(
        "--admin",
        metavar="URL",
        envvar="TIDEGATE_ADMIN",
        help="The daemon's admin address (http://HOST:PORT or unix:/PATH) instead of the configuration's.",
    ),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        envvar="TIDEGATE_TOKEN_FILE",
        help="A file with the admin token, instead of the configuration's.",
    ),
]


@dataclass
class _Invocation:
    debug: bool = False
    config_status: int = 1  # the exit status of an error in the configuration


_invocation = _Invocation()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidegate {lb.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show Tidegate's version and exit."),
    ] = False,
) -> None:
    _invocation.debug = debug


@app.command()
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the daemon in the foreground.

    SIGHUP reloads the configuration, SIGUSR1 opens the logs anew, SIGTERM or Ctrl-C drains and stops; a second one
    stops at once. SIGUSR2 does nothing. Under systemd it reports its state, keeps the watchdog and takes over
    activated sockets.

    Exits with 78 when the configuration cannot be used, with 1 when it cannot start for another reason.
    """
    from lb.control.signals import hold

    hold()  # the imports take a second

    from lb.cli import libraries

    libraries.require()

    from lb.cli.early import fork_server

    _invocation.config_status = os.EX_CONFIG  # which a service manager does not try again
    with fork_server() as early:
        from lb.cli.run import run as run_daemon
        from lb.control.workers.fleet import FleetSettings

        raise typer.Exit(run_daemon(config, FleetSettings(early=early)))


@app.command()
def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check a configuration file; exit with 1 and every problem, one a line, if it has any.

    What a start would find out is looked at, too: models, packages, certificates, sockets and addresses. Warnings are
    about what may be right at another time or on another machine, and change nothing about the exit status.
    """
    from lb.cli import libraries

    libraries.require()

    from lb.cli.check import check as check_file

    loaded = check_file(config)
    typer.echo(f"{config}: valid: {_count(loaded.listeners, 'listener')}, {_count(loaded.pools, 'pool')}")


@app.command()
def reload(config: ConfigOption = DEFAULT_CONFIG, admin: AdminOption = "", token_file: TokenOption = None) -> None:
    """Have the running daemon load its configuration file again, and show what came of it.

    Exits with 1 if the daemon kept its old configuration.
    """
    from lb.cli.admin import client
    from lb.cli.reload import reload as reload_daemon

    raise typer.Exit(reload_daemon(client(config, admin, token_file)))


@app.command()
def reopen_logs(config: ConfigOption = DEFAULT_CONFIG, admin: AdminOption = "", token_file: TokenOption = None) -> None:
    """Have the running daemon open its access log anew, after the file was rotated. The same as SIGUSR1."""
    from lb.cli.admin import client

    client(config, admin, token_file).reopen_logs()
    typer.echo("the access log was opened anew")


@app.command()
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    admin: AdminOption = "",
    token_file: TokenOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document as JSON.")] = False,
) -> None:
    """Show the running daemon: workers, listeners, pools and their endpoints."""
    from lb.cli.admin import client
    from lb.cli.status import show

    show(client(config, admin, token_file).status(counters=as_json), as_json)


@app.command()
def transitions(
    pool: Annotated[str | None, typer.Argument(metavar="[POOL]", help="Only of this pool.")] = None,
    endpoint: Annotated[str | None, typer.Argument(metavar="[ENDPOINT]", help="Only of this endpoint.")] = None,
    last: Annotated[int, typer.Option(help="How many at most.", min=1)] = 20,
    config: ConfigOption = DEFAULT_CONFIG,
    admin: AdminOption = "",
    token_file: TokenOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """Show the last changes of endpoints, oldest first: when, which, from what to what, and why."""
    from lb.cli.admin import client
    from lb.cli.transitions import show

    show(client(config, admin, token_file).transitions(last, pool, endpoint), as_json)


PoolArgument = Annotated[str, typer.Argument(metavar="POOL", help="Name of the pool.")]
EndpointArgument = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="Its address, as `tidegate status` shows it.")
]


@app.command()
def drain(
    pool: PoolArgument,
    endpoint: EndpointArgument,
    wait: Annotated[
        float | None,
        typer.Option(help="Seconds to wait for what it has in flight; exit with 1 if some is left.", min=0),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    admin: AdminOption = "",
    token_file: TokenOption = None,
) -> None:
    """Give an endpoint no new requests; what it has it finishes. Holds until `enable`, over reloads."""
    from lb.cli.admin import client
    from lb.cli.endpoint import set_state

    raise typer.Exit(set_state(client(config, admin, token_file), pool, endpoint, "drain", wait))


@app.command()
def maintenance(
    pool: PoolArgument,
    endpoint: EndpointArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    admin: AdminOption = "",
    token_file: TokenOption = None,
) -> None:
    """As drain, and without health checks: the endpoint may be taken away. Holds until `enable`, over reloads."""
    from lb.cli.admin import client
    from lb.cli.endpoint import set_state

    raise typer.Exit(set_state(client(config, admin, token_file), pool, endpoint, "maintenance"))


@app.command()
def enable(
    pool: PoolArgument,
    endpoint: EndpointArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    admin: AdminOption = "",
    token_file: TokenOption = None,
) -> None:
    """Give an endpoint requests again, after drain or maintenance.

    What its agent wants stays: the operator and the agent both have to let it.
    """
    from lb.cli.admin import client
    from lb.cli.endpoint import set_state

    raise typer.Exit(set_state(client(config, admin, token_file), pool, endpoint, "enabled"))


@app.command(context_settings={"ignore_unknown_options": True})  # -1 is a weight, which the error is to speak of
def weight(
    pool: PoolArgument,
    endpoint: EndpointArgument,
    value: Annotated[str, typer.Argument(metavar="WEIGHT", help="0 to 1000, or `default`: the configuration's.")],
    config: ConfigOption = DEFAULT_CONFIG,
    admin: AdminOption = "",
    token_file: TokenOption = None,
) -> None:
    """Set the weight of an endpoint, until the configuration's own changes or the endpoint goes."""
    from lb.cli.admin import client
    from lb.cli.endpoint import set_weight

    for given in (pool, endpoint, value):
        if given.startswith("-") and not _is_number(given):
            raise typer.BadParameter(f"no such option: {given}")
    if value != "default" and not (value.isascii() and value.isdigit() and len(value) <= 4 and int(value) <= 1000):
        shown = value if len(value) <= 40 else f"{value[:40]}…"
        raise typer.BadParameter(
            f"{shown!r} is no weight; write a whole number from 0 to 1000, or `default`", param_hint="WEIGHT"
        )
    number: int | str = value if value == "default" else int(value)
    raise typer.Exit(set_weight(client(config, admin, token_file), pool, endpoint, number))


@app.command()
def explain(
    target: Annotated[
        str, typer.Argument(metavar="LISTENER|POOL", help="Name of a listener, or of a pool to leave out the routes.")
    ],
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Path with query.")] = "/",
    method: Annotated[str, typer.Option("--method", "-X", help="Method of the request.")] = "GET",
    host: Annotated[str, typer.Option(help="Host of the request.")] = "",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME: VALUE", help="A header; any number of them.")
    ] = None,
    source: Annotated[str, typer.Option(help="IP address of the client.")] = "127.0.0.1",
    model: Annotated[str, typer.Option(help="The model that a gRPC message names.")] = "",
    sequence: Annotated[str, typer.Option(help="The id of an open sequence that the request belongs to.")] = "",
    key: Annotated[str | None, typer.Option(help="What to choose by, instead of what the pool's `key` finds.")] = None,
    pool: Annotated[str, typer.Option(help="Which pool, where the route splits.")] = "",
    worker: Annotated[int | None, typer.Option(help="Number of the worker to ask. Default: the first.", min=0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document as JSON.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    admin: AdminOption = "",
    token_file: TokenOption = None,
) -> None:
    """Show what would become of a request: its route, the candidates of its pool, their scores, and the choice.

    Nothing is sent to any endpoint.
    """
    from lb.cli.admin import client
    from lb.cli.explain import explain as explain_request

    for text in header or []:
        if not text.partition(":")[1]:
            raise typer.BadParameter(f"{text!r} is no NAME: VALUE", param_hint="'--header'")
    headers = [tuple(part.strip() for part in text.partition(":")[::2]) for text in header or []]
    asked = {"method": method, "target": path, "host": host, "headers": headers, "source": source, "model": model}
    question = {**asked, "sequence": sequence, "key": key, "pool": pool, "worker": worker}
    explain_request(client(config, admin, token_file), target, question, as_json)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="",
)
def bench(context: typer.Context) -> None:
    """Measure Tidegate side by side with HAProxy, nginx, Envoy and Varnish (`tidegate bench --help`)."""
    from lb.cli.bench import bench as run_bench

    run_bench(context.args)


@app.command()
def version() -> None:
    """Show the versions of Tidegate and of what it runs on."""
    from lb.cli.version import versions

    for name, text in versions():
        typer.echo(f"{name:<10} {text}")


def main() -> int:
    """The console script; returns the exit status. Expected errors are one clear line each, never a traceback."""
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return _invocation.config_status
    except TidegateError as error:
        print(f"tidegate: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if _invocation.debug:
            traceback.print_exc()
        elif isinstance(error, ImportError) and (reason := _told(error)):
            print(f"tidegate: {reason}", file=sys.stderr)
        else:
            print(f"tidegate: internal error: {error!r} (--debug shows where)", file=sys.stderr)
    return 1


def _told(error: ImportError) -> str:
    from lb.cli.libraries import told

    return told(error)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _count(things: Sized, name: str) -> str:
    number = len(things)
    return f"{number} {name}{'' if number == 1 else 's'}"
