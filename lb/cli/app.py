"""Commands and options; what they do is in the modules beside this one, imported only when they are used.

The command line is read by argparse, since clients wait for a start: a richer library took a tenth of it.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import lb
from lb.errors import ConfigError, TidegateError

if TYPE_CHECKING:
    from lb.cli.admin import AdminClient

DEFAULT_CONFIG = "/etc/tidegate/tidegate.yaml"

Options = argparse.Namespace


def run(options: Options) -> int:
    """Run the daemon in the foreground.

    SIGHUP reloads the configuration, SIGUSR1 opens the logs anew, SIGTERM or Ctrl-C drains and stops; a second one
    stops at once. SIGUSR2 upgrades to the version that is installed now. Under systemd it reports its state, keeps
    the watchdog and takes over activated sockets.

    Exits with 78 when the configuration cannot be used, with 1 when it cannot start for another reason.
    """
    from lb.control.signals import hold

    hold()  # the imports take half a second
    gc.disable()  # the collector would take a seventh of that; the master switches it on once it serves

    from lb.cli.early import fork_server

    try:
        with fork_server() as early:
            from lb.cli import libraries

            libraries.require()  # before the fork server has come to a compiled module

            from lb.cli.run import run as run_daemon
            from lb.control.workers.fleet import FleetSettings

            return run_daemon(options.config, FleetSettings(early=early))
    except ConfigError as error:
        _show_problems(error)
        return os.EX_CONFIG  # which a service manager does not try again


def check(options: Options) -> int:
    """Check a configuration file; exit with 1 and every problem, one a line, if it has any.

    What a start would find out is looked at, too: models, packages, certificates, sockets and addresses. Warnings are
    about what may be right at another time or on another machine, and change nothing about the exit status.
    """
    from lb.cli import libraries

    libraries.require()

    from lb.cli.check import check as check_file

    loaded = check_file(options.config)
    print(f"{options.config}: valid: {_count(loaded.listeners, 'listener')}, {_count(loaded.pools, 'pool')}")
    if options.trial:
        from lb.cli.trial import start

        start()
        print(f"version {lb.__version__} starts")
    return 0


def reload(options: Options) -> int:
    """Have the running daemon load its configuration file again, and show what came of it.

    Exits with 1 if the daemon kept its old configuration.
    """
    from lb.cli.reload import reload as reload_daemon

    return reload_daemon(_client(options))


def upgrade(options: Options) -> int:
    """Have the running daemon become the version that is installed now, without a dropped connection.

    The installed version shows in a trial that it would start; then it takes over the listening sockets, the model
    servers and the result cache in the same process. Exits with 1 if the version before goes on. The same as SIGUSR2.
    """
    from lb.cli.upgrade import upgrade as upgrade_daemon

    return upgrade_daemon(_client(options))


def reopen_logs(options: Options) -> int:
    """Have the running daemon open its access log anew, after the file was rotated. The same as SIGUSR1."""
    _client(options).reopen_logs()
    print("the access log was opened anew")
    return 0


def status(options: Options) -> int:
    """Show the running daemon: workers, listeners, pools and their endpoints."""
    document = _viewer(options).status(counters=options.json)

    from lb.cli.status import show

    show(document, options.json)
    return 0


def top(options: Options) -> int:
    """Show what listeners, routes, pools, endpoints and models do now: rates, quantiles, errors by kind, queue, cache.

    On a terminal the tables are live: 0 to 5 or Tab choose a table, < and > the column to sort by, r reverses, /
    filters, space pauses, q quits. Into a pipe or file, each interval is printed below the other. Only the master is
    asked, with `--by model` also the model servers; the differences are taken here.
    """
    from lb.cli.top import terminal
    from lb.cli.top.columns import keys
    from lb.cli.top.screen import View

    if options.sort not in keys():
        raise TidegateError(f"--sort {options.sort}: there is no such column; there are {', '.join(keys())}")
    kind = "" if options.by == "all" else options.by
    view = View(kind, options.sort, options.reverse, options.filter, interval=options.interval)
    client = _viewer(options)
    if options.once:
        terminal.once(client, view, options.json)
    elif options.json or not sys.stdout.isatty():
        terminal.stream(client, view, options.json)
    else:
        gc.enable()
        terminal.watch(client, view)
    return 0


def transitions(options: Options) -> int:
    """Show the last changes of endpoints, oldest first: when, which, from what to what, and why."""
    changes = _viewer(options).transitions(options.last, options.pool, options.endpoint)

    from lb.cli.transitions import show

    show(changes, options.json)
    return 0


def drain(options: Options) -> int:
    """Give an endpoint no new requests; what it has it finishes. Holds until `enable`, over reloads."""
    return _set_state(options, "drain")


def maintenance(options: Options) -> int:
    """As drain, and without health checks: the endpoint may be taken away. Holds until `enable`, over reloads."""
    return _set_state(options, "maintenance")


def enable(options: Options) -> int:
    """Give an endpoint requests again, after drain or maintenance.

    What its agent wants stays: the operator and the agent both have to let it.
    """
    return _set_state(options, "enabled")


def weight(options: Options) -> int:
    """Set the weight of an endpoint, until the configuration's own changes or the endpoint goes."""
    from lb.cli.endpoint import set_weight

    return set_weight(_client(options), options.pool, options.endpoint, options.weight, options.dry_run)


