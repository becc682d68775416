"""Finds speech in a sound file: `python find_speech.py FILE.wav` prints from when to when somebody speaks, in seconds.

The sound goes through one gRPC connection, 32 ms at a time. The model keeps nothing between two requests: its state
comes with each answer and goes along with the next request, so each may be answered by another server.
"""

from __future__ import annotations

import argparse
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from scipy.signal import resample_poly

RATE = 16_000  # samples a second
STEP, BEFORE = 512, 64  # samples of a request that are new, and those in front of them
BEGINS, ENDS = 0.5, 0.35  # probabilities at which speech begins and ends
SHORTEST, PAUSE = 0.25, 0.1  # seconds of speech, and of a pause that ends it


def sound(path: Path) -> np.ndarray:
    """Samples from -1 to 1, mono, RATE a second; of a file with 16 bits a sample."""
    with wave.open(str(path)) as file:
        if file.getsampwidth() != 2:
            raise SystemExit(f"{path}: expected 16 bits a sample, got {8 * file.getsampwidth()}")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        rate = file.getframerate()
    mono = samples.mean(axis=1) / 32768
    return resample_poly(mono, RATE, rate).astype(np.float32) if rate != RATE else mono.astype(np.float32)


def tensor(name: str, datatype: str, values: np.ndarray) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def probabilities(server: str, samples: np.ndarray) -> Iterator[float]:
    """Of speech, for each STEP samples."""
    padded = np.concatenate([np.zeros(BEFORE, np.float32), samples, np.zeros(-len(samples) % STEP, np.float32)])
    state = np.zeros((2, 1, 128), np.float32)
    rate = tensor("sr", "INT64", np.array(RATE, np.int64))
    with triton.InferenceServerClient(server) as client:
        for at in range(0, len(padded) - BEFORE, STEP):
            inputs = [
                tensor("input", "FP32", padded[None, at : at + BEFORE + STEP]),
                tensor("state", "FP32", state),
                rate,
            ]
            answer = client.infer("speech", inputs)
            state = answer.as_numpy("stateN")
            yield float(answer.as_numpy("output")[0, 0])


def speech(found: Iterator[float]) -> Iterator[tuple[float, float]]:
    """When speech begins and ends, in seconds."""
    begun = quiet = None
    now = 0.0
    for now, probability in ((i * STEP / RATE, one) for i, one in enumerate(found)):
        if probability >= BEGINS:
            begun, quiet = now if begun is None else begun, None
        elif begun is not None and probability < ENDS:
            quiet = now if quiet is None else quiet
            if now - quiet >= PAUSE:
                if quiet - begun >= SHORTEST:
                    yield begun, quiet
                begun = None
    if begun is not None:
        yield begun, now + STEP / RATE


def main() -> None:
    parser = argparse.ArgumentParser(description="Find speech in a sound file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--server", default="127.0.0.1:8080")
    given = parser.parse_args()
    for begin, end in speech(probabilities(given.server, sound(given.file))):
        print(f"{begin:.2f} to {end:.2f}")


if __name__ == "__main__":
    main()
