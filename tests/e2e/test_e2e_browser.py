"""What only a browser can say: whether pages of other origins may ask, and how the dashboard looks to a reader."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from browser import Answer, origin, page_of, tables_of
from daemon import Daemon, eventually, http_listener, route

Start = Callable[..., Daemon]
NONE = "\N{EN DASH}"
# A preflight request goes before each of these: of the content type, or of a header that pages may not always send.
SCRIPT = """
const gate = "http://127.0.0.1:%d", found = {};
const body = JSON.stringify({ inputs: [{ name: "x", shape: [1], datatype: "FP32", data: [1.5] }] });
const as = (type, more) => ({ method: "POST", body, headers: { "Content-Type": type, ...more } });
const ask = async (name, path, options) => {
  try {
    const answer = await fetch(gate + path, options);
    const bytes = [...new Uint8Array(await answer.arrayBuffer())];
    const [exposed, hidden] = [answer.headers.get("retry-after"), answer.headers.get("x-tidegate-endpoint")];
    found[name] = { status: answer.status, text: String.fromCharCode(...bytes), exposed, hidden };
  } catch (error) {
    found[name] = error.name;
  }
};
(async () => {
  const frame = new Uint8Array([0, 0, 0, 0, 3, 10, 1, 109]);
  const web = { "Content-Type": "application/grpc-web+proto", "x-grpc-web": "1" };
  await ask("json", "/cors/v2/models/m/infer", as("application/json", {}));
  await ask("web", "/inference.GRPCInferenceService/ModelInfer", { method: "POST", body: frame, headers: web });
  await ask("busy", "/busy", as("application/json", {}));
  await ask("header", "/busy", as("application/json", { "x-own": "1" }));
  await ask("nobody", "/nobody", as("application/json", {}));
  await ask("simple", "/nobody", {});
  document.body.textContent = JSON.stringify(found);
})();
"""


def test_pages_of_another_origin(start: Start, stub: Callable[[], str], tmp_path: Path) -> None:
    script: list[str] = []

    def page(path: str) -> Answer:
        return 200, "text/html", f"<!doctype html><title>x</title><body><script>{script[0]}</script>".encode()

    with origin(page) as own:
        cors = {"allow_origins": [own]}
        models = {"protocol": "oip", "endpoints": [stub()]}
        daemon = start(
            {
                "listeners": {
                    "web": http_listener(
                        route("/cors/", "json", cors=cors, rewrite={"prefix": "/"}, expose_endpoint=True),
                        route("/inference.", "web", cors=cors),
                        route("/busy", "busy", cors=cors),
                        {"match": {"path": {"prefix": "/nobody"}}, "respond": {"status": 200, "body": "seen"}},
                    )
                },
                "pools": {
                    "json": models,
                    "web": models,
                    "busy": {"protocol": "http", "endpoints": [{"address": "127.0.0.1:1", "weight": 0}]},
                },
            }
        )
        script.append(SCRIPT % daemon.port())
        found = json.loads(re.findall(r"<body>(.*)</body>", page_of(own, str(tmp_path / "profile")), re.S)[0])
    assert (found["json"]["status"], found["json"]["hidden"]) == (200, None)
    assert json.loads(found["json"]["text"])["outputs"][0]["data"] == [1.5]
    assert found["web"]["status"] == 200
    assert "grpc-status: 0\r\n" in found["web"]["text"]
    assert (found["busy"]["status"], found["busy"]["exposed"]) == (503, "1")
    assert {name: found[name] for name in ("header", "nobody", "simple")} == dict.fromkeys(
        ("header", "nobody", "simple"), "TypeError"
    )


async def test_the_dashboard(
    start: Start, endpoint: Callable[..., Any], stub: Callable[[], str], tmp_path: Path
) -> None:
    first, second = await endpoint("a"), await endpoint("b")
    daemon = start(
        {
            "zone": "near",
            "cache": {},
            "listeners": {
                "web": http_listener(
                    route("/v2/", "models"),
                    route("/uncached/", "models", name="uncached", rewrite={"prefix": "/"}, cache=False),
                    route("/", "plain"),
                )
            },
            "pools": {
                "plain": {"protocol": "http", "endpoints": [first.address]},
                "levels": {
                    "protocol": "http",
                    "endpoints": [
                        {"address": first.address, "zone": "near"},
                        {"address": second.address, "zone": "<b>far"},
                        {"address": "127.0.0.1:9", "priority": 1},
                    ],
                    "zones": {},
                },
                "app": {
                    "protocol": "http", "endpoints": [first.address], "max_in_flight": 3,
                    "affinity": {"learn": {"cookie": "SID"}},
                },
                "models": {"protocol": "oip", "endpoints": [stub()], "cost": "batch"},
            },
        }
    )  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{daemon.port()}/uncached/v2/models/m/infer",
        json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}).encode(),
        {"Content-Type": "application/json"},
    )

    def learned() -> bool:
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
        return bool(daemon.pool("models")["cost"]["models"])

    await asyncio.to_thread(eventually, learned, "a learned cost")

    request.full_url = f"http://127.0.0.1:{daemon.port()}/v2/models/m/infer"
    for _ in range(4):
        urllib.request.urlopen(request, timeout=20).close()

    daemon.path.write_text("listeners: 7\n")
    assert daemon.admin("/api/v1/reload", "POST")[0] == 409

    def admin(path: str) -> Answer:
        status, found = daemon.admin(path)
        return status, "text/html" if path == "/" else "text/plain", found

    with origin(admin) as own:
        page = await asyncio.to_thread(page_of, f"{own}/", str(tmp_path / "profile"))
    tables = {" ".join(table[0]): table[1:] for table in tables_of(page)}
    common, rest = "endpoint health admin weight in flight", "requests/s errors/s mean last check"
    assert [row[0] for row in tables[f"{common} {rest}"]] == [first.address]
    assert [row[5:7] for row in tables[f"{common} priority zone {rest}"]] == [
        ["0", "near"],
        ["0", "<b>far"],
        ["1", NONE],
    ]
    assert tables[f"{common} priority zone {rest}"][2][-1].endswith("; priority 1: priority 0 has all requests")
    assert tables["priority healthy could carry requests own zone other zones"] == [
        ["0", "2 of 2", "100 %", "100 %", "100 %", "0 %"],
        ["1", "1 of 1", "100 %", "0 %", NONE, NONE],
    ]
    assert [row[5] for row in tables[f"{common} sessions {rest}"]] == ["0"]
    assert [row[5] for row in tables[f"{common} cost {rest}"]] == ["0"]
    ((model, relative, unit, samples),) = tables["cost by batch: model relative time for a unit learned from"]
    assert (model, relative) == ("m", "1")
    assert re.fullmatch(r"[0-9.e-]+ ms", unit)
    assert int(samples) > 0
    head = "hit ratio lately last two minutes hits stale misses compute saved entries bytes evictions rejected purges"
    ((hits, lately, _, *counts),) = tables[head]
    assert (hits, lately, counts[:3], counts[4], counts[6:]) == ("75 %", NONE, ["3", "0", "1"], "1", ["0", "0", "0"])
    assert re.fullmatch(r"[0-9.]+ ms", counts[3])
    assert counts[5] == "512 B"
    assert re.search(r"Result cache <small>512 B of [0-9.]+ MiB · [0-9.]+ ms of compute saved</small>", page)
    assert "· 0 waiting · 0 sessions" in page
    assert re.search(r'<span id="trouble"[^>]*>last reload failed: [^<]*listeners: must be a mapping', page)
    assert re.search(r'<span id="problem"[^>]*></span>', page), "a script failed"
