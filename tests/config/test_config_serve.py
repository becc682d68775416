"""`serve: {command: …}`: what is refused, where, and what is said; what placeholders become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lb.config.load import load
from lb.config.schema.file import ServeConfig
from lb.config.schema.pools.serve import fill
from lb.config.units import SECOND
from lb.errors import ConfigError


def problems(folder: Path, protocol: str = "http", **serve: Any) -> list[str]:
    """What is wrong with such a pool, without file and line."""
    file = folder / "t.yaml"
    listener = {"bind": "127.0.0.1:0", "protocol": "tcp" if protocol == "tcp" else "http"}
    listener.update({"pool": "p"} if protocol == "tcp" else {"routes": [{"pool": "p"}]})  # type: ignore[dict-item]
    pools = {"p": {"protocol": protocol, "serve": serve}}
    file.write_text(yaml.safe_dump({"listeners": {"web": listener}, "pools": pools}))
    try:
        load(file)
    except ConfigError as error:
        return [line.partition(": ")[2].removeprefix("pools.p.serve") for line in error.problems]
    return []


@pytest.mark.parametrize("protocol", ["http", "http2", "grpc", "oip", "tcp"])
def test_a_command_is_for_every_protocol_but_udp(tmp_path: Path, protocol: str) -> None:
    assert problems(tmp_path, protocol, command=["x", "{address}"], gpus=0.5, cores=2, standby=1) == []


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        ({}, ": exactly one of models, command is needed; none is given"),
        (
            {"command": "x --port 1"},
            ".command: must be a list of words, of which no shell takes notice; write [x, --port, 1]",
        ),
        ({"command": ["x", "{prot}"]}, ".command[1]: {prot} is no placeholder; did you mean port?"),
        ({"command": [""]}, ".command: its first word is the program, which is empty"),
        ({"command": ["x"], "threads": 2}, ".threads: only with models"),
        (
            {"command": ["x"], "port": 9000, "min": 2},
            ".port: is one port for 2 servers; write a range such as 9000-9099",
        ),
        ({"command": ["x"], "port": "9-8"}, ".port: '9-8' is neither a port nor a range such as 9000-9099"),
        ({"command": ["x"], "port": True}, ".port: True is neither a port nor a range such as 9000-9099"),
        (
            {"command": ["x", "{socket}", "{port}"]},
            ".command: {port} has no value with listen: unix; write {socket} or {address}",
        ),
        (
            {"command": ["x", "{socket}"], "listen": "tcp"},
            ".command: {socket} has no value with listen: tcp; write {port} or {address}",
        ),
        ({"command": ["x", "{socket}"], "port": 9}, ".port: has no effect with listen: unix"),
        (
            {"command": ["x"], "ready": {"type": "tcp", "port": "http"}},
            ".ready.port: http is no port of the server: {port:http} is nowhere in command and env",
        ),
        ({"command": ["x"], "ready": {"type": "tcp", "path": "/x"}}, ".ready.path: only for type http"),
        ({"command": ["x"], "ready": {"type": "http", "service": "x"}}, ".ready.service: only for type grpc"),
        ({"command": ["x"], "gpus": 1.5}, ".gpus: 1.5 is neither a part of one GPU nor a whole number of them"),
        (
            {"command": ["x"], "vertical": {}},
            ".vertical: needs cores to begin with: the server of a command is not told how many threads it has",
        ),
        ({"command": ["x"], "batch": 4}, ".batch: has no effect without {batch} in command or env"),
        ({"command": ["x", "{instances}"]}, ".instances: {instances} has no value"),
        (
            {"command": ["x"], "vertical": {"max_batch": 4}},
            ".vertical.max_batch: needs batch to begin with, and {batch} in command or env",
        ),
        (
            {"command": ["x", "{batch}"], "batch": 4, "vertical": {"max_batch": 2}},
            ".vertical.max_batch: 2 is less than batch, which is 4",
        ),
        (
            {"command": ["x"], "cores": 1, "vertical": {"min_cores": 3, "max_cores": 2}},
            ".vertical.min_cores: 3 is more than max_cores",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, serve: dict[str, Any], said: str) -> None:
    assert problems(tmp_path, **serve) == [said]


def test_what_belongs_to_a_command_alone(tmp_path: Path) -> None:
    assert problems(tmp_path, "oip", models=str(tmp_path), ready="/x", port=9) == [
        ".port: only with command",
        ".ready: only with command",
    ]
    assert problems(tmp_path, "http", models=str(tmp_path)) == [
        ": only for protocol oip: the model server speaks nothing else; others have a command"
    ]


def test_short_forms_of_ready() -> None:
    path = ServeConfig.model_validate({"command": ["x"], "ready": "/health"}).ready
    kind = ServeConfig.model_validate({"command": ["x"], "ready": "grpc"}).ready
    assert path is not None
    assert kind is not None
    assert (path.type, path.path, kind.type, kind.timeout) == ("http", "/health", "grpc", 2 * SECOND)
    assert (path.check.type, path.check.path, path.check.status) == ("http", "/health", [200])


def test_placeholders_and_other_braces() -> None:
    known = {"port": "1", "port:http": "2", "index": "0"}
    assert fill("{port}-{port:http}-{index}", known) == "1-2-0"
    assert fill('{"a": {"port": 1}} ${port} {other} {port:x} {}', known) == '{"a": {"port": 1}} $1 {other} {port:x} {}'
    serve = ServeConfig.model_validate({"command": ["x", "{port:b}{port}"], "env": {"A": "{port:a}", "B": "{port:b}"}})
    assert serve.port_names == ("b", "a")


def test_a_unix_socket_where_one_is_named() -> None:
    def listen(**serve: Any) -> str:
        return ServeConfig.model_validate(serve).listen

    assert listen(models="/m") == "unix"
    assert listen(command=["x"]) == "tcp"
    assert listen(command=["x", "unix://{socket}"]) == "unix"
    assert listen(command=["x"], env={"SOCKET": "{socket}"}) == "unix"
    assert listen(command=["x", "{address}"], listen="unix") == "unix"


def test_a_relative_program_starts_from_the_folder_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    listener = "{bind: '127.0.0.1:0', protocol: tcp, pool: p}"
    pool = "{protocol: tcp, serve: {command: [./server, ./other]}}"
    file.write_text(f"listeners: {{raw: {listener}}}\npools: {{p: {pool}}}\n")
    found = load(file).pools["p"].serve
    assert found is not None
    assert found.command == [str(tmp_path / "server"), "./other"]
