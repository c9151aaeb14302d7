"""Labelled scenes on disk: `images/STEM.*`, `labels/STEM.png`, `classes.json` (there or one folder up).

Labels are 8-bit, one channel, 255 = ignored. A `list.txt` of stems, one a line, restricts and orders the scenes.
Everything is checked when it is read, and an error says the file, the value, and what was allowed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IGNORE = 255
IMAGE_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class DataError(ValueError):
    """Scenes that cannot be used as they are."""


@dataclass(frozen=True)
class Scene:
    """One picture with labels, not yet read."""

    name: str
    image: Path
    label: Path

    def read(self, classes):
        """(image uint8 `[h, w, 3]`, labels uint8 `[h, w]`)."""
        image = np.asarray(Image.open(self.image).convert("RGB"))
        return image, self.read_label(classes, image.shape[:2])

    def read_label(self, classes, size):
        with Image.open(self.label) as file:
            if file.mode not in ("L", "P"):
                raise DataError(f"labels must be 8-bit with one channel, this is mode {file.mode}: {self.label}")
            label = np.asarray(file)
        if label.shape != tuple(size):
            got, wanted = (f"{width}x{height}" for height, width in (label.shape, size))
            raise DataError(f"labels are {got}, the image is {wanted}: {self.label}")
        wrong = sorted(set(np.unique(label).tolist()) - set(range(classes)) - {IGNORE})
        if wrong:
            raise DataError(f"label values {wrong[:8]} are neither 0 to {classes - 1} nor {IGNORE}: {self.label}")
        return label


@dataclass(frozen=True)
class Dataset:
    """A folder of scenes; `classes`: dictionaries with `name` and `colour`, in the order of the label values."""

    folder: Path
    classes: list
    scenes: list

    @classmethod
    def open(cls, folder, limit=None):
        folder = Path(folder)
        for part in ("images", "labels"):
            if not (folder / part).is_dir():
                raise DataError(f"no folder `{part}` in {folder}")
        images = {p.stem: p for p in sorted((folder / "images").iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES}
        stems = list(images)
        if (folder / "list.txt").is_file():
            stems = (folder / "list.txt").read_text().split()
        scenes = []
        for stem in stems[:limit]:
            label = folder / "labels" / f"{stem}.png"
            if stem not in images:
                raise DataError(f"list.txt names `{stem}`, and there is no such image: {folder / 'images'}")
            if not label.is_file():
                raise DataError(f"image {images[stem].name} has no labels: {label}")
            scenes.append(Scene(stem, images[stem], label))
        if not scenes:
            raise DataError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {folder / 'images'}")
        return cls(folder, read_classes(folder), scenes)


def read_classes(folder):
    """Class names and colours from `classes.json` of the folder or its parent."""
    for path in (folder / "classes.json", folder.parent / "classes.json"):
        if path.is_file():
            break
    else:
        raise DataError(f"no classes.json in {folder} or {folder.parent}")
    content = json.loads(path.read_text())
    classes = content["classes"]
    ids = [entry.get("id", index) for index, entry in enumerate(classes)]
    if ids != list(range(len(classes))):
        raise DataError(f"class ids must be 0, 1, 2 …, found {ids}: {path}")
    if content.get("num_classes", len(classes)) != len(classes):
        raise DataError(f"num_classes is {content['num_classes']}, {len(classes)} classes are listed: {path}")
    return [{"name": entry["name"], "colour": [int(c) for c in entry["colour"]]} for entry in classes]


@dataclass(frozen=True)
class Grid:
    """`fit = "pad"`: cells are blocks of `ratio` x `ratio` pixels, the image is padded below and right to whole cells.

    `size` is (height, width) in cells. The same arithmetic as the product's `Geometry::pad`.
    """

    size: tuple
    ratio: int

    @classmethod
    def pad(cls, camera, size):
        """For an image of `camera` (height, width)."""
        ratio = max(-(-camera[0] // size[0]), -(-camera[1] // size[1]))
        return cls(tuple(size), ratio)

    @property
    def canvas(self):
        """(height, width) in pixels with padding."""
        return self.size[0] * self.ratio, self.size[1] * self.ratio

    def shrink(self, image, mean):
        """Area mean per cell of the image padded with `mean`: float32 `[3, rows, columns]`, 0 to 255."""
        if self.ratio == 1 and image.shape[:2] == self.size:
            return image.transpose(2, 0, 1).astype(np.float32)
        padded = np.empty((*self.canvas, 3), np.float32)
        padded[:] = np.asarray(mean, np.float32)
        padded[: image.shape[0], : image.shape[1]] = image
        cells = padded.reshape(self.size[0], self.ratio, self.size[1], self.ratio, 3).mean((1, 3))
        return np.ascontiguousarray(cells.transpose(2, 0, 1))

    def shares(self, label, classes):
        """How much of each cell each class covers: uint8 `[classes, rows, columns]`, 255 = all of it.

        Soft targets keep what a majority vote would hide: a wire through a cell of sky leaves the network unsure.
        """
        padded = np.full(self.canvas, IGNORE, np.uint8)
        padded[: label.shape[0], : label.shape[1]] = label
        cells = padded.reshape(self.size[0], self.ratio, self.size[1], self.ratio)
        return np.stack(
            [(cells == value).sum((1, 3), dtype=np.uint32) * 255 // self.ratio**2 for value in range(classes)]
        ).astype(np.uint8)


def normalise(image, mean, std):
    """`(x - mean) / std` of a float tensor `[n, 3, h, w]` with values 0 to 255."""
    return (image - image.new_tensor(mean).view(1, 3, 1, 1)) / image.new_tensor(std).view(1, 3, 1, 1)


def photometric(image, rng):
    """Mild changes of brightness, contrast and colour of `[n, 3, h, w]`, 0 to 255; one draw per image."""
    for one in image:
        gain = rng.uniform(0.85, 1.18) * rng.uniform(0.96, 1.04, 3)
        for plane, factor in zip(one, gain):
            plane.mul_(float(factor))
        one.sub_(128).mul_(rng.uniform(0.9, 1.1)).add_(128 + rng.uniform(-12, 12)).clamp_(0, 255)
    return image
