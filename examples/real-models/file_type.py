"""Says what type files are of, by their content: `python file_type.py FILE …`.

All files are asked about at once. A file that was asked about before is answered from Tidegate's result cache.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tritonclient.http as triton

EDGE, BLOCK = 1024, 4096  # bytes of an edge that the model sees, and of those that are read for it
NO_BYTE = 256
FEWEST = 8  # bytes of a file that can be told
UNCERTAIN = 0.5

MEANINGS = json.loads((Path(__file__).parent / "meanings" / "file-types.json").read_text("utf-8"))
LABELS: list[str] = MEANINGS["target_labels_space"]


def edges(path: Path) -> np.ndarray:
    """The first and the last EDGE bytes without white space around, [1, 2 * EDGE]."""
    with path.open("rb") as file:
        first = file.read(BLOCK).lstrip()[:EDGE]
        file.seek(max(0, path.stat().st_size - BLOCK))
        last = file.read(BLOCK).rstrip()[-EDGE:]
    made = np.full((1, 2 * EDGE), NO_BYTE, np.int32)
    made[0, : len(first)] = list(first)
    made[0, 2 * EDGE - len(last) :] = list(last)
    return made


def label(probabilities: np.ndarray) -> str:
    best = LABELS[int(probabilities.argmax())]
    certain = probabilities.max() >= MEANINGS["thresholds"].get(best, UNCERTAIN)
    named: str = MEANINGS["overwrite_map"].get(best, best)
    return named if certain else f"perhaps {named}"


def types(server: str, paths: Sequence[Path]) -> list[str]:
    client = triton.InferenceServerClient(server, concurrency=16)
    waiting = []
    for path in paths:
        tensor = triton.InferInput("bytes", [1, 2 * EDGE], "INT32")
        tensor.set_data_from_numpy(edges(path))
        waiting.append(client.async_infer("file-type", [tensor]) if path.stat().st_size >= FEWEST else None)
    return [label(one.get_result().as_numpy("target_label")[0]) if one else "too short to tell" for one in waiting]


def main() -> None:
    parser = argparse.ArgumentParser(description="Say what type files are of.")
    parser.add_argument("file", type=Path, nargs="+")
    parser.add_argument("--server", default="127.0.0.1:8080")
    given = parser.parse_args()
    for path, found in zip(given.file, types(given.server, given.file), strict=True):
        print(f"{path}: {found}")


if __name__ == "__main__":
    main()
