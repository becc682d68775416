"""`tidegate init`: what it asks, what it writes, and what it refuses to write."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal

from lb.cli import init
from lb.cli.app import main
from lb.cli.init import KINDS, QUESTIONS, answers, composed
from lb.config.load import load
from lb.errors import TidegateError

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "digits" / "models"
SERVERS = "127.0.0.1:9001, [::1]:9002"


def given(kind: str) -> list[str]:
    return ["--kind", kind, *(["--models", str(MODELS)] if kind == "models" else ["--endpoints", SERVERS])]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_passes_the_check(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tidegate.yaml"
    assert main(["init", str(path), "--yes", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *given(kind)]) == 0
    assert main(["check", "-c", str(path)]) == 0
    config = load(path)
    assert set(config.pools) == {"servers"}
    assert (config.cache is not None) == (kind in ("models", "inference"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert all(len(line) <= 120 for line in path.read_text().splitlines())
    assert f"tidegate run -c {path}" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["tidegate.yaml"]


def test_a_health_path_and_an_address_of_any_spelling(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    arguments = ["--kind", "http", "--endpoints", "unix:/run/a b: #c.sock", "--health", "/health?a=1#2", "--yes"]
    assert main(["init", str(path), *arguments]) == 0
    pool = load(path).pools["servers"]
    assert pool.endpoints[0].address == "unix:/run/a b: #c.sock"
    assert pool.health is not None
    assert pool.health.path == "/health?a=1#2"


def test_the_commands_that_come_next_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my file's.yaml"
    assert main(["init", "--kind", "http", "--endpoints", "127.0.0.1:9", "--yes", str(path)]) == 0
    for line in capsys.readouterr().out.splitlines()[1:]:
        assert shlex.split(line)[-2:] == ["-c", str(path)]


def test_the_text_says_which_route_has_a_request(tmp_path: Path) -> None:
    """A route that is added below the first takes what it matches, as the text promises of any place."""
    text = composed({"kind": "http", "endpoints": "127.0.0.1:9", "listen": "127.0.0.1:0", "admin": "127.0.0.1:0"})
    assert "the first that matches" not in text
    assert "the most particular has the request, wherever it stands" in text


STARTED = "{{ path=/opt/tidegate/bin/tidegate ; argv[]=/opt/tidegate/bin/tidegate run {} ; ignore_errors=no ; pid=7 }}"


@pytest.mark.parametrize("spelling", ["--config {}", "--config={}", "-c {}"])
@pytest.mark.parametrize(
    ("said", "last"),
    [
        ({"LoadState": "loaded", "ActiveState": "active"}, "systemctl reload tidegate.service"),
        ({"LoadState": "loaded", "ActiveState": "inactive"}, "systemctl enable --now tidegate.service"),
        ({"LoadState": "loaded", "ActiveState": "failed"}, "systemctl enable --now tidegate.service"),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, "tidegate run -c {}"),
        ({}, "tidegate run -c {}"),
    ],
)
def test_what_comes_next_is_the_units_where_it_is_for_the_file(
    said: dict[str, str], last: str, spelling: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    path, other = tmp_path / "tidegate.yaml", tmp_path / "other.yaml"
    command = {"ExecStart": STARTED.format(spelling.format(path))} if said else {}
    monkeypatch.setattr(init, "unit", lambda: {**said, **command})
    for file, step in ((path, last.format(path)), (other, f"tidegate run -c {other}")):
        assert main(["init", str(file), "--yes", "--admin", "127.0.0.1:0", *given("http")]) == 0
        assert capsys.readouterr().out.splitlines()[1:] == [f"  tidegate doctor -c {file}", f"  {step}"]


def test_a_file_that_exists_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tidegate.yaml"
    path.write_text("mine")
    assert main(["init", str(path), "--yes", *given("http")]) == 1
    assert path.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["init", str(path), "--yes", "--force", *given("http")]) == 0
    assert load(path).pools


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kind", "http", "--endpoints", "10.0.0.1"], "tidegate.yaml:"),
        (["--kind", "http"], "--endpoints"),
        (["--kind", "models", "--models", "/nonexistent"], "there is no such folder"),
        (["--kind", "models", "--endpoints", "10.0.0.1:1"], "--endpoints does not go with --kind models"),
        (["--kind", "tcp", "--endpoints", "10.0.0.1:1", "--health", "/"], "--health does not go with --kind tcp"),
        (["--kind", "inference", "--endpoints", "10.0.0.1:1", "--cache", "much"], "cache.size"),
    ],
)
def test_what_makes_no_good_file_is_not_written(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "tidegate.yaml"), "--yes", *arguments]) == 1
    shown = capsys.readouterr()
    assert said in shown.err
    assert ".tidegate-" not in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "none" / "tidegate.yaml"), "--yes", *given("tcp")]) == 1
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_options_are_not_asked_for() -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return ""

    said = answers({"kind": "http", "endpoints": "a:1"}, ask)
    left = [question.text for question in QUESTIONS if question.name in ("listen", "health", "admin")]
    assert [prompt.partition(" [")[0] for prompt in asked] == left
    assert said["listen"] == "0.0.0.0:8080"
    assert "a:1" in composed(said)
    with pytest.raises(TidegateError):
        answers({"kind": "smtp"}, None)


def test_a_user_at_a_terminal(tmp_path: Path) -> None:
    terminal = Terminal([sys.executable, "-m", "lb.cli", "init"], tmp_path, {"PYTHONPATH": str(ROOT)})
    try:
        for prompt, answer in (
            ("Kind [models]: ", "htp"),
            ("One of models, inference, http, grpc, tcp.\r\nKind [models]: ", "http"),
            ("HOST:PORT), with commas between: ", ""),
            (
                "There is no default for this.\r\nAddresses of the servers (HOST:PORT), with commas between: ",
                "127.0.0.1:9001",
            ),
            ("[0.0.0.0:8080]: ", "127.0.0.1:0"),
            ("[none]: ", "/health"),
            ("[127.0.0.1:9900]: ", ""),
        ):
            terminal.shows(prompt)
            terminal.type(f"{answer}\n")
        terminal.shows("was written")
    finally:
        terminal.close()
    config = load(tmp_path / "tidegate.yaml")
    assert config.listeners["main"].binds == ("127.0.0.1:0",)
