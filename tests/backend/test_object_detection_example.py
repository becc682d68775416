"""The example of object detection: its boxes are where the words are, and it is scaled by its CPU use."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from backend_process import ROOT
from daemon import Daemon, eventually
from PIL import Image

EXAMPLE = ROOT / "examples" / "object-detection"
MODEL = ROOT / "examples" / "real-models" / "models" / "text-detection" / "1" / "model.onnx"
Box = tuple[int, int, int, int]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The example's folder of models, with the file that `make dev` has brought for another example."""
    folder = tmp_path / "models" / "text"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").symlink_to(MODEL)
    (folder / "config.yaml").write_bytes((EXAMPLE / "models" / "text" / "config.yaml").read_bytes())
    return folder.parent


def config(models: Path) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((EXAMPLE / "tidegate.yaml").read_text())
    del made["admin"]
    made["listeners"]["web"]["bind"] = "127.0.0.1:0"
    made["pools"]["detector"]["serve"].update(models=str(models), drain_timeout="10s")
    return made


def run(client: str, *arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, EXAMPLE / client, *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout


def truth(scene: int) -> list[Box]:
    """Where the words of an image are."""
    code = f"import sys; sys.path.insert(0, {str(EXAMPLE)!r}); import scenes; print(scenes.scene({scene}).boxes)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    found: list[Box] = list(ast.literal_eval(said))
    return found


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0, width) * max(0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / (areas - common)


def test_boxes_are_where_the_words_are(start: Callable[..., Daemon], models: Path, tmp_path: Path) -> None:
    daemon = start(config(models))
    server = f"127.0.0.1:{daemon.port()}"
    for scene in (1, 2, 3):
        said = run("detect.py", "--scene", str(scene), "--output", tmp_path, "--server", server)
        boxes = [ast.literal_eval(line) for line in re.findall(r"\(.*\)", said)]
        words = truth(scene)
        assert len(boxes) == len(words)
        for word in words:
            assert max(overlap(word, box) for box in boxes) > 0.4
        drawn = np.asarray(Image.open(tmp_path / f"scene-{scene}-found.png"))
        for left, top, right, bottom in boxes:
            assert (drawn[(top + bottom) // 2, [left, right]] == (255, 0, 0)).all()
    run("detect.py", "--scene", "1", "--output", tmp_path, "--server", server)
    hits = daemon.metrics("tidegate_cache_requests_total")[frozenset({("result", "hit"), ("route", "rest")})]
    assert hits == 1


def test_it_is_scaled_up_under_load_and_down_after_it(start: Callable[..., Daemon], models: Path) -> None:
    made = config(models)
    step = made["pools"]["detector"]["scaling"]["step"]
    assert [(alarm["comparison"], alarm["threshold"]) for alarm in step["alarms"]] == [("above", 70), ("below", 30)]
    # However little of a busy machine a model server gets.
    step.update(period="1s", cooldown="1s")
    for alarm, threshold in zip(step["alarms"], (4, 2), strict=True):
        alarm["threshold"] = threshold
    daemon = start(made)

    def wanted() -> int:
        return int(daemon.pool("detector")["managed"]["wanted"])

    load = subprocess.Popen(
        [sys.executable, EXAMPLE / "load.py", "--server", f"127.0.0.1:{daemon.port()}", "--admin", daemon.socket],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        eventually(lambda: wanted() > 1 or load.poll() is not None, "it is scaled up", 60)
        assert load.poll() is None, load.communicate()[0]
    finally:
        load.kill()
        said, _ = load.communicate()
    assert "6 clients" in said
    eventually(lambda: wanted() == 1, "it is scaled down", 60)
    reasons = [event["reason"] for event in daemon.pool("detector")["managed"]["scaling"]["events"]]
    assert "above 4" in reasons[0]
    assert "below 2" in reasons[-1]
