"""The command line: texts, exit codes, and never a traceback."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import forked
import pytest
import yaml
from control_daemon import ROOT, configuration, daemon, listener

import lb
from lb.cli.admin import AdminClient, AdminError, client
from lb.cli.app import command_parser, main
from lb.errors import TidegateError


def tidegate(*arguments: str, cwd: Path, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    for name in ("TIDEGATE_CONFIG", "TIDEGATE_ADMIN", "TIDEGATE_TOKEN_FILE"):
        environment.pop(name, None)
    environment.update(variables or {})
    done = forked.run(arguments, cwd=cwd, env=environment)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tidegate.yaml"
    path.write_text(yaml.safe_dump(configuration(tmp_path)))
    return path


def test_the_bench_suite_is_a_command(tmp_path: Path) -> None:
    done = tidegate("bench", "list", cwd=tmp_path)
    assert done.returncode == 0
    assert "proxy-http1" in done.stdout
    assert "SCENARIO" in tidegate("bench", "run", "--help", cwd=tmp_path).stdout
    failed = tidegate("bench", "run", "nonsense", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.startswith("bench: no such scenario: nonsense")


def test_help_names_every_command(tmp_path: Path) -> None:
    done = tidegate("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("run", "check", "reload", "status", "version"))
    assert "SIGHUP reloads" in tidegate("run", "--help", cwd=tmp_path).stdout


def test_the_schema_is_that_of_the_reference(tmp_path: Path) -> None:
    done = tidegate("schema", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == (ROOT / "lb" / "config" / "reference" / "schema.json").read_text()


def test_the_options_that_everyone_tries_first(tmp_path: Path) -> None:
    assert tidegate("--version", cwd=tmp_path).stdout == f"tidegate {lb.__version__}\n"
    assert tidegate("-h", cwd=tmp_path).stdout == tidegate("--help", cwd=tmp_path).stdout
    assert tidegate("run", "-h", cwd=tmp_path).returncode == 0


def test_version(tmp_path: Path) -> None:
    done = tidegate("version", cwd=tmp_path)
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert lines["tidegate"] == lb.__version__
    assert lines.keys() >= {"python", "uvloop", "nghttp2", "llhttp"}


def test_check_says_valid(config: Path, tmp_path: Path) -> None:
    done = tidegate("check", "-c", str(config), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{config}: valid: 1 listener, 1 pool\n", "")


def test_check_shows_every_problem_of_every_layer(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    bad = configuration(tmp_path, workers=-1, listeners={"web": listener("127.0.0.1:0", "nowhere")})
    bad["pools"]["up"]["policy"] = "least_requests"
    path.write_text(yaml.safe_dump(bad))
    done = tidegate("check", "-c", str(path), cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}:") for line in lines)
    assert "least_request" in done.stderr


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert tidegate("fly", cwd=tmp_path).returncode == 2
    assert tidegate("run", "--fly", cwd=tmp_path).returncode == 2


def test_without_a_daemon(config: Path, tmp_path: Path) -> None:
    for command in ("status", "reload"):
        done = tidegate(command, "-c", str(config), cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"tidegate: no answer from the daemon at unix:{tmp_path}/admin.sock: ")
        assert done.stderr.count("\n") == 1


def test_reload_and_status_of_a_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        path = str(running.path)
        done = tidegate("reload", "-c", path, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "reloaded: plan 2\n")
        shown = tidegate("status", "-c", path, cwd=tmp_path)
        assert shown.returncode == 0
        assert "plan 2" in shown.stdout
        assert running.address() in shown.stdout
        assert "127.0.0.1:9" in shown.stdout
        assert shown.stdout.count("running") == 3
        document = json.loads(
            tidegate("status", "--json", "--admin", f"unix:{tmp_path}/admin.sock", cwd=tmp_path).stdout
        )
        assert document["generation"] == 2
        bad = configuration(tmp_path, listeners={"refused": listener("127.0.0.1:0")})
        running.write(bad)
        done = tidegate("reload", "-c", path, cwd=tmp_path)
        assert done.returncode == 1
        assert "the old configuration stays" in done.stderr
        assert "the plan is refused" in done.stderr
        assert "failed" in tidegate("status", "-c", path, cwd=tmp_path).stdout
        running.write("nonsense")
        done = tidegate("reload", "--admin", f"unix:{tmp_path}/admin.sock", cwd=tmp_path)
        assert done.returncode == 1
        assert f"{path}:1" in done.stderr


CHANGES = [
    ["reload"],
    ["upgrade"],
    ["reopen-logs"],
    ["drain", "up", "a:1"],
    ["maintenance", "up", "a:1"],
    ["enable", "up", "a:1"],
    ["weight", "up", "a:1", "3"],
    ["weight", "up", "a:1", "3", "--dry-run"],
    *(["endpoint", action, "up", "a:1"] for action in ("drain", "maintenance", "ready")),
    ["endpoint", "weight", "up", "a:1", "3"],
    ["endpoint", "limit", "up", "a:1", "3"],
    ["scale", "up", "3"],
    ["config", "set", "log.level", "debug"],
    ["config", "unset", "log.level"],
    ["certificates", "reload"],
    ["jobs", "retry", "--all"],
    ["jobs", "cancel", "j1"],
    ["quota", "reset", "anna"],
    *(["canary", action, "chat"] for action in ("promote", "abort", "retry")),
    ["table", "clear", "t", "--all"],
    ["table", "set", "t", "k", "gpt0=1"],
    ["cache", "purge", "--all"],
    ["cache", "warm", "/dev/null"],
]
SHOWS = [
    ["status"],
    ["status", "--json"],
    ["top", "--once"],
    ["transitions"],
    ["endpoint", "list"],
    ["config", "show"],
    ["config", "diff"],
    ["config", "changes"],
    ["config", "settings"],
    ["certificates", "list"],
    ["explain", "web"],
    ["models", "list"],
    ["quota", "show"],
    ["canary", "show"],
    ["table", "show"],
    ["mirror", "report"],
]
BROKEN = {
    "no YAML behind it": lambda text: text + "more: [\n",
    "no YAML before it": lambda text: "more: {\n" + text,
    "a tab": lambda text: text.replace("workers: 2", "workers: 2\n\tworkers: 2"),
    "a key twice": lambda text: "pools: {}\n" + text,
    "a spelling": lambda text: "more: {\n" + text.replace("admin:\n", "'admin' :  # where\n\n"),
}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda text: text.replace("workers: 2", "workers: many"), id="a value"),
        pytest.param(lambda text: text + "nonsense: 1\n", id="a key"),
        *(pytest.param(spoil, id=name) for name, spoil in BROKEN.items()),
    ],
)
def test_what_shows_works_with_a_broken_file_and_says_whom_it_asked(
    spoil: Callable[[str], str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of sections other than `admin` no value is looked at."""
    with daemon(tmp_path) as running:
        path = str(running.path)
        running.write(spoil(running.path.read_text()))
        done = tidegate("status", "-c", path, cwd=tmp_path)
        assert (done.returncode, "127.0.0.1:9" in done.stdout) == (0, True), done.stderr
        first, *others = done.stderr.splitlines()
        assert first == f"tidegate: asked the daemon at unix:{tmp_path}/admin.sock, which runs {path}"
        assert len(others) == (request.node.callspec.id in BROKEN)
        assert all(line.startswith(f"tidegate: {path}:") for line in others)


