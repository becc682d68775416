"""The demo model in the repository is right, and training again gives it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from backend_process import DIGITS

from backend.runtime import onnxruntime

MODEL = DIGITS / "models" / "digits" / "1" / "model.onnx"


def predict(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(t.name, t.type, t.shape) for t in session.get_inputs()] == [("image", "tensor(float)", ["N", 64])]
    return session.run(["label", "probabilities"], {"image": images})


def test_samples_are_held_out_digits_and_predicted():
    samples = json.loads((DIGITS / "samples.json").read_text())
    assert len(samples) == 16
    assert {sample["label"] for sample in samples} == set(range(10))
    images = np.array([sample["image"] for sample in samples], np.float32)
    assert images.shape == (16, 64)
    label, probabilities = predict(MODEL, images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (label == [sample["label"] for sample in samples]).mean() > 0.9
    assert MODEL.stat().st_size < 200_000


@pytest.mark.timeout(600)
def test_training_again_gives_the_same_samples_and_as_good_a_model(tmp_path):
    pytest.importorskip("skl2onnx", reason="training needs skl2onnx")
    done = subprocess.run(
        [sys.executable, str(DIGITS / "train.py"), "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "held-out accuracy 0.9" in done.stdout
    assert (tmp_path / "samples.json").read_text() == (DIGITS / "samples.json").read_text()
    images = np.array([sample["image"] for sample in json.loads((tmp_path / "samples.json").read_text())], np.float32)
    np.testing.assert_array_equal(
        predict(tmp_path / "models" / "digits" / "1" / "model.onnx", images)[0], predict(MODEL, images)[0]
    )
