"""The example with models of packages: its clients do what they are for, and the servers merge what may be merged."""

from __future__ import annotations

import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from backend_process import ROOT, Backend, until
from daemon import Daemon
from kind_clients import Clients, Question
from model_kinds import Bare
from PIL import Image, ImageDraw, ImageFont
from scipy.signal import lfilter, resample_poly

from backend.repository.warmup import TOLERANCE
from lb.wire import grpc_service_pb2 as wire

EXAMPLE = ROOT / "examples" / "real-models"
RATE = 16_000
LINES = ("The tide turns at 6:45", "Gate 12 is open.", "Total: 1,234.50 EUR")
VOWELS = {"a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "o": (570, 840, 2410)}


def page() -> Image.Image:
    """LINES, and one that stands on its head."""
    made = Image.new("RGB", (900, 420), "white")
    font = ImageFont.load_default(size=40)
    for i, line in enumerate(LINES):
        ImageDraw.Draw(made).text((40, 30 + 90 * i), line, font=font, fill="black")
    turned = Image.new("RGB", (500, 80), "white")
    ImageDraw.Draw(turned).text((20, 15), "Upside down 42", font=font, fill="black")
    made.paste(turned.rotate(180), (380, 330))
    return made


def voice(text: str) -> np.ndarray:
    """Vowels as a vocal tract makes them: pulses through three resonances, with a hiss between."""
    random, parts = np.random.default_rng(1), []
    for vowel in text:
        t = np.arange(RATE * 16 // 100) / RATE
        pitch = 120 * (1 + 0.15 * np.sin(2 * np.pi * 3 * t + random.uniform(0, 6)))
        pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0)
        source = lfilter([1], [1, -0.95], pulses) + 0.01 * random.standard_normal(len(t))
        loudness = np.minimum(1, np.minimum(t / 0.03, (t[-1] - t) / 0.05))
        parts.append(
            loudness * sum(resonance(source, f) * part for f, part in zip(VOWELS[vowel], (1, 0.6, 0.3), strict=True))
        )
        hiss = random.standard_normal(RATE // 20)
        parts.append(0.02 * np.hanning(len(hiss)) * lfilter([1, -0.9], [1], hiss))
    made = np.concatenate(parts)
    return made / np.abs(made).max() / 2


def resonance(source: np.ndarray, frequency: float) -> np.ndarray:
    radius = np.exp(-np.pi * (80 + frequency * 0.04) / RATE)
    return lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius * radius], source)


