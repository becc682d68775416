"""`tidegate init`: a commented configuration from a few questions.

An option answers its question. The rest is asked for at a terminal; elsewhere, and with --yes, the defaults hold. What
is written has passed `tidegate check`: a file with an error is not left behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lb.cli.doctor.service import UNIT, unit
from lb.cli.own_daemon import OwnDaemon
from lb.config.schema.file import Config
from lb.errors import ConfigError, TidegateError

_ARGUMENTS = re.compile(r"argv\[\]=(.*?) ; ")
_CONFIG = re.compile(r" (?:--config|-c)[ =](\S+)")

KINDS = {
    "models": "ONNX models in a folder; Tidegate starts and scales their servers",
    "inference": "model servers of the Open Inference Protocol (Triton, KServe, MLServer), over gRPC",
    "http": "HTTP/1.1 servers",
    "grpc": "gRPC servers of any kind",
    "tcp": "anything else over TCP",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One answer that a file is made from: its option, what is asked, and the default ("" where there is none)."""

    name: str
    text: str
    default: str
    kinds: tuple[str, ...]


_ALL = tuple(KINDS)
QUESTIONS = (
    Question("models", "Folder of the models, laid out as NAME/VERSION/model.onnx", "", ("models",)),
    Question("endpoints", "Addresses of the servers (HOST:PORT), with commas between", "", _ALL[1:]),
    Question("listen", "Address for clients", "0.0.0.0:8080", _ALL),
    Question("health", "Path of the servers' health check; `none` tries the connection only", "none", ("http",)),
    Question("cache", "Memory for answers to repeated requests, such as 256MiB; `none` for no cache", "256MiB",
             ("models", "inference")),
    Question("admin", "Address for metrics, dashboard and commands", "127.0.0.1:9900", _ALL),
)  # fmt: skip


def answers(given: Mapping[str, str | None], ask: Callable[[str], str] | None) -> dict[str, str]:
    """An answer for `kind` and for each question of that kind. `ask` shows a prompt and gives a line; None takes the
    defaults. Raises TidegateError for an answer that there is none of, or for an option of another kind."""
    kind = given.get("kind") or ""
    if not kind:
        if ask is not None:
            print(
                "What is behind the load balancer?", *(f"  {name:<10} {text}" for name, text in KINDS.items()), sep="\n"
            )
        kind = _answer("kind", "Kind", "http" if given.get("endpoints") else "models", ask, tuple(KINDS))
    if kind not in KINDS:
        raise TidegateError(f"{kind!r} is no kind; choose one of {', '.join(KINDS)}")
    strangers = [one.name for one in QUESTIONS if given.get(one.name) is not None and kind not in one.kinds]
    if strangers:
        raise TidegateError(f"--{strangers[0]} does not go with --kind {kind}")
    result = {"kind": kind}
    for question in QUESTIONS:
        if kind in question.kinds:
            answer = given.get(question.name)
            result[question.name] = answer or _answer(question.name, question.text, question.default, ask)
    return result


def _answer(name: str, text: str, default: str, ask: Callable[[str], str] | None, choices: Sequence[str] = ()) -> str:
    """Asked for until there is an answer, at a terminal, and one of `choices` if there are any."""
    prompt = f"{text} [{default}]: " if default else f"{text}: "
    answer = default if ask is None else ask(prompt).strip() or default
    while ask is not None and (not answer or (choices and answer not in choices)):
        print(f"One of {', '.join(choices)}." if choices else "There is no default for this.")
        answer = ask(prompt).strip() or default
    if not answer:
        raise TidegateError(f"there is no default for --{name}: {text}")
    return answer


def composed(said: Mapping[str, str]) -> str:
    """The text of the file for the answers `said`."""
    kind = said["kind"]
    parts = [
        f"""\
# The configuration of Tidegate. `tidegate check -c FILE` says what is wrong in it, `tidegate reload` puts a change into
# effect without dropping a connection. All keys: docs/configuration.md, or `man tidegate.yaml`.

workers: auto                    # one process on each CPU that the daemon may use

admin:
  bind: {_text(said["admin"])}       # metrics, probes, dashboard; for other machines add `token_file`

listeners:
  main:
    bind: {_text(said["listen"])}
    # {_LISTENER[kind]}
    protocol: {"tcp" if kind == "tcp" else "http"}
"""
    ]
    if kind == "tcp":
        parts.append("    pool: servers\n")
    else:
        parts.append(
            """\
    routes:                      # of those that match, the most particular has the request, wherever it stands
      - pool: servers            # takes what no other does; others have `match: {path: {prefix: /v2/}}`, `{host: …}`
        timeout: 60s             # for the whole answer; 504 after that
"""
        )
    parts.append(f"\npools:\n  servers:\n    protocol: {_PROTOCOL[kind]}\n")
    if kind == "models":
        parts.append(
            f"""\
    serve:                       # servers of these models are started, watched, replaced and scaled
      models: {_text(str(Path(said["models"]).absolute()))}
      min: 1                     # `max: 4` with a `scaling` section adds servers under load
"""
        )
    else:
        endpoints = [one.strip() for one in said["endpoints"].split(",") if one.strip()]
        parts.append("    endpoints:\n" + "".join(f"      - {_text(one)}\n" for one in endpoints))
    parts.append(f"    health: {_health(kind, said.get('health', 'none'))}\n")
    if said.get("cache", "none") != "none":
        parts.append(
            f"""
cache:                           # equal requests have one answer, and only the first of them reaches a model server
  size: {said["cache"]}
  ttl: 1m                        # how long an answer is given; `cache: false` in a route for models that sample
"""
        )
    parts.append(
        """
log:
  level: info
  # access: /var/log/tidegate/access.log     # one JSON object a request

shutdown:
  drain_timeout: 30s             # how long a stop waits for running requests
"""
    )
    return "".join(parts)