def test_what_changes_something_asks_nobody_with_a_broken_file(server: Any, tmp_path: Path) -> None:
    """Whatever the rest of the section `admin` seems to say, and with none of it the default address."""
    path = tmp_path / "tidegate.yaml"
    server.answer = (200, json.dumps({"ok": True, "config": str(path)}).encode())
    section = f"admin: {{bind: 127.0.0.1:{server.server_port}}}\n"
    for text in (f"{section}workers: [\n", f"workers: {{\n{section}", f"{section}workers: 1\nworkers: 2\n", "a: [\n"):
        path.write_text(text)
        for command in CHANGES:
            done = tidegate(*command, "-c", str(path), cwd=tmp_path)
            assert (done.returncode, done.stdout) == (1, ""), (text, command)
            assert re.match(rf"{path}:\d+: ", done.stderr), (text, command)
            assert "does not say which daemon is meant: --admin URL" in done.stderr.splitlines()[-1], (text, command)
    assert server.seen == []


def test_what_changes_something_asks_the_daemon_of_the_file_alone(server: Any, tmp_path: Path) -> None:
    """Another daemon may have the address that the file says, and the default above all."""
    path, other = tmp_path / "tidegate.yaml", tmp_path / "other.yaml"
    path.write_text(f"workers: 1\nadmin:\n  bind: 127.0.0.1:{server.server_port}\n")
    for answer in ({"config": str(other)}, {}):
        server.answer = (200, json.dumps({"ok": True, **answer}).encode())
        for command in CHANGES:
            server.asked.clear()
            done = tidegate(*command, "-c", str(path), cwd=tmp_path)
            assert (done.returncode, done.stdout) == (1, ""), command
            assert done.stderr.startswith(f"{path}:3: admin.bind: "), command
            assert f"--admin http://127.0.0.1:{server.server_port}" in done.stderr, command
            assert server.asked == [("GET", "/api/v1/daemon")], command


