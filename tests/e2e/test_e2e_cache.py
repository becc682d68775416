"""An operator looks at the result cache, purges it and fills it, while the daemon serves."""

from __future__ import annotations

import base64
import json
import struct
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import Daemon, http_listener, route

Start = Callable[..., Daemon]
Stub = Callable[[], str]


def config(stub: str, **cache: Any) -> dict[str, Any]:
    pool = {"protocol": "oip", "endpoints": [stub]}
    routes = [route("/v2", "one"), route("/two/v2", "two", rewrite={"prefix": "/v2"})]
    return {"listeners": {"web": http_listener(*routes)}, "cache": cache, "pools": {"one": pool, "two": pool}}


def infer(daemon: Daemon, path: str = "/v2/models/m/infer", value: float = 1.5) -> str:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [value]}]}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port()}{path}", body, timeout=20) as answer:
        assert json.loads(answer.read())["outputs"][0]["data"] == [value]
        return str(answer.headers["Cache-Status"]).removeprefix("tidegate; ").split("; ttl=")[0]


def said(daemon: Daemon, *arguments: str) -> str:
    done = daemon.command("cache", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(daemon: Daemon, *arguments: str) -> str:
    done = daemon.command("cache", *arguments)
    assert done.returncode == 1, done.stdout
    return done.stderr.strip()


def test_what_is_there_and_what_it_saved(start: Start, stub: Stub) -> None:
    daemon = start(config(stub()))
    assert said(daemon, "top").strip() == "the cache is empty"
    assert infer(daemon) == "fwd=miss; stored"
    assert infer(daemon, value=2.5) == "fwd=miss; stored"
    assert infer(daemon, "/two/v2/models/other/versions/3/infer") == "fwd=miss; stored"
    assert [infer(daemon) for _ in range(2)] == ["hit"] * 2
    found = json.loads(said(daemon, "stats", "--json"))
    assert (found["entries"], found["hits"], found["misses"], found["stored"]) == (3, 2, 3, 3)
    assert found["hit_ratio"] == 0.4
    assert found["saved_s"] > 0
    assert found["rejected"] == {"busy": 0, "size": 0, "purged": 0, "value": 0}
    (row,) = [row for row in found["routes"] if row["hit"]]
    assert (row["hit"], row["miss"], row["stored"], row["hit_ratio"]) == (2, 2, 2, 0.5)
    text = said(daemon, "stats")
    assert "requests   5: 2 hits (0 stale), 3 misses" in text
    assert "hit ratio  40.0%" in text
    top = json.loads(said(daemon, "top", "--json"))
    assert top["share"] == 1
    assert (top["entries"][0]["requests"], top["entries"][0]["model"], top["entries"][0]["pool"]) == (2, "m", "one")
    assert sorted((e["pool"], e["model"]) for e in top["entries"]) == [("one", "m"), ("one", "m"), ("two", "other")]
    lines = [line.split() for line in said(daemon, "top", "--last", "1").splitlines()]
    assert lines[1][:3] == ["2", "one", "m"]
    assert len(lines) == 2


def test_a_purge_takes_what_is_named(start: Start, stub: Stub) -> None:
    daemon = start(config(stub()))
    paths = ["/v2/models/m/infer", "/v2/models/n/infer", "/v2/models/m/versions/7/infer", "/two/v2/models/m/infer"]

    def taken(*arguments: str) -> list[bool]:
        for path in paths:
            infer(daemon, path)
        assert [infer(daemon, path) for path in paths] == ["hit"] * 4
        said(daemon, "purge", *arguments)
        return [infer(daemon, path) != "hit" for path in paths]

    assert taken("--model", "n") == [False, True, False, False]
    assert taken("--model", "m") == [True, False, True, True]
    assert taken("--model", "m", "--pool", "two") == [False, False, False, True]
    assert taken("--model", "m", "--version", "7", "--pool", "one") == [True, False, True, False]
    assert taken("--model", "m", "--version", "8", "--pool", "one") == [True, False, False, False]
    assert taken("--pool", "one") == [True, True, True, False]
    assert taken("--tag", "model:two/m") == [False, False, False, True]
    assert taken("--tenant", "nobody") == [False] * 4
    assert taken("--all") == [True] * 4
    assert said(daemon, "purge", "--model", "a/b", "--pool", "one") == "purged model:one/a%2Fb\n"
    assert said(daemon, "purge", "--all") == "purged all of the cache\n"
    assert json.loads(said(daemon, "stats", "--json"))["purges"] > 0


def test_what_cannot_be_purged(start: Start, stub: Stub) -> None:
    daemon = start(config(stub()))
    assert refused(daemon, "purge") == "tidegate: say what to purge: --model, --pool, --tenant, --tag, --url, or --all"
    assert refused(daemon, "purge", "--pool", "onr") == "tidegate: there is no pool 'onr'; did you mean one?"
    assert refused(daemon, "purge", "--version", "1") == "tidegate: version: of which model?"
    assert "leave the rest out" in refused(daemon, "purge", "--all", "--pool", "one")
    for body, words in (
        ("{}", "nothing is named"),
        ('{"models": "m"}', "models: Extra inputs"),
        ('{"tag": ""}', "tag: String should have at least 1 character"),
        ("[", "body: Invalid JSON"),
    ):
        code, answer = daemon.admin("/api/v1/cache/purge", "POST", body)
        assert code == 400
        assert words in json.loads(answer)["error"]
    for path in ("/api/v1/cache/top?last=0", "/api/v1/cache/top?last=1001", "/api/v1/cache/top?last=x"):
        assert daemon.admin(path)[0] == 400
    assert daemon.admin("/api/v1/cache/purge")[0] == 405


def test_without_a_cache(start: Start, stub: Stub) -> None:
    made = config(stub())
    del made["cache"]
    daemon = start(made)
    for arguments in (["stats"], ["top"], ["purge", "--all"], ["purge", "--pool", "one"]):
        assert "there is no result cache" in refused(daemon, *arguments)


def test_recorded_requests_fill_it(start: Start, stub: Stub, tmp_path: Path) -> None:
    daemon = start(config(stub()))

    def line(value: float, **more: Any) -> str:
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [value]}]}
        return json.dumps({"path": "/v2/models/m/infer", "body": body, **more})

    file = tmp_path / "requests.jsonl"
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    header = json.dumps({"inputs": [tensor]}).encode()
    binary = {
        "path": "/v2/models/m/infer",
        "headers": {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
        "body_base64": base64.b64encode(header + struct.pack("<f", 1.5)).decode(),
    }
    file.write_text("\n".join([*(line(n) for n in range(50)), "", line(0.0), line(7.0), json.dumps(binary)]))
    done = daemon.command("cache", "warm", str(file), "--listener", "web", "--concurrency", "1")
    assert done.stdout == "53 requests: 2 hits, 51 stored, 0 failed\n", done.stderr
    assert done.returncode == 0
    assert infer(daemon, value=49.0) == "hit"
    assert infer(daemon) == "hit", "the binary one"

    file.write_text("\n".join([line(100.0), line(0.0, path="/v2/models/m/infer?", body="no"), line(1.0, path="/x")]))
    done = daemon.command("cache", "warm", str(file), "--listener", f"http://127.0.0.1:{daemon.port()}")
    assert done.returncode == 1
    assert sorted(done.stderr.splitlines()) == ["line 2: answered with 400", "line 3: answered with 404"]
    assert done.stdout == "3 requests: 1 stored, 2 failed\n"

    for text, words in (("{", "requests.jsonl:1: no request: Expecting"), ('{"path": "x"}', "path: is text"),
                        ('{"path": "/", "bodi": 1}', "unknown key 'bodi'"), ("[1]", "is a JSON object"),
                        ('{"path": "/", "body_base64": "*"}', "body_base64: ")):  # fmt: skip
        file.write_text(text)
        assert words in refused(daemon, "warm", str(file))
    assert "cannot be read: No such file" in refused(daemon, "warm", str(tmp_path / "none"))
    assert "there is no HTTP listener 'wep'" in refused(daemon, "warm", str(file), "--listener", "wep")
