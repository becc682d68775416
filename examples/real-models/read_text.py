"""Reads the text of an image: `python read_text.py IMAGE`. Prints a line of text per line.

Three models: one finds the lines, one says which of them stand on their heads, one reads them. Lines are sent all at
once, each as a request of its own; the servers merge them into batches.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from PIL import Image
from scipy import ndimage

LONGEST = 960  # pixels of a side in which lines are looked for
TEXT, LINE = 0.3, 0.5  # probabilities: of a pixel of a line, of all of its pixels
GROWN = 1.6  # the detector marks the core of a line; by this times its area over its circumference it is larger
HEIGHT, TURNED_WIDTH, STEP = 48, 192, 160  # of a line, in pixels; widths in steps, so that many have the same
CERTAIN = 0.9  # probability from which on a line is turned

CHARACTERS: list[str] = json.loads((Path(__file__).parent / "meanings" / "characters.json").read_text("utf-8"))


@dataclass(frozen=True)
class Line:
    """`box` is left, top, right, bottom, in pixels; `certainty` the mean probability of its characters."""

    box: tuple[int, int, int, int]
    text: str
    certainty: float


class Reader:
    """Reads by the models of a server, `host:port`."""

    def __init__(self, server: str) -> None:
        self._client = triton.InferenceServerClient(server, concurrency=16)

    def read(self, image: Image.Image) -> list[Line]:
        image = image.convert("RGB")
        boxes = self._find(image)
        crops = self._turned([image.crop(box) for box in boxes])
        waiting = [self._ask("text-recognition", pixels(crop, width_of(crop))) for crop in crops]
        lines = [
            Line(box, *decoded(answer.get_result().as_numpy("fetch_name_0")[0]))
            for box, answer in zip(boxes, waiting, strict=True)
        ]
        return [line for line in lines if line.text]

    def _find(self, image: Image.Image) -> list[tuple[int, int, int, int]]:
        """Boxes of lines, from top to bottom."""
        shrunk = min(1.0, LONGEST / max(image.size))
        width, height = (max(32, round(side * shrunk / 32) * 32) for side in image.size)
        answer = self._ask("text-detection", normalized(image.resize((width, height))))
        found = answer.get_result().as_numpy("fetch_name_0")[0, 0]
        scale = np.array([image.width / width, image.height / height])
        boxes = [box_of(place, image.size, scale) for place in lines_in(found)]
        return sorted(boxes, key=lambda box: (box[1], box[0]))

    def _turned(self, crops: Sequence[Image.Image]) -> list[Image.Image]:
        """The same, upright."""
        waiting = [self._ask("text-direction", pixels(crop, TURNED_WIDTH)) for crop in crops]
        heads = [answer.get_result().as_numpy("save_infer_model/scale_0.tmp_1")[0, 1] for answer in waiting]
        return [crop.rotate(180) if head > CERTAIN else crop for crop, head in zip(crops, heads, strict=True)]

    def _ask(self, model: str, values: np.ndarray) -> triton.InferAsyncRequest:
        tensor = triton.InferInput("x", [1, *values.shape], "FP32")
        tensor.set_data_from_numpy(values[None])
        return self._client.async_infer(model, [tensor])


def normalized(image: Image.Image) -> np.ndarray:
    """Blue, green and red, [3, height, width], from -1 to 1."""
    values = np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(values / 127.5 - 1)


def pixels(line: Image.Image, width: int) -> np.ndarray:
    """A line of HEIGHT, with grey at its right."""
    resized = line.resize((min(width, max(1, round(line.width * HEIGHT / line.height))), HEIGHT))
    made = np.zeros((3, HEIGHT, width), np.float32)
    made[:, :, : resized.width] = normalized(resized)
    return made


def width_of(line: Image.Image) -> int:
    return STEP * max(2, -(-line.width * HEIGHT // (line.height * STEP)))


def lines_in(found: np.ndarray) -> list[tuple[slice, slice]]:
    marked, _ = ndimage.label(found > TEXT)
    places = ndimage.find_objects(marked)
    return [place for i, place in enumerate(places, 1) if found[place][marked[place] == i].mean() > LINE]


def box_of(place: tuple[slice, slice], size: tuple[int, int], scale: np.ndarray) -> tuple[int, int, int, int]:
    """In the pixels of an image of `size`, which are `scale` times smaller than those of `place`."""
    height, width = (part.stop - part.start for part in place)
    margin = GROWN * height * width / (2 * (height + width))
    low = (np.array([place[1].start, place[0].start]) - margin) * scale
    high = (np.array([place[1].stop, place[0].stop]) + margin) * scale
    left, top = np.maximum(low, 0).astype(int)
    right, bottom = np.minimum(high, size).astype(int)
    return int(left), int(top), int(right), int(bottom)


def decoded(steps: np.ndarray) -> tuple[str, float]:
    """The text of [steps, characters], and how certain it is: equal neighbours are one character."""
    best = steps.argmax(axis=1)
    kept = (best != 0) & (best != np.concatenate([[0], best[:-1]]))
    return "".join(CHARACTERS[i] for i in best[kept]), float(steps.max(axis=1)[kept].mean()) if kept.any() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Read the text of an image.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--server", default="127.0.0.1:8080")
    given = parser.parse_args()
    for line in Reader(given.server).read(Image.open(given.image)):
        print(f"{line.certainty:.2f}  {line.text}")


if __name__ == "__main__":
    main()