def endpoint(options: Options) -> int:
    """Show endpoints, take them out and bring them back, weigh and limit them.

    What is set holds over reloads: a weight and a limit until the file says another one, the rest until `ready`; all of
    it until the endpoint goes or the daemon ends. `tidegate config changes` shows it.
    """
    from lb.cli import endpoint as commands

    client = _client(options, changes=options.action != "list")
    if options.action == "list":
        return commands.list_endpoints(client.status(), options.pool, options.json)
    if options.action == "weight":
        return commands.set_weight(client, options.pool, options.endpoint, options.weight, options.dry_run)
    if options.action == "limit":
        return commands.set_limit(client, options.pool, options.endpoint, options.limit, options.dry_run)
    state = "enabled" if options.action in ("ready", "enable") else options.action
    return commands.set_state(
        client, options.pool, options.endpoint, state, getattr(options, "wait", None), options.dry_run
    )


def scale(options: Options) -> int:
    """Hold a pool to a number of model servers or replicas; `automatic` lets the configuration decide again.

    Holds over reloads, until the file says other numbers.
    """
    from lb.cli.runtime import scale as scale_pool

    return scale_pool(_client(options), options.pool, options.replicas, options.dry_run)


def config(options: Options) -> int:
    """Show the running configuration and what differs from the file, and change settings without it.

    `set` changes settings until `unset`, until the file says another value than it did, or until the daemon ends.
    Nothing of it reads more of the file than the section `admin` but `diff`: all of it works while a value on disk is
    wrong. Of a file that is no YAML, `set` and `unset` need --admin.
    """
    from lb.cli import runtime as commands

    client = _client(options, changes=options.action in ("set", "unset"))
    if options.action == "show":
        return commands.show(client, options.json)
    if options.action == "diff":
        return commands.diff(client, options.json)
    if options.action == "changes":
        return commands.changes(client, options.json)
    if options.action == "settings":
        return commands.settings(client)
    if options.action == "set":
        return commands.set_values(client, [(options.setting, _value(options.value))], options.dry_run)
    return commands.unset(client, options.setting, options.dry_run)


def certificates(options: Options) -> int:
    """Show the certificates in use and when they end, or take those into use that have changed on disk.

    Changed certificates are noticed without a command, within two seconds; `reload` does not wait, and says what came
    of it. `list` exits with 1 where one is not valid.
    """
    from lb.cli import runtime as commands

    if options.action == "list":
        return commands.certificates(_viewer(options).status(), options.json)
    return commands.reload_certificates(_client(options), options.dry_run)


def explain(options: Options) -> int:
    """Show what would become of a request: its route, the candidates of its pool, their scores, and the choice.

    Nothing is sent to any endpoint.
    """
    from lb.cli.explain import explain as explain_request

    asked = {
        "method": options.method, "target": options.path, "host": options.host, "headers": options.header,
        "source": options.source, "model": options.model, "sequence": options.sequence, "key": options.key,
        "pool": options.pool, "worker": options.worker, "values": options.value,
    }  # fmt: skip
    explain_request(_viewer(options), options.target, asked, options.json)
    return 0


def models(options: Options) -> int:
    """Show the models of the model servers, or look after their cache.

    `list` asks each server of the daemon's pools, or those that --server names. `cache` is about what model servers
    keep of models that take long to load: it lists, inspects, verifies and purges.
    """
    from lb.cli import models as commands

    if options.action == "cache":
        commands.cache(options.arguments)
    return commands.list_models(options.server or commands.servers_of(_viewer(options)), options.json)


def scaling(options: Options) -> int:
    """Show why a pool has as many model servers as it has, record its load, and compare rules on a trace.

    `explain` shows what the last decision was made of. `record` writes the requests that arrive, second by second, as a
    trace. `simulate` replays a trace against rules in simulated time.
    """
    if options.action == "simulate":
        from lb.scaling.simulate.cli import main as simulate

        return simulate(options.arguments)

    from lb.cli import scaling as commands

    if options.action == "explain":
        commands.explain(_viewer(options), options.pool, options.json)
    else:
        commands.record(_viewer(options), options.pool, options.seconds, options.output)
    return 0


def jobs(options: Options) -> int:
    """Show jobs, queue dead letters anew, or cancel jobs.

    `list` shows the last ones, newest first. `retry` gives a dead letter all of its attempts again. `cancel` ends a job
    that waits or runs. The last two exit with 1 if one of the jobs could not be changed.
    """
    from lb.cli import jobs as commands

    client = _client(options, changes=options.action != "list")
    if options.action == "list":
        commands.show(client, options.state, options.last, options.json)
        return 0
    return commands.change(client, options.action, options.job, getattr(options, "all", False))


