"""Tiny labelled pictures for tests: coloured rectangles on a background, three classes."""

import json

import numpy as np
from PIL import Image

COLOURS = [(60, 60, 60), (200, 40, 40), (40, 60, 220)]


def write(folder, count=4, size=(64, 96), seed=0):
    """`count` scenes of (height, width) `size` under `folder`; returns it."""
    rng = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        label = np.zeros(size, np.uint8)
        for value in (1, 2, 1, 2):
            top, left = rng.integers(size[0] - 9), rng.integers(size[1] - 9)
            label[top : top + rng.integers(3, 40), left : left + rng.integers(3, 40)] = value
        image = np.asarray(COLOURS, np.int16)[label] + rng.integers(-10, 10, (*size, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"s{number}.png")
        Image.fromarray(label).save(folder / "labels" / f"s{number}.png")
    classes = [{"id": i, "name": f"class{i}", "colour": colour} for i, colour in enumerate(COLOURS)]
    (folder / "classes.json").write_text(json.dumps({"num_classes": 3, "ignore_id": 255, "classes": classes}))
    return folder