_PROTOCOL = {"models": "oip", "inference": "oip", "http": "http", "grpc": "grpc", "tcp": "tcp"}
_LISTENER = {
    "models": "Clients speak HTTP/1.1, HTTP/2 and gRPC; `https` with a `tls` section encrypts.",
    "inference": "Clients speak HTTP/1.1, HTTP/2 and gRPC; `https` with a `tls` section encrypts.",
    "http": "Clients speak HTTP/1.1 and HTTP/2; `https` with a `tls` section encrypts.",
    "grpc": "Clients speak gRPC over HTTP/2; `https` with a `tls` section encrypts.",
    "tcp": "Bytes are passed on, whatever they mean.",
}


def _health(kind: str, path: str) -> str:
    if kind == "http" and path != "none":
        return f"{{type: http, path: {_text(path)}, interval: 2s}}"
    return f"{{type: {'tcp' if kind in ('http', 'tcp') else 'grpc'}, interval: 2s}}"


def _text(value: str) -> str:
    """`value` as a YAML text in quotes: JSON's are YAML's."""
    return json.dumps(value, ensure_ascii=False)


def init(path: Path, given: Mapping[str, str | None], yes: bool, force: bool) -> int:
    """Writes the file at `path`, and says what to do next. Raises ConfigError when the answers make a file with errors,
    and TidegateError when it cannot be written, also when there is one without `force`."""
    if path.exists() and not force:
        raise TidegateError(f"{path} exists; --force writes over it")
    ask = input if sys.stdin.isatty() and not yes else None
    try:
        text = composed(answers(given, ask))
    except EOFError:
        raise TidegateError("no answer; nothing was written") from None
    own = OwnDaemon(path)
    try:
        config = _write(path, text, force, own)
    except FileExistsError:
        raise TidegateError(f"{path} exists; --force writes over it") from None
    except OSError as error:
        raise TidegateError(f"{path}: cannot be written: {error.strerror}") from None
    said = unit()
    serves = _file_of(said) == path.absolute()
    is_running = (serves and said.get("ActiveState") == "active") or own.is_running(config.admin)
    print(f"{path} was written. Next:", *(f"  {step}" for step in next_steps(path, serves, is_running)), sep="\n")
    return 0


def next_steps(path: Path, has_unit: bool, is_running: bool) -> list[str]:
    """The commands that put the file at `path` into effect, where the unit of systemd is for it, and where a daemon
    runs it."""
    name = shlex.quote(str(path))
    if has_unit:
        last = f"systemctl reload {UNIT}" if is_running else f"systemctl enable --now {UNIT}"
    else:
        last = f"tidegate {'reload' if is_running else 'run'} -c {name}"
    return [f"tidegate doctor -c {name}", last]


def _file_of(said: Mapping[str, str]) -> Path | None:
    """The configuration that the unit's program is given, by what `systemctl show` says of it."""
    started = _ARGUMENTS.search(said.get("ExecStart", ""))
    named = _CONFIG.search(started[1]) if started is not None and said.get("LoadState") == "loaded" else None
    return Path(named[1]) if named is not None else None


def _write(path: Path, text: str, force: bool, own: OwnDaemon) -> Config:
    """The file is there as a whole and checked, or not at all."""
    from lb.cli.check import check

    number, name = tempfile.mkstemp(prefix=".tidegate-", suffix=".yaml", dir=path.parent)
    made = Path(name)
    try:
        with open(number, "w", encoding="utf-8") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), 0o666 & ~_umask())
        warned = io.StringIO()
        try:
            with contextlib.redirect_stderr(warned):
                config = check(made, own)
        except ConfigError as error:
            raise ConfigError([line.replace(name, str(path)) for line in error.problems]) from None
        print(warned.getvalue().replace(name, str(path)), end="", file=sys.stderr)
        if force:
            made.replace(path)
        else:
            os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
    return config


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
