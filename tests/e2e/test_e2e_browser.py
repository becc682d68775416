"""What only a browser can say: whether pages of other origins may ask."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from browser import Answer, origin, page_of
from daemon import Daemon, http_listener, route

Start = Callable[..., Daemon]
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