def test_what_shows_says_whom_it_asked(server: Any, tmp_path: Path) -> None:
    path, other = tmp_path / "tidegate.yaml", tmp_path / "other.yaml"
    path.write_text(f"admin: {{bind: 127.0.0.1:{server.server_port}}}\n")
    address = f"127.0.0.1:{server.server_port}"
    said = f"tidegate: asked the daemon at {address}, which runs {other}"
    for command in SHOWS:
        server.answer = (200, json.dumps({"config": str(other)}).encode())
        done = tidegate(*command, "-c", str(path), cwd=tmp_path)
        assert done.stderr.splitlines()[0] == f"{said}, not {path}", command
        done = tidegate(*command, "--admin", address, cwd=tmp_path)
        assert done.stderr.splitlines()[0] == said, command
        assert "asked" not in done.stdout, command


def test_two_daemons_on_one_machine(tmp_path: Path) -> None:
    """A file that is new has the address of the daemon that runs, and is not its file."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with daemon(tmp_path / "a") as one, daemon(tmp_path / "b") as two:
        copy = tmp_path / "copy.yaml"
        copy.write_text(one.path.read_text())
        done = tidegate("reload", "-c", str(copy), cwd=tmp_path)
        assert done.returncode == 1
        assert f"the daemon at unix:{tmp_path}/a/admin.sock runs {one.path}, not {copy}" in done.stderr
        assert tidegate("drain", "up", "127.0.0.1:9", "-c", str(copy), cwd=tmp_path).returncode == 1
        assert [each.status()["generation"] for each in (one, two)] == [1, 1]
        link = tmp_path / "link.yaml"
        link.symlink_to(one.path)
        assert tidegate("reload", "-c", str(link), cwd=tmp_path).stdout == "reloaded: plan 2\n"
        assert tidegate("reload", "-c", "a/../a/tidegate.yaml", cwd=tmp_path).stdout == "reloaded: plan 3\n"
        assert [each.status()["generation"] for each in (one, two)] == [3, 1]
        # What stands on the command line counts more than the environment.
        variables = {"TIDEGATE_ADMIN": f"unix:{tmp_path}/a/admin.sock", "TIDEGATE_CONFIG": str(one.path)}
        done = tidegate("reload", "-c", str(two.path), cwd=tmp_path, variables=variables)
        assert [each.status()["generation"] for each in (one, two)] == [3, 2]
        assert tidegate("reload", cwd=tmp_path, variables=variables).stdout == "reloaded: plan 4\n"
        done = tidegate("reload", "-c", str(copy), "--admin", two.client.address, cwd=tmp_path, variables=variables)
        assert [each.status()["generation"] for each in (one, two)] == [4, 3]


def test_a_daemon_of_a_version_before_is_known_by_its_status(server: Any, tmp_path: Path) -> None:
    """As it is asked for an upgrade."""
    path = tmp_path / "tidegate.yaml"
    path.write_text(f"admin: {{bind: 127.0.0.1:{server.server_port}}}\n")
    server.answer = (200, json.dumps({"ok": True, "generation": 7, "config": str(path)}).encode())
    server.unknown = ["/api/v1/daemon"]
    assert tidegate("reload", "-c", str(path), cwd=tmp_path).stdout == "reloaded: plan 7\n"
    assert [what for _, what in server.asked] == ["/api/v1/daemon", "/api/v1/status?counters=no", "/api/v1/reload"]


def test_a_file_without_a_usable_admin_section_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    for text in ("admin: {bind: nowhere}\nlisteners: [\n", "admin: [\n", "admin: {bind: '${NO_SUCH}'}\nx: [", None):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        for command, said in (
            (["drain", "up", "127.0.0.1:9"], "nothing was changed"),
            (["status"], "nobody was asked"),
        ):
            done = tidegate(*command, "-c", str(path), cwd=tmp_path)
            assert done.returncode == 1
            assert done.stderr.startswith(f"{path}:")
            assert f"tidegate: {said}" in done.stderr.splitlines()[-1]
            assert "--admin URL" in done.stderr.splitlines()[-1]


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers what the test has put into the server."""

    def do_GET(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined]
        self.server.asked.append((self.command, self.path))  # type: ignore[attr-defined]
        if self.path in self.server.unknown:  # type: ignore[attr-defined]
            status, body = 404, b'{"error": "Not Found"}'
        self.server.seen.append(self.headers["Authorization"])  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Any]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as made:
        made.seen, made.asked, made.unknown = [], [], []  # type: ignore[attr-defined]
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, b"{}"), "asks for a token, and none was sent: name the file"),
        ((403, b'{"error": "cross-site"}'), "refuses: cross-site"),
        ((200, b"<html>"), "not JSON"),
        ((200, b"[]"), "no JSON object"),
        ((503, b'{"error": "starting"}'), "answers 503: starting"),
    ],
)
def test_answers_that_are_no_good(server: Any, answer: tuple[int, bytes], message: str) -> None:
    server.answer = answer
    asked = AdminClient(f"127.0.0.1:{server.server_port}")
    with pytest.raises(AdminError, match=message):
        asked.status()
    with pytest.raises(AdminError):
        asked.reload()