def talk() -> np.ndarray:
    """1.5 s of silence, 2.5 s of speech, 2 s of silence, 1.7 s of speech, 1 s of silence: all with a faint noise."""
    parts = [np.zeros(RATE * 3 // 2), voice("aieoeaioeaoi"), np.zeros(RATE * 2), voice("eoaieaoi"), np.zeros(RATE)]
    sound = np.concatenate(parts)
    return sound + 0.003 * np.random.default_rng(0).standard_normal(len(sound))


def save_wave(path: Path, sound: np.ndarray, rate: int, channels: int) -> None:
    samples = np.clip(np.repeat(sound[:, None], channels, axis=1) * 32767, -32768, 32767)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def test_what_the_clients_say(tmp_path: Path, start: Callable[..., Daemon]) -> None:
    config = yaml.safe_load((EXAMPLE / "tidegate.yaml").read_text())
    del config["admin"]
    config["listeners"]["web"]["bind"] = "127.0.0.1:0"
    config["pools"]["models"]["serve"].update(models=str(EXAMPLE / "models"), drain_timeout="10s")
    daemon = start(config)

    def said(client: str, *arguments: str | Path) -> list[str]:
        command = [sys.executable, EXAMPLE / client, "--server", f"127.0.0.1:{daemon.port()}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    page().save(tmp_path / "page.png")
    assert [line[6:] for line in said("read_text.py", tmp_path / "page.png")] == [*LINES, "Upside down 42"]

    (tmp_path / "nothing").write_bytes(b"1234567")
    files = [
        ROOT / "README.md",
        Path(__file__),
        tmp_path / "page.png",
        ROOT / "configs" / "demo.yaml",
        tmp_path / "nothing",
    ]
    types = [line.rpartition(": ")[2] for line in said("file_type.py", *files)]
    assert types == ["markdown", "python", "png", "yaml", "too short to tell"]
    said("file_type.py", *files)
    hits = daemon.metrics("tidegate_cache_requests_total")[frozenset({("result", "hit"), ("route", "rest")})]
    assert hits == len(files) - 1

    save_wave(tmp_path / "talk.wav", talk(), RATE, 1)
    save_wave(tmp_path / "cd.wav", resample_poly(talk(), 441, 160), 44_100, 2)
    for name in ("talk.wav", "cd.wav"):
        found = [tuple(map(float, line.split(" to "))) for line in said("find_speech.py", tmp_path / name)]
        assert found == [pytest.approx((1.5, 4.0), abs=0.4), pytest.approx((6.0, 7.7), abs=0.4)]


@pytest.fixture
def server() -> Iterator[Backend]:
    """Holds requests for a moment, so that some run together however fast the machine is."""
    arguments = ("--threads", "1", "--concurrency", "2", "--max-queue-delay", "20ms")
    with Backend(EXAMPLE / "models", *arguments) as backend:
        yield backend.wait_ready()


def feeds(model: str, random: np.random.Generator) -> dict[str, np.ndarray]:
    """As the clients send them, of few sizes."""
    if model == "file-type":
        return {"bytes": random.integers(0, 257, (1, 2048)).astype("i4")}
    if model == "speech":
        sound, state = random.standard_normal((1, 576)) / 5, random.standard_normal((2, 1, 128)) / 5
        return {"input": sound.astype("f4"), "state": state.astype("f4"), "sr": np.array(RATE)}
    shapes = {"text-detection": (64, 96), "text-direction": (48, 192), "text-recognition": (48, 160)}
    return {"x": random.uniform(-1, 1, (1, 3, *shapes[model])).astype("f4")}


async def test_which_of_them_are_merged_and_that_answers_stay_the_same(server: Backend) -> None:
    random = np.random.default_rng(2)
    clients = Clients(int(server.targets[0].rpartition(":")[2]))
    names = sorted(path.name for path in (EXAMPLE / "models").iterdir())
    for name in names:
        bare = Bare(EXAMPLE / "models" / name / "1" / "model.onnx")
        questions = [Question(str(i), name, bare.inputs, feeds(name, random)) for i in range(16)]
        for question, reply in zip(questions, await clients.ask("raw", questions), strict=True):
            expected = bare.run(question.feeds)
            assert expected is not None
            assert reply.tensors is not None, reply.reason
            for output, values in expected.items():
                assert np.allclose(reply.tensors[output], values, rtol=TOLERANCE[4], atol=TOLERANCE[4] / 100), name
    # ONNX Runtime ends its process at this: the model has an LSTM within its branches.
    nobody = {"input": np.zeros((0, 576), "f4"), "state": np.zeros((2, 0, 128), "f4"), "sr": np.array(RATE)}
    (reply,) = await clients.ask(
        "raw", [Question("1", "speech", {"input": "FP32", "state": "FP32", "sr": "INT64"}, nobody)]
    )
    assert "[0,576] has no elements" in reply.reason
    counted = (await clients.stub.ModelStatistics(wire.ModelStatisticsRequest())).model_stats
    await clients.close()
    runs = {one.name: one.execution_count for one in counted}
    assert runs.pop("speech") == 16
    assert names == sorted([*runs, "speech"])
    assert max(runs.values()) < 16
    line = "model speech version 1: no batching: an input or output has a fixed first dimension"
    until(lambda: line in server.log, "no line")
