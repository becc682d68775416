"""Finds objects in images and draws their boxes: `python detect.py IMAGE …`, or `--scene N` for an image of scenes.py.

Prints a line for each object: how certain it is, and its box (left, top, right, bottom, in pixels). The image with the
boxes is written beside the others in the folder `--output`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scenes
import tritonclient.http as triton
from PIL import Image, ImageDraw
from scipy import ndimage

LONGEST = 960  # pixels of a side that the detector sees
PART, WHOLE = 0.3, 0.5  # probabilities: of a pixel of an object, of all of its pixels
GROWN = 1.6  # the detector marks the core of an object; by this times its area over its circumference it is larger


@dataclass(frozen=True)
class Found:
    box: scenes.Box
    certainty: float


class Detector:
    """The detector of a server, `host:port`."""

    def __init__(self, server: str) -> None:
        self._client = triton.InferenceServerClient(server)

    def find(self, image: Image.Image) -> list[Found]:
        """The objects of an image, from top to bottom."""
        return objects(self.ask(pixels(image)), image.size)

    def ask(self, values: np.ndarray) -> np.ndarray:
        """The probability of each of these `pixels` that it is a part of an object, [height, width]."""
        tensor = triton.InferInput("x", [1, *values.shape], "FP32")
        tensor.set_data_from_numpy(values[None])
        probabilities: np.ndarray = self._client.infer("text", [tensor]).as_numpy("fetch_name_0")[0, 0]
        return probabilities


def pixels(image: Image.Image) -> np.ndarray:
    """Blue, green and red from -1 to 1, [3, height, width], with sides that are multiples of 32."""
    shrunk = min(1.0, LONGEST / max(image.size))
    width, height = (max(32, round(side * shrunk / 32) * 32) for side in image.size)
    values = np.asarray(image.convert("RGB").resize((width, height)), np.float32)[:, :, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(values / 127.5 - 1)


def objects(probabilities: np.ndarray, size: tuple[int, int]) -> list[Found]:
    """What [height, width] probabilities show in an image of `size`: each area of pixels that hang together is one."""
    marked, _ = ndimage.label(probabilities > PART)
    scale = np.array([size[0] / probabilities.shape[1], size[1] / probabilities.shape[0]])
    found = []
    for number, place in enumerate(ndimage.find_objects(marked), 1):
        certainty = float(probabilities[place][marked[place] == number].mean())
        if certainty > WHOLE:
            found.append(Found(_grown(place, size, scale), certainty))
    return sorted(found, key=lambda one: (one.box[1], one.box[0]))


def _grown(place: tuple[slice, slice], size: tuple[int, int], scale: np.ndarray) -> scenes.Box:
    height, width = (part.stop - part.start for part in place)
    margin = GROWN * height * width / (2 * (height + width))
    low = (np.array([place[1].start, place[0].start]) - margin) * scale
    high = (np.array([place[1].stop, place[0].stop]) + margin) * scale
    left, top = np.maximum(low, 0).astype(int)
    right, bottom = np.minimum(high, size).astype(int)
    return int(left), int(top), int(right), int(bottom)


def drawn(image: Image.Image, found: list[Found]) -> Image.Image:
    """The image with a box around each object."""
    made = image.convert("RGB")
    draw = ImageDraw.Draw(made)
    for one in found:
        draw.rectangle(one.box, outline="red", width=3)
        draw.text((one.box[0], max(0, one.box[1] - 12)), f"{one.certainty:.2f}", fill="red")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Find objects in images and draw their boxes.")
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--scene", type=int, action="append", default=[], help="an image of scenes.py, by its number")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder of the images with boxes")
    parser.add_argument("--server", default="127.0.0.1:8080")
    given = parser.parse_args()
    images = {path.stem: Image.open(path) for path in given.images}
    images |= {f"scene-{number}": scenes.scene(number).image for number in given.scene}
    detector = Detector(given.server)
    given.output.mkdir(exist_ok=True)
    for name, image in images.items():
        found = detector.find(image)
        target = given.output / f"{name}-found.png"
        drawn(image, found).save(target)
        print(f"{name}: {len(found)} objects, drawn in {target}")
        for one in found:
            print(f"  {one.certainty:.2f}  {one.box}")


if __name__ == "__main__":
    main()