def test_the_token_is_sent(server: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    server.answer = (200, b'{"ok": true, "generation": 7}')
    url = f"http://127.0.0.1:{server.server_port}"
    done = tidegate("reload", "--admin", url, "--token-file", str(token), cwd=tmp_path)
    assert done.stdout == "reloaded: plan 7\n"
    assert server.seen == ["Bearer secret"]
    variables = {"TIDEGATE_ADMIN": url, "TIDEGATE_TOKEN_FILE": str(token)}
    assert tidegate("reload", cwd=tmp_path, variables=variables).stdout == "reloaded: plan 7\n"
    token.write_bytes("schlüssel €\n".encode())
    assert tidegate("reload", cwd=tmp_path, variables=variables).stdout == "reloaded: plan 7\n"
    assert server.seen[1:] == ["Bearer secret", "Bearer schlüssel €".encode().decode("latin-1")]


COMMANDS = [
    ("status",),
    ("reload",),
    ("transitions",),
    ("drain", "p", "127.0.0.1:1"),
    ("maintenance", "p", "127.0.0.1:1"),
    ("enable", "p", "127.0.0.1:1"),
    ("weight", "p", "127.0.0.1:1", "2"),
    ("explain", "web"),
]


HOW = "name the file with the admin token by --token-file FILE or TIDEGATE_TOKEN_FILE"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_token_that_is_missing(command: tuple[str, ...], server: Any, tmp_path: Path) -> None:
    server.answer = (401, b'{"error": "a valid token is needed"}')
    address = f"127.0.0.1:{server.server_port}"
    done = tidegate(*command, "--admin", address, cwd=tmp_path)
    said = f"{address} asks for a token, and none was sent (with --admin the configuration is not read): {HOW}"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"tidegate: {said}\n")


