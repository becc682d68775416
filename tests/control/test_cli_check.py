"""`tidegate check` says what a start would find out."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Any

import forked
import pytest
import yaml
from authority import Authority
from control_daemon import ROOT, configuration, listener

from lb.control.preflight import MODEL_SERVER
from lb.control.servers.model_file import model_problem

MODEL = b"\x08\x08"  # ir_version: 8


def check(folder: Path, config: dict[str, Any], code: str = "") -> tuple[int, list[str]]:
    """The exit status and the lines of errors and warnings, without the file; `code` runs in the command first."""
    path = folder / "tidegate.yaml"
    path.write_text(yaml.safe_dump(config))
    program = f"{code}\nimport sys\nfrom lb.cli import main\nsys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = forked.run(["-c", program, "check", "-c", str(path)], env=environment, cwd=folder)
    assert "Traceback" not in done.stderr
    lines = [line.removeprefix(f"{path}:").partition(": ")[2] for line in done.stderr.splitlines()]
    assert all(line.startswith(f"{path}:") for line in done.stderr.splitlines())
    return done.returncode, lines


def served(folder: Path) -> dict[str, Any]:
    pools = {"up": {"protocol": "oip", "serve": {"models": str(folder / "models")}}}
    return configuration(folder, pools=pools)


def test_a_model_folder_without_a_model(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    place = "pools.up.serve.models"
    assert check(tmp_path, served(tmp_path)) == (
        1,
        [f"{place}: {models}: has no model; put one at {models}/NAME/1/model.onnx"],
    )
    (models / "digits" / "1").mkdir(parents=True)
    said = f"{place}: {models}/digits: has no version; put one at {models}/digits/1/model.onnx"
    assert check(tmp_path, served(tmp_path)) == (1, [said])
    (models / "digits" / "config.pbtxt").touch()  # which may give the file another name
    assert check(tmp_path, served(tmp_path)) == (0, [])
    (models / "digits" / "config.pbtxt").unlink()
    (models / "digits" / "1" / "model.onnx").write_bytes(MODEL)
    assert check(tmp_path, served(tmp_path)) == (0, [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"this is no model", "is not an ONNX model: it is no protobuf message"),
        (b"\x00" * 64, "is not an ONNX model: it is no protobuf message"),
        (b"\x80" * 64, "is not an ONNX model: it is no protobuf message"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a pointer of Git LFS"),
        (b"\x12\x01x", "is not an ONNX model: it has neither ir_version nor graph"),
        (b"\x08\x08\x3a\x7f\x00", "is cut short"),
        (b"\x08\x08", ""),
        (b"\x3a\x02\x12\x00", ""),  # the graph first, or alone
        (b"\x12\x01x\x3a\x00\x08\x08", ""),
        (b"\x08\x08\x49" + b"\x00" * 8 + b"\x55" + b"\x00" * 4, ""),  # fields of other types, of later versions
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "models" / "x" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    status, lines = check(tmp_path, served(tmp_path))
    if not said:
        assert (status, lines) == (0, [])
    else:
        (line,) = lines
        assert (status, line.startswith(f"pools.up.serve.models: {file}: {said}")) == (1, True), line


def test_a_large_model_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    with open(file, "wb") as stream:
        stream.write(b"\x08\x08\x3a\x80\x80\x80\x80\x40" + b"\x00")  # a graph of 16 GiB
        stream.truncate(8 + (16 << 30))
    assert model_problem(file) == ""
    with open(file, "r+b") as stream:
        stream.truncate(1 << 30)
    assert model_problem(file) == "is cut short"


def test_a_real_model(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    assert model_problem(tmp_path / "model.onnx") == ""


@pytest.mark.parametrize(
    ("module", "package"),
    [("onnxruntime", "onnxruntime"), ("numpy", "numpy"), ("grpc_reflection", "grpcio-reflection")],
)
def test_the_extra_of_the_model_server_is_missing(tmp_path: Path, module: str, package: str) -> None:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1" / "model.onnx").write_bytes(MODEL)
    hide = (
        "import importlib.util as u\nfind = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name == {module!r} else find(name, *rest)"
    )
    status, lines = check(tmp_path, served(tmp_path), hide)
    said = f"pools.up.serve: the model server cannot start without {package}: pip install 'tidegate[cpu]'"
    assert (status, [line[: len(said)] for line in lines]) == (1, [said])


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_what_is_looked_for_is_what_the_extra_brings(extra: str) -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    brought = {re.split("[^a-z-]", dependency)[0].removesuffix("-gpu") for dependency in dependencies}
    optional = {"nvidia-ml-py"} if extra == "gpu" else set()  # without it there are no metrics of GPUs
    assert set(MODEL_SERVER.values()) == brought - optional


def test_sockets_and_files_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    config = configuration(tmp_path, admin={"bind": f"unix:{tmp_path}/gone/admin.sock"})
    config["listeners"]["other"] = listener(f"unix:{tmp_path}/plain")
    config["pools"]["found"] = {
        "protocol": "http",
        "discover": {"file": {"path": str(tmp_path / "endpoints.yaml")}, "initial": "required"},
    }
    status, lines = check(tmp_path, config)
    assert status == 1
    assert sorted(lines) == [
        f"admin.bind: {tmp_path}/gone: there is no such folder",
        f"listeners.other.bind: {tmp_path}/plain: exists and is not a socket",
        f"pools.found.discover.file.path: {tmp_path}/endpoints.yaml: cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_addresses_that_are_taken_are_warnings(tmp_path: Path, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        config = configuration(tmp_path)
        if kind == socket.SOCK_STREAM:
            config["listeners"]["web"]["bind"] = bind
        else:
            config["listeners"]["web"] = {"bind": bind, "protocol": "udp", "pool": "udp"}
            config["pools"]["udp"] = {"protocol": "udp", "endpoints": ["127.0.0.1:9"]}
        status, lines = check(tmp_path, config)
    assert status == 0
    assert [line.partition(" (")[0] for line in lines] == [f"listeners.web.bind: warning: somebody has {bind} now"]


def test_more_addresses_than_a_listener_may_have_are_one_problem(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["listeners"]["web"]["bind"] = "192.0.2.7:2000-9999"
    assert check(tmp_path, config) == (1, ["listeners.web.bind: is 8000 sockets, and 1024 are the most"])


def test_an_address_of_another_machine_is_a_warning(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["listeners"]["web"]["bind"] = "192.0.2.7:0"
    said = "listeners.web.bind: warning: no interface of this machine has 192.0.2.7"
    assert check(tmp_path, config) == (0, [said])


def test_an_endpoint_file_that_may_come_later_is_a_warning(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["pools"]["found"] = {"protocol": "http", "discover": {"file": {"path": str(tmp_path / "e.yaml")}}}
    status, (line,) = check(tmp_path, config)
    assert status == 0
    assert line.startswith("pools.found.discover.file.path: warning: ")


@pytest.mark.parametrize(
    ("start", "days", "said"), [(-20, -1, "has expired"), (1, 30, "is not valid yet"), (-90, 3, "expires on 2")]
)
def test_certificates_that_are_not_valid_are_warnings(tmp_path: Path, start: float, days: float, said: str) -> None:
    pair = Authority().issue("example.org", start=start, days=days)
    (tmp_path / "site.pem").write_bytes(pair.chain)
    (tmp_path / "site.key").write_bytes(pair.key)
    config = configuration(tmp_path)
    files = {"cert": "site.pem", "key": "site.key"}
    config["listeners"]["web"].update(protocol="https", tls={"certificates": [files]})
    status, (line,) = check(tmp_path, config)
    assert status == 0
    assert line.startswith(f"listeners.web.tls: warning: the certificate {tmp_path}/site.pem {said}")


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    def said(**serve: Any) -> tuple[int, list[str]]:
        pools = {"up": {"protocol": "http", "serve": serve}}
        return check(tmp_path, configuration(tmp_path, pools=pools))

    place = "pools.up.serve.command"
    wanted = f"{place}: no-such-program: there is no such program in PATH that this user may run"
    assert said(command=["no-such-program"]) == (1, [wanted])
    wanted = f"{place}: {tmp_path}/server: there is no such program that this user may run"
    assert said(command=["./server"]) == (1, [wanted])
    (tmp_path / "server").touch(mode=0o755)
    assert said(command=["./server"]) == (0, [])
    assert said(command=["server"], env={"PATH": str(tmp_path)}) == (0, [])


def test_gpus_and_cores_that_are_not_there(tmp_path: Path) -> None:
    serve = {"command": ["sleep", "60"], "min": 2, "standby": 1, "gpus": 1}
    config = configuration(tmp_path, pools={"up": {"protocol": "http", "serve": serve}})
    there = "3 gpus are wanted by the servers of all pools together, and there are 2: some servers will wait"
    code = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = '0,1'"
    assert check(tmp_path, config, code) == (0, [f"pools.up.serve.gpus: warning: {there}"])
    assert check(tmp_path, config, code.replace("0,1", "0,1,2")) == (0, [])


def test_ranges_of_ports_that_are_too_small(tmp_path: Path) -> None:
    def said(**serve: Any) -> list[str]:
        pools = {"up": {"protocol": "http", "serve": {"command": ["sleep", "60"], **serve}}}
        code, found = check(tmp_path, configuration(tmp_path, pools=pools))
        assert code == 0
        return found

    start = "pools.up.serve.port: warning: has"
    assert said(port=9000) == [
        f"{start} 1 port; a reload that changes the servers takes 2, as new ones start beside the old: it would wait "
        "for free ports"
    ]
    assert said(port="9000-9002", min=2)[0].startswith(f"{start} 3 ports; a reload that changes the servers takes 4")
    assert said(port="9000-9001", min=2, standby=1) == [f"{start} 2 ports for 3 servers: those beyond will not start"]
    assert said(port="9000-9003", min=2) == []
    assert said() == []


@pytest.mark.parametrize("key", ["rewrite", "redirect"])
def test_an_expression_that_matches_no_path_of_its_route_is_a_warning(tmp_path: Path, key: str) -> None:
    def routes(*wanted: tuple[dict[str, str] | None, str]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for i, (path, pattern) in enumerate(wanted):
            match: dict[str, Any] = {"host": f"h{i}.org"} | ({} if path is None else {"path": path})
            action = {key: {"regex": {"pattern": pattern, "substitution": "/x"}}}
            made.append({"match": match, **action, **({"pool": "app"} if key == "rewrite" else {})})
        return made

    never = (
        ({"exact": "/a/b"}, "^/b"),
        ({"exact": "/a/b"}, "c$"),
        ({"prefix": "/v1/"}, r"^/v2/(.*)"),
        ({"prefix": "/v1/"}, r"^/v1\.0/"),
        ({"template": "/m/{name}/x"}, "^/n"),
        (None, "^v1/"),
        ({"regex": "^/a"}, "^a+"),
    )
    perhaps = (
        ({"exact": "/a/b"}, "/b$"),
        ({"prefix": "/v1/"}, "^/v1/x/y"),
        ({"prefix": "/v1/"}, "^/v"),
        ({"prefix": "/v1/"}, "^/v2?1/"),
        ({"prefix": "/v1/"}, "^/v(1|2)/"),
        ({"prefix": "/v1/"}, "^/v2|x"),
        ({"prefix": "/v1/"}, "(?i)^/V1"),
        ({"prefix": "/v1/"}, "b/c"),
        ({"prefix": "/v1/"}, r"^/\w+"),
        ({"template": "/{name}/x"}, "^/n"),
        ({"regex": "^/a"}, "^/b"),
        (None, r"^\*"),
        (None, "^/+a"),
    )
    config = configuration(tmp_path)
    config["pools"] = {"app": {"protocol": "http", "endpoints": ["127.0.0.1:9"]}}
    config["listeners"]["web"]["routes"] = routes(*never, *perhaps)
    status, lines = check(tmp_path, config)
    assert status == 0, lines
    places = [f"listeners.web.routes[{i}].{key}.regex.pattern" for i in range(len(never))]
    assert [line.partition(": ")[0] for line in lines] == places
    assert lines[2].endswith("warning: '^/v2/(.*)' is never found: the route takes paths that begin with '/v1/'")
    assert lines[1].endswith("warning: 'c$' is never found: the route takes the path '/a/b'")
