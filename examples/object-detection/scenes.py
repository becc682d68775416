"""Images to detect objects in: signs with words, on a picture of hills, each with the boxes of its words."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WORDS = ("Harbour", "Tide 6:45", "Gate 12", "Ferry", "Pier", "No entry", "Tickets", "Museum", "Exit", "Fish & chips")
COLOURS = (("white", "darkgreen"), ("black", "gold"), ("navy", "white"), ("white", "brown"))
SIZE = (480, 320)
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class Scene:
    image: Image.Image
    boxes: tuple[Box, ...]


def scene(seed: int, size: tuple[int, int] = SIZE) -> Scene:
    """The same for the same seed."""
    draw_from = random.Random(seed)
    image = _hills(seed, size)
    boxes: list[Box] = []
    for _ in range(draw_from.randint(2, 5)):
        font = ImageFont.load_default(size=draw_from.randint(18, 40))
        word = draw_from.choice(WORDS)
        width, height = (round(side) for side in font.getbbox(word)[2:])
        if width + 40 > size[0]:
            continue
        left, top = draw_from.randint(12, size[0] - width - 28), draw_from.randint(12, size[1] - height - 28)
        sign = (left - 8, top - 8, left + width + 8, top + height + 8)
        if any(_touch(sign, box) for box in boxes):
            continue
        pen, paper = draw_from.choice(COLOURS)
        ImageDraw.Draw(image).rectangle(sign, fill=paper, outline=pen, width=2)
        ImageDraw.Draw(image).text((left, top), word, font=font, fill=pen)
        boxes.append(_shifted(font.getbbox(word), left, top))
    return Scene(image, tuple(boxes))


def _hills(seed: int, size: tuple[int, int]) -> Image.Image:
    """A sky above three rows of hills, with the grain of a photograph."""
    random_ = np.random.default_rng(seed)
    width, height = size
    made = Image.new("RGB", size, (168, 201, 228))
    for row, colour in enumerate(((120, 150, 130), (90, 128, 92), (64, 100, 60))):
        waves = sum(np.sin(np.arange(width) / random_.uniform(25, 90) + random_.uniform(0, 6)) for _ in range(3))
        tops = height * (0.35 + 0.2 * row) + 10 * waves
        ImageDraw.Draw(made).polygon([(0, height), *enumerate(tops.tolist()), (width, height)], fill=colour)
    grain = random_.normal(0, 5, (height, width, 1))
    pixels = np.asarray(made.filter(ImageFilter.GaussianBlur(1)), np.float32) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shifted(box: tuple[float, float, float, float], left: int, top: int) -> Box:
    return round(box[0]) + left, round(box[1]) + top, round(box[2]) + left, round(box[3]) + top


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] + 16 and b[0] < a[2] + 16 and a[1] < b[3] + 16 and b[1] < a[3] + 16