def test_a_token_that_is_not_the_right_one(server: Any, tmp_path: Path) -> None:
    """The message names the settings that count."""
    server.answer = (401, b'{"error": "a valid token is needed"}')
    address = f"127.0.0.1:{server.server_port}"
    config, token = tmp_path / "tidegate.yaml", tmp_path / "token"
    setting = f"admin.token_file of {config}"

    def said(admin: str = "", file: Path | None = None) -> str:
        with pytest.raises(TidegateError) as error:
            client(config, admin, file).status()
        return str(error.value)

    config.write_text(yaml.safe_dump({**configuration(tmp_path), "admin": {"bind": address}}))
    assert said() == f"{address} asks for a token, and none was sent ({config} has no admin.token_file): {HOW}"
    token.write_text("wrong\n")
    needed = "it has to be that of admin.token_file in the configuration of the running daemon"
    assert said(file=token) == f"{address} does not accept the token of {token} (--token-file): {needed}; {HOW}"
    config.write_text(yaml.safe_dump({**configuration(tmp_path), "admin": {"bind": address, "token_file": "token"}}))
    assert said() == f"{address} does not accept the token of {token} ({setting}): {needed}; {HOW}"
    for content, problem in (
        ("a\nb\n", f"the token file {token} holds more than one line, or bytes that no header may have"),
        (" \n", f"the token file {token} is empty"),
        (None, f"cannot read the token file {token}: No such file or directory; {HOW}"),
    ):
        token.unlink() if content is None else token.write_text(content)
        assert said() == f"{setting}: {problem}"
        assert said(address, token) == f"--token-file: {problem}"


WEIGHTS = ["-1", "-0.5", "0.5", "1001", "1e9", "NaN", "inf", "+5", "٣", "", "9" * 5000]


def test_a_weight_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for value in WEIGHTS:
        assert main(["weight", "p", "127.0.0.1:1", value, "--admin", "127.0.0.1:1"]) == 2, value
        said = capsys.readouterr().err
        assert "is no weight; write a whole number from 0 to 1000, or `default`" in said, value


def test_seconds_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("abc", "", "nan", "-1", "1s"):
        assert main(["top", "--interval", value, "--admin", "127.0.0.1:1"]) == 2, value
        assert "is no interval; write seconds from 0.1 to 3600" in capsys.readouterr().err, value
        assert main(["endpoint", "drain", "p", "a", f"--wait={value}", "--admin", "127.0.0.1:1"]) == 2, value
        assert "is no time; write a number of seconds" in capsys.readouterr().err, value


def test_options_that_a_command_with_numbers_does_not_have() -> None:
    for arguments in (
        ("--bogus", "p", "a", "1"),
        ("p", "a", "1", "--bogus"),
        ("p", "-x", "1"),
        ("p", "a", "-c"),
        ("p", "a", "-inf"),
        ("p", "a", "-nan"),
    ):
        assert main(["weight", *arguments]) == 2, arguments
    assert main(["drain", "p", "127.0.0.1:1", "--wait", "nan"]) == 2


@pytest.mark.parametrize("url", ["ftp://x:1", "127.0.0.1", "http://h:port", "http://h:1/path"])
def test_a_bad_admin_address(url: str, tmp_path: Path) -> None:
    done = tidegate("status", "--admin", url, cwd=tmp_path)
    assert done.returncode == 1
    assert "write http://HOST:PORT or unix:/PATH" in done.stderr


@pytest.mark.parametrize(
    ("asked", "bind", "found"),
    [
        ("unix:/a", "unix:/b", "unix:/b"),
        ("unix:/a", "0.0.0.0:2", "127.0.0.1:2"),
        ("unix:/a", "[::]:2", "[::1]:2"),
        ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:2"),
        ("192.0.2.1:1", "0.0.0.0:2", "192.0.2.1:2"),
        ("[2001:db8::1]:1", "[::]:2", "[2001:db8::1]:2"),
        ("192.0.2.1:1", "192.0.2.7:2", "192.0.2.7:2"),
        ("example.org:1", "0.0.0.0:2", "example.org:2"),
        # Another machine's, where a token would go to whoever listens on this one.
        ("192.0.2.1:1", "127.0.0.1:2", None),
        ("example.org:1", "[::1]:2", None),
        ("192.0.2.1:1", "unix:/b", None),
    ],
)
def test_another_address_of_the_daemon_as_seen_from_here(asked: str, bind: str, found: str | None) -> None:
    other = AdminClient(asked).at(bind)
    assert (other.address if other is not None else None) == found


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("statsu",), "; did you mean status?"),
        (("config", "shwo"), "; did you mean show?"),
        (("jobs", "list", "--state", "dad"), "; did you mean dead?"),
        (("xyzzyplugh",), ")"),
    ],
)
def test_a_mistyped_word_is_told_what_is_near(
    arguments: Sequence[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command_parser().parse_args(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(hint)