def quota(options: Options) -> int:
    """Show what clients have used of quotas, or give a client all of its quota again.

    `show` names those first that have used the largest part. `reset` sets what a client has used to 0.
    """
    from lb.cli import quotas as commands

    client = _client(options, changes=options.action != "show")
    if options.action == "show":
        commands.show(client, options.key, options.quota, options.last, options.json)
    else:
        commands.reset(client, options.key, options.quota, options.dry_run)
    return 0


def canary(options: Options) -> int:
    """Show canaries, promote one, take it back, or have it begin anew.

    `show` names the phase of each, its share of the requests and why; of one route also the history. `promote` gives
    it all requests, `abort` none, `retry` begins with its first step.
    """
    from lb.cli import canary as commands

    client = _client(options, changes=options.action != "show")
    if options.action == "show":
        return commands.show(client, options.route, options.json)
    return commands.change(client, options.route, options.action, options.dry_run)


def table(options: Options) -> int:
    """Show what stick tables have counted, clear entries, or set one.

    `show` names the entries first that were used last. `clear` forgets entries by key, by a comparison, or all.
    """
    from lb.cli import tables as commands

    client = _client(options, changes=options.action != "show")
    if options.action == "show":
        commands.show(client, options.table, options.key, options.filter, options.last, options.json)
    elif options.action == "clear":
        commands.clear(client, options.table, options.key, options.filter, options.all, options.dry_run)
    else:
        commands.put(client, options.table, options.key, options.values, options.dry_run)
    return 0


def mirror(options: Options) -> int:
    """Show what comparing the answers of mirrors with the originals has found.

    `report` counts equal and different answers by route, names the largest differences by model and output, and the
    last answers that differ.
    """
    from lb.cli import mirror as commands

    commands.report(_viewer(options), options.route, options.last, options.json)
    return 0


def cache(options: Options) -> int:
    """Show the result cache, purge it, fill it, and find out what it may do.

    `stats` shows its counters, `top` its most requested entries. `purge` has the daemon answer no more with what it has
    kept of a model, pool, tenant, tag or URL. `warm` sends recorded requests, so that their answers are kept.

    `verify-rows` tries whether a model treats each row of a batch apart, so that its batches may be cached row by row.
    It asks a model server past the cache. Exits with 1 if the model does not.
    """
    from lb.cli import cache as commands

    if options.action == "verify-rows":
        return _verify_rows(options)
    client = _client(options, changes=options.action not in ("stats", "top"))
    if options.action == "stats":
        commands.stats(client, options.json)
    elif options.action == "top":
        commands.top(client, options.last, options.json)
    elif options.action == "purge":
        named = {name: getattr(options, name) for name in ("tag", "pool", "model", "version", "tenant", "url")}
        commands.purge(client, named, options.all)
    else:
        return commands.warm(client, options.file, options.listener, options.concurrency)
    return 0


def _verify_rows(options: Options) -> int:
    from lb.cli.verify_rows import Place, places_of, verify_rows

    places = [Place(options.pool, options.server)] if options.server else places_of(_viewer(options), options.pool)
    return verify_rows(
        places, options.model, options.version, options.requests, options.seed, dict(options.shape), options.json
    )


def init(options: Options) -> int:
    """Write a commented configuration file from a few questions.

    Each option answers a question. What is left is asked for at a terminal; elsewhere, and with --yes, the defaults
    hold. Nothing is written that `tidegate check` would refuse.
    """
    from lb.cli.init import QUESTIONS
    from lb.cli.init import init as write

    given = {name: getattr(options, name) for name in ("kind", *(question.name for question in QUESTIONS))}
    return write(options.file, given, options.yes, options.force)


def doctor(options: Options) -> int:
    """Look at this machine as a place to run Tidegate, and at a configuration on it if there is one.

    Limits, kernel, memory, CPUs, GPUs, ports, permissions, clock, names, certificates and the service: each line says
    ok, warn or fail, and what to do. Exits with 1 if a line says fail.
    """
    from lb.cli.doctor import doctor as examine

    return examine(Path(options.config), options.json, required=str(options.config) != DEFAULT_CONFIG)


def schema(options: Options) -> int:
    """Print the JSON Schema of the configuration file, by which editors complete and check it.

    The first line `# yaml-language-server: $schema=FILE` of a configuration names it to most editors.
    """
    from importlib import resources

    print((resources.files("lb.config.reference") / "schema.json").read_text(encoding="utf-8"), end="")
    return 0


def completion(options: Options) -> int:
    """Print the script by which bash, zsh or fish completes commands, options and names of files.

    bash: `eval "$(tidegate completion bash)"` in ~/.bashrc. zsh: write it to a file `_tidegate` in a folder of $fpath.
    fish: write it to ~/.config/fish/completions/tidegate.fish.
    """
    from lb.cli.completion import script

    print(script(command_parser(), options.shell), end="")
    return 0


def bench(options: Options) -> int:
    """Measure Tidegate side by side with HAProxy, nginx, Envoy and Varnish (`tidegate bench --help`)."""
    from lb.cli.bench import bench as run_bench

    run_bench(options.arguments)
    return 0


def key(options: Options) -> int:
    """Make an API key, and the line by which a file of keys knows it. The key itself is stored nowhere."""
    from lb.cli.key import new_key

    made, line = new_key(options.name)
    print(f"key   {made}\nline  {line}")
    return 0


def version(options: Options) -> int:
    """Show the versions of Tidegate and of what it runs on."""
    from lb.cli.version import versions

    for name, text in versions():
        print(f"{name:<10} {text}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; returns the exit status. Expected errors are one clear line each, never a traceback."""
    parser = command_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help()
        return 2
    try:
        options = parser.parse_args(arguments)
    except SystemExit as ended:  # after --help, --version, or what is wrong with the command line
        return int(ended.code or 0)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except ConfigError as error:
        _show_problems(error)
    except TidegateError as error:
        print(f"tidegate: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in `tidegate status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if options.debug:
            import traceback

            traceback.print_exc()
        elif isinstance(error, ImportError) and (reason := _told(error)):
            print(f"tidegate: {reason}", file=sys.stderr)
        else:
            print(f"tidegate: internal error: {error!r} (--debug shows where)", file=sys.stderr)
    return 1


class _Parser(argparse.ArgumentParser):
    """Says which command or choice a mistyped one may have been."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong is not None:
            from lb.config.schema.base import did_you_mean

            message += did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        super().error(message)


class _Help(argparse.HelpFormatter):
    """Paragraphs stay paragraphs."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Help, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def command_parser() -> argparse.ArgumentParser:
    """The command line: commands and their options, from which completion and the manual page are made, too."""
    parser = _Parser(
        prog="tidegate",
        description="A load balancer for AI inference: balances, checks, caches, supervises and scales model servers.",
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an unexpected error.")
    parser.add_argument(
        "--version", action="version", version=f"tidegate {lb.__version__}", help="Show Tidegate's version and exit."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(function: Callable[[Options], int], **options: Any) -> argparse.ArgumentParser:
        name, text = function.__name__.replace("_", "-"), function.__doc__ or ""
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        made = commands.add_parser(
            name, help=paragraphs[0], description="\n\n".join(paragraphs), formatter_class=_Help, allow_abbrev=False,
            **options,
        )  # fmt: skip
        made.set_defaults(command=function)
        return made

    def asking(function: Callable[[Options], int]) -> argparse.ArgumentParser:
        """A command that asks the daemon."""
        made = command(function)
        _daemon_options(made)
        return made

    _config_option(command(run))
    made = command(check)
    _config_option(made)
    made.add_argument(
        "--trial", action="store_true", help="Also start what a daemon starts, without its sockets, and end it again."
    )
    made = command(init)
    made.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, default=Path("tidegate.yaml"),
        help="The file to write. Default: tidegate.yaml.",
    )  # fmt: skip
    made.add_argument(
        "--kind", choices=("models", "inference", "http", "grpc", "tcp"),
        help="What is behind: ONNX models that Tidegate is to serve, model servers, or servers of HTTP, gRPC or TCP.",
    )  # fmt: skip
    made.add_argument("--models", metavar="FOLDER", help="Folder of the models, for --kind models.")
    made.add_argument(
        "--endpoints",
        metavar="ADDRESSES",
        help="Addresses (HOST:PORT) of the servers with commas between, for the other kinds.",
    )
    made.add_argument("--listen", metavar="IP:PORT", help="Address for clients. Default: 0.0.0.0:8080.")
    made.add_argument("--health", metavar="PATH", help="Path of the health check, for --kind http.")
    made.add_argument("--cache", metavar="SIZE", help="Memory for answers, or `none`. Default: 256MiB.")
    made.add_argument("--admin", metavar="IP:PORT", help="Address for metrics and commands. Default: 127.0.0.1:9900.")
    made.add_argument("--yes", "-y", action="store_true", help="Ask nothing.")
    made.add_argument("--force", action="store_true", help="Write over a file that exists.")
    made = command(doctor)
    _config_option(made)
    _json_option(made, "what was found")
    asking(reload)
    asking(upgrade)
    asking(reopen_logs)
    _json_option(asking(status), "the document")

    made = asking(top)
    made.add_argument(
        "--by", choices=("all", "listener", "route", "pool", "endpoint", "model"), default="all",
        help="The table to show; for that of models the model servers are asked as well. Default: all.",
    )  # fmt: skip
    made.add_argument(
        "--sort", metavar="COLUMN", default="req/s", help="The column to sort by, by its title. Default: req/s."
    )
    made.add_argument("--reverse", action="store_true", help="Sort the other way round: the smallest number first.")
    made.add_argument(
        "--filter", metavar="TEXT", default="", help="Only rows whose name, state or policy has the text."
    )
    made.add_argument(
        "--interval", type=_interval, default=1.0, metavar="SECONDS", help="Seconds between two readings. Default: 1."
    )
    made.add_argument("--once", action="store_true", help="Print one interval, and end.")
    _json_option(made, "each interval on a line")

    made = asking(transitions)
    made.add_argument("pool", metavar="POOL", nargs="?", help="Only of this pool.")
    made.add_argument("endpoint", metavar="ENDPOINT", nargs="?", help="Only of this endpoint.")
    made.add_argument("--last", type=_at_least(1), default=20, metavar="N", help="How many at most. Default: 20.")
    _json_option(made, "them")

    for function in (drain, maintenance, enable, weight):
        _endpoint_options(asking(function), function.__name__)

    of_endpoint = command(endpoint).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    text = "Show the endpoints of a pool, or of all: health, state, weight, requests in flight, errors."
    made = of_endpoint.add_parser("list", help=text, description=text, allow_abbrev=False)
    made.add_argument("pool", metavar="POOL", nargs="?", help="Only of this pool.")
    _daemon_options(made)
    _json_option(made, "them")
    for name, text in (
        ("drain", "Give it no new requests; what it has it finishes."),
        ("maintenance", "As drain, and without health checks: it may be taken away."),
        ("ready", "Give it requests again, after drain or maintenance."),
        ("weight", "Set its weight, until the configuration's own changes."),
        ("limit", "Set the most requests that it has at once, until the configuration's own changes."),
    ):
        made = of_endpoint.add_parser(name, help=text, description=text, allow_abbrev=False)
        _endpoint_options(made, name)
        _daemon_options(made)

    made = asking(scale)
    made.add_argument("pool", metavar="POOL", help="Name of the pool.")
    made.add_argument(
        "replicas", metavar="N", type=_replicas, help="A number from 1 to 1000, or `automatic`: the configuration's."
    )
    _dry_run_option(made)

    of_config = command(config).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    for name, text in (
        ("show", "Show the running configuration, with what was changed at run time."),
        ("diff", "Show what differs between the running configuration and the file; exit with 1 if anything does."),
        ("changes", "Show what was changed at run time and is in force: since when, and by whom."),
        ("settings", "Show the settings that can be changed at run time."),
    ):
        made = of_config.add_parser(name, help=text, description=text, allow_abbrev=False)
        _daemon_options(made)
        if name != "settings":
            _json_option(made, "it")
    text = "Change a setting, without the file."
    made = of_config.add_parser("set", help=text, description=text, allow_abbrev=False)
    made.add_argument("setting", metavar="SETTING", help="Its name: log.level, pools.chat.queue.max.")
    made.add_argument("value", metavar="VALUE", help="As in the file; `none` for a limit that is not there.")
    _dry_run_option(made)
    _daemon_options(made)
    text = "Give settings the file's values again."
    made = of_config.add_parser("unset", help=text, description=text, allow_abbrev=False)
    made.add_argument("setting", metavar="SETTING", nargs="+", help="Name of a setting; any number of them.")
    _dry_run_option(made)
    _daemon_options(made)

    of_certificates = command(certificates).add_subparsers(
        title="commands", metavar="COMMAND", required=True, dest="action"
    )
    text = "Show the certificates in use: whose, names, state, when they end. Exits with 1 where one is not valid."
    made = of_certificates.add_parser("list", help=text, description=text, allow_abbrev=False)
    _daemon_options(made)
    _json_option(made, "them")
    text = "Take certificates and keys into use that have changed on disk; exit with 1 if they cannot be used."
    made = of_certificates.add_parser("reload", help=text, description=text, allow_abbrev=False)
    _dry_run_option(made)
    _daemon_options(made)

    made = asking(explain)
    made.add_argument(
        "target", metavar="LISTENER|POOL", help="Name of a listener, or of a pool to leave out the routes."
    )
    made.add_argument("path", metavar="PATH", nargs="?", default="/", help="Path with query. Default: /.")
    made.add_argument("--method", "-X", default="GET", help="Method of the request. Default: GET.")
    made.add_argument("--host", default="", help="Host of the request.")
    made.add_argument(
        "--header", "-H", metavar="NAME: VALUE", type=_header, action="append", default=[],
        help="A header; any number of them.",
    )  # fmt: skip
    made.add_argument("--source", default="127.0.0.1", help="IP address of the client. Default: 127.0.0.1.")
    made.add_argument("--model", default="", help="The model that a gRPC message names.")
    made.add_argument("--sequence", default="", help="The id of an open sequence that the request belongs to.")
    made.add_argument("--key", help="What to choose by, instead of what the pool's `key` finds.")
    made.add_argument(
        "--value", metavar="NAME=TEXT", type=_given, action="append", default=[],
        help="A value that the request does not show, such as tls.sni or auth.identity; any number of them.",
    )  # fmt: skip
    made.add_argument("--pool", default="", help="Which pool, where the route splits.")
    made.add_argument(
        "--worker", type=_at_least(0), metavar="N", help="Number of the worker to ask. Default: the first."
    )
    _json_option(made, "the document")

    actions = command(models).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    text = "Show the models of each server: state, provider, size."
    made = actions.add_parser("list", help=text, description=text, allow_abbrev=False)
    _daemon_options(made)
    made.add_argument(
        "--server", metavar="ADDRESS", action="append",
        help="A model server (HOST:PORT or unix:/PATH) instead of the daemon's; may be given more than once.",
    )  # fmt: skip
    _json_option(made, "them")

    of_scaling = command(scaling).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    text = "Show why a pool has as many model servers as it has: signals, wishes, what held them, the last changes."
    made = of_scaling.add_parser("explain", help=text, description=text, allow_abbrev=False)
    made.add_argument("pool", metavar="POOL", help="Name of the pool.")
    _daemon_options(made)
    _json_option(made, "the document")
    text = "Write the requests that arrive for a pool, second by second (CSV: second,requests)."
    made = of_scaling.add_parser("record", help=text, description=text, allow_abbrev=False)
    made.add_argument("pool", metavar="POOL", help="Name of the pool.")
    made.add_argument("--seconds", type=_at_least(1), required=True, metavar="N", help="How long.")
    made.add_argument("--output", "-o", type=Path, metavar="FILE", help="Where to. Default: standard output.")
    _daemon_options(made)

    of_cache = command(cache).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    text = "Show hits, misses, bytes, saved compute time, and by route what became of its requests."
    made = of_cache.add_parser("stats", help=text, description=text, allow_abbrev=False)
    _daemon_options(made)
    _json_option(made, "the document")
    text = "Show the most requested entries: requests of late (15: or more), bytes, age, cost."
    made = of_cache.add_parser("top", help=text, description=text, allow_abbrev=False)
    made.add_argument("--last", type=_at_least(1), default=20, metavar="N", help="How many at most. Default: 20.")
    _daemon_options(made)
    _json_option(made, "them")
    text = "Have the daemon answer no more with what it has kept; what is being made for it is not kept either."
    made = of_cache.add_parser("purge", help=text, description=text, allow_abbrev=False)
    made.add_argument("--model", metavar="MODEL", help="Answers of the model, in the pool or in all.")
    made.add_argument("--version", metavar="VERSION", help="Only of this version of the model.")
    made.add_argument("--pool", metavar="POOL", help="Answers of the pool; with --model, whose model.")
    made.add_argument("--tenant", metavar="TENANT", help="Answers for the tenant.")
    made.add_argument("--tag", metavar="TAG", help="Answers that carry the tag, as clients and endpoints name it.")
    made.add_argument("--url", metavar="URL", help="What a route with http_cache has kept of the URL, all variants.")
    made.add_argument("--all", action="store_true", help="All of the cache.")
    _daemon_options(made)
    text = "Send recorded requests (JSON lines: method, path, headers, body), and say what became of them."
    made = of_cache.add_parser("warm", help=text, description=text, allow_abbrev=False)
    made.add_argument("file", metavar="FILE", type=Path, help="File with the requests, `-` for standard input.")
    made.add_argument(
        "--listener", metavar="LISTENER|URL", help="Name of the listener, or a URL. Default: the only http listener."
    )
    made.add_argument(
        "--concurrency", type=_at_least(1), default=8, metavar="N", help="Requests at once, at most. Default: 8."
    )
    _daemon_options(made)
    text = "Try whether a model treats each row of a batch apart: batches of random rows against the rows alone."
    made = of_cache.add_parser("verify-rows", help=text, description=text, allow_abbrev=False)
    made.add_argument("model", metavar="MODEL", help="Name of the model.")
    made.add_argument("--version", metavar="VERSION", default="", help="Version of the model. Default: the server's.")
    made.add_argument("--pool", metavar="POOL", default="", help="Pool of the model, where several have one so named.")
    made.add_argument(
        "--server", metavar="ADDRESS", help="A model server (HOST:PORT or unix:/PATH) instead of an endpoint's."
    )
    made.add_argument("--requests", type=_at_least(1), default=200, metavar="N", help="Batches. Default: 200.")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="Of the random values. Default: 0.")
    made.add_argument(
        "--shape", type=_shape, action="append", default=[], metavar="INPUT:N,N",
        help="Dimensions of an input behind the batch, where the model leaves some open; any number of them.",
    )  # fmt: skip
    _daemon_options(made)
    _json_option(made, "what was found")

    of_jobs = command(jobs).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    text = "Show the last jobs, newest first: state, route, attempts, and why there is no answer."
    made = of_jobs.add_parser("list", help=text, description=text, allow_abbrev=False)
    made.add_argument(
        "--state",
        choices=("queued", "running", "done", "failed", "dead", "cancelled"),
        help="Only those in this state.",
    )
    made.add_argument("--last", type=_at_least(1), default=20, metavar="N", help="How many at most. Default: 20.")
    _daemon_options(made)
    _json_option(made, "them")
    text = "Queue dead letters anew, with all of their attempts."
    made = of_jobs.add_parser("retry", help=text, description=text, allow_abbrev=False)
    made.add_argument("job", metavar="ID", nargs="*", help="Id of a job; any number of them.")
    made.add_argument("--all", action="store_true", help="All dead letters.")
    _daemon_options(made)
    text = "Cancel jobs that wait or run."
    made = of_jobs.add_parser("cancel", help=text, description=text, allow_abbrev=False)
    made.add_argument("job", metavar="ID", nargs="+", help="Id of a job; any number of them.")
    _daemon_options(made)

    of_quotas = command(quota).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    named = "Only this quota, by its name in the configuration."
    text = "Show the quotas, and what clients have used of the windows that run."
    made = of_quotas.add_parser("show", help=text, description=text, allow_abbrev=False)
    made.add_argument("key", metavar="KEY", nargs="?", help="Only this client, as it is named there.")
    made.add_argument("--quota", metavar="NAME", help=named)
    made.add_argument("--last", type=_at_least(1), default=20, metavar="N", help="How many clients. Default: 20.")
    _daemon_options(made)
    _json_option(made, "them")
    text = "Give a client all of its quotas again."
    made = of_quotas.add_parser("reset", help=text, description=text, allow_abbrev=False)
    made.add_argument("key", metavar="KEY", help="The client, as `show` names it.")
    made.add_argument("--quota", metavar="NAME", help=named)
    made.add_argument("--dry-run", action="store_true", help="Say what it has used, and change nothing.")
    _daemon_options(made)

    of_canaries = command(canary).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    text = "Show each canary: phase, share of the requests, and why; of one route also the history."
    made = of_canaries.add_parser("show", help=text, description=text, allow_abbrev=False)
    made.add_argument("route", metavar="ROUTE", nargs="?", help="Only the canary of this route.")
    _daemon_options(made)
    _json_option(made, "them")
    for action, text in (
        ("promote", "Give the canary of a route all of its requests."),
        ("abort", "Take the canary of a route back: it gets no requests."),
        ("retry", "Have the canary of a route begin anew, with its first step."),
    ):
        made = of_canaries.add_parser(action, help=text, description=text, allow_abbrev=False)
        made.add_argument("route", metavar="ROUTE", help="Name of the route, as `show` has it.")
        _dry_run_option(made)
        _daemon_options(made)

    of_tables = command(table).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    text = "Show the stick tables, or the entries of one."
    made = of_tables.add_parser("show", help=text, description=text, allow_abbrev=False)
    made.add_argument("table", metavar="NAME", nargs="?", help="Name of the table. Default: the only one, else all.")
    made.add_argument("--key", metavar="KEY", help="Only the entry of this key.")
    comparison = "Only entries for which a comparison holds, such as 'request_rate>100'."
    made.add_argument("--filter", metavar="FIELD>NUMBER", help=comparison)
    made.add_argument("--last", type=_at_least(1), default=20, metavar="N", help="How many entries. Default: 20.")
    _daemon_options(made)
    _json_option(made, "them")
    text = "Forget entries of a table; of one with requests under way, what it has counted."
    made = of_tables.add_parser("clear", help=text, description=text, allow_abbrev=False)
    made.add_argument("table", metavar="NAME", help="Name of the table.")
    made.add_argument("key", metavar="KEY", nargs="?", help="The entry, as `show` names it.")
    made.add_argument("--filter", metavar="FIELD>NUMBER", help=comparison)
    made.add_argument("--all", action="store_true", help="All of the table.")
    made.add_argument("--dry-run", action="store_true", help="Say how many there are, and change nothing.")
    _daemon_options(made)
    text = "Set counters of a key, or its number gpt0."
    made = of_tables.add_parser("set", help=text, description=text, allow_abbrev=False)
    made.add_argument("table", metavar="NAME", help="Name of the table.")
    made.add_argument("key", metavar="KEY", help="The entry; it is made where there is none.")
    made.add_argument("values", metavar="FIELD=NUMBER", nargs="+", help="What it gets, such as gpt0=1.")
    made.add_argument("--dry-run", action="store_true", help="Change nothing.")
    _daemon_options(made)

    of_mirrors = command(mirror).add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    text = "Show equal and different answers by route, the largest differences, and the last answers that differ."
    made = of_mirrors.add_parser("report", help=text, description=text, allow_abbrev=False)
    made.add_argument("route", metavar="ROUTE", nargs="?", help="Only this route.")
    made.add_argument(
        "--last", type=_at_least(1), default=20, metavar="N", help="How many rows of a table at most. Default: 20."
    )
    _daemon_options(made)
    _json_option(made, "them")

    # Nothing that follows is an option of ours.
    text = "List, inspect, verify or purge the model cache (`tidegate models cache --help`)."
    made = actions.add_parser("cache", help=text, add_help=False, prefix_chars="\0")
    made.add_argument("arguments", nargs="*")
    text = "Replay a trace against scaling rules, in simulated time (`tidegate scaling simulate --help`)."
    made = of_scaling.add_parser("simulate", help=text, add_help=False, prefix_chars="\0")
    made.add_argument("arguments", nargs="*")
    made = command(bench, add_help=False, prefix_chars="\0")
    made.add_argument("arguments", nargs="*")
    command(schema)
    command(completion).add_argument("shell", choices=("bash", "zsh", "fish"), help="The shell to complete in.")
    made = command(key)
    made.add_argument("name", metavar="NAME", help="Whose key it is.")
    command(version)
    return parser


def _daemon_options(parser: argparse.ArgumentParser) -> None:
    _config_option(parser)
    parser.add_argument(
        "--admin", metavar="URL",
        help="The daemon's admin address (http://HOST:PORT or unix:/PATH) instead of the configuration's. Also by "
        "the variable TIDEGATE_ADMIN, where no --config is given.",
    )  # fmt: skip
    parser.add_argument(
        "--token-file", metavar="FILE", type=Path, default=os.environ.get("TIDEGATE_TOKEN_FILE") or None,
        help="A file with the admin token, instead of the configuration's. Also by the variable "
        "TIDEGATE_TOKEN_FILE.",
    )  # fmt: skip


def _config_option(parser: argparse.ArgumentParser) -> None:
    default = Path(os.environ.get("TIDEGATE_CONFIG") or DEFAULT_CONFIG)
    parser.set_defaults(default_config=default)
    parser.add_argument(
        "--config", "-c", metavar="FILE", type=Path, default=default,
        help=f"The configuration file. Also by the variable TIDEGATE_CONFIG. Default: {DEFAULT_CONFIG}.",
    )  # fmt: skip


def _endpoint_options(parser: argparse.ArgumentParser, action: str) -> None:
    parser.add_argument("pool", metavar="POOL", help="Name of the pool.")
    parser.add_argument("endpoint", metavar="ENDPOINT", help="Its address, as `tidegate status` shows it.")
    if action == "drain":
        parser.add_argument(
            "--wait", type=_seconds, metavar="SECONDS",
            help="Seconds to wait for what it has in flight; exit with 1 if some is left.",
        )  # fmt: skip
    elif action == "weight":
        parser.add_argument(
            "weight", metavar="WEIGHT", type=_weight, help="0 to 1000, or `default`: the configuration's."
        )
    elif action == "limit":
        parser.add_argument("limit", metavar="N", type=_limit, help="1 to 1000000, or `default`: the configuration's.")
    _dry_run_option(parser)


def _dry_run_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="Only say what would change.")


def _json_option(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", action="store_true", help=f"Print {what} as JSON.")


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    return _between(text, 0, float("inf"), f"{text!r} is no time; write a number of seconds")


def _interval(text: str) -> float:
    return _between(text, 0.1, 3600, f"{text!r} is no interval; write seconds from 0.1 to 3600")


def _between(text: str, least: float, most: float, otherwise: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(otherwise) from None
    if not least <= seconds <= most:  # NaN neither
        raise argparse.ArgumentTypeError(otherwise)
    return seconds


def _weight(text: str) -> int | str:
    if text != "default" and not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= 1000):
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise argparse.ArgumentTypeError(f"{shown!r} is no weight; write a whole number from 0 to 1000, or `default`")
    return text if text == "default" else int(text)


def _number(text: str, most: int, instead: str) -> int | str:
    if text != instead and not (text.isascii() and text.isdigit() and len(text) <= 7 and 1 <= int(text) <= most):
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise argparse.ArgumentTypeError(f"{shown!r}: write a whole number from 1 to {most}, or `{instead}`")
    return text if text == instead else int(text)


def _limit(text: str) -> int | str:
    return _number(text, 1_000_000, "default")


def _replicas(text: str) -> int | str:
    return _number(text, 1000, "automatic")


def _value(text: str) -> int | str | None:
    """A value of a setting, as a file has it."""
    if text in ("none", "null", "~"):
        return None
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 18 else text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME: VALUE")
    return name.strip(), value.strip()


def _given(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=TEXT")
    return name, value


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, colon, sizes = text.rpartition(":")
    numbers = sizes.split(",") if sizes else []
    if not colon or not name or not all(size.isascii() and size.isdigit() and len(size) < 10 for size in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no INPUT:N,N; write image:3,224,224")
    return name, tuple(map(int, numbers))


def _client(options: Options, changes: bool = True) -> AdminClient:
    """For the daemon that the command line names, else the environment. `changes`: the command may change something,
    so that which daemon that is has to be certain."""
    gc.disable()  # for a command that has ended before there is garbage worth collecting
    from lb.cli.admin import client

    admin = options.admin
    if admin is None:  # a file that is named on the command line counts more than the environment
        is_named = options.config is not options.default_config
        admin = "" if is_named else os.environ.get("TIDEGATE_ADMIN", "")
    return client(options.config, admin, options.token_file, changes)


def _viewer(options: Options) -> AdminClient:
    """As `_client`, for commands that only show something."""
    return _client(options, changes=False)


def _set_state(options: Options, state: str) -> int:
    from lb.cli.endpoint import set_state

    wait = getattr(options, "wait", None)
    return set_state(_client(options), options.pool, options.endpoint, state, wait, options.dry_run)


def _show_problems(error: ConfigError) -> None:
    print("\n".join(error.problems), file=sys.stderr)


def _told(error: ImportError) -> str:
    from lb.cli.libraries import told

    return told(error)


def _count(things: Sized, name: str) -> str:
    number = len(things)
    return f"{number} {name}{'' if number == 1 else 's'}"
