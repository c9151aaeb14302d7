"""Labelled scenes on disk: `images/STEM.*`, `labels/STEM.png`, `classes.json` (there or one folder up).

CamVid's own layout, pictures in `NAME/` and labels in `NAMEannot/` beside it, is read too. Labels are 8-bit, one
channel; 255 and the `ignore_id` of classes.json are ignored. A `list.txt` of stems, one a line, restricts and orders
the scenes.
Everything is checked when it is read, and an error says the file, the value, and what was allowed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch  # `quantize` works without it

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
    ignored: int = IGNORE  # label value that means 255 too

    def read(self, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """(image uint8 `[h, w, 3]`, labels uint8 `[h, w]`)."""
        image = np.asarray(Image.open(self.image).convert("RGB"))
        return image, self.read_label(classes, image.shape[:2])

    def read_label(self, classes: int, size: tuple) -> np.ndarray:
        with Image.open(self.label) as file:
            if file.mode not in ("L", "P"):
                raise DataError(f"labels must be 8-bit with one channel, this is mode {file.mode}: {self.label}")
            label = np.asarray(file)
        if label.shape != tuple(size):
            got, wanted = (f"{width}x{height}" for height, width in (label.shape, size))
            raise DataError(f"labels are {got}, the image is {wanted}: {self.label}")
        if self.ignored != IGNORE:
            label = np.where(label == self.ignored, np.uint8(IGNORE), label)
        wrong = sorted(set(np.unique(label).tolist()) - set(range(classes)) - {IGNORE})
        if wrong:
            raise DataError(f"label values {wrong[:8]} are neither 0 to {classes - 1} nor {IGNORE}: {self.label}")
        return label


@dataclass(frozen=True)
class Dataset:
    """A folder of scenes; `classes`: dictionaries with `name` and `colour`, in the order of the label values."""

    folder: Path
    classes: list[dict]
    scenes: list[Scene]

    @classmethod
    def open(cls, folder: str | Path, limit: int | None = None) -> Dataset:
        folder = Path(folder)
        pictures, labels = folder / "images", folder / "labels"
        beside = folder.with_name(folder.name + "annot")
        if not pictures.is_dir() and beside.is_dir():
            pictures, labels = folder, beside
        for part in (pictures, labels):
            if not part.is_dir():
                raise DataError(f"no folder `{part.name}` in {folder}")
        images = {p.stem: p for p in sorted(pictures.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES}
        classes, ignored = read_classes(folder)
        stems = list(images)
        if (folder / "list.txt").is_file():
            stems = (folder / "list.txt").read_text().split()
        scenes = []
        for stem in stems[:limit]:
            label = labels / f"{stem}.png"
            if stem not in images:
                raise DataError(f"list.txt names `{stem}`, and there is no such image: {pictures}")
            if not label.is_file():
                raise DataError(f"image {images[stem].name} has no labels: {label}")
            scenes.append(Scene(stem, images[stem], label, ignored))
        if not scenes:
            raise DataError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {pictures}")
        return cls(folder, classes, scenes)

    def folds(self, count: int) -> list[list[Scene]]:
        """`count` lists of consecutive scenes: neighbours of a drive look alike, so they stay together."""
        if count > len(self.scenes):
            raise DataError(f"{len(self.scenes)} scenes cannot be cut into {count} folds: {self.folder}")
        edges = [len(self.scenes) * part // count for part in range(count + 1)]
        return [self.scenes[first:last] for first, last in zip(edges, edges[1:])]

    def without_fold(self, text: str | None) -> Dataset:
        """The scenes outside of fold K of N, for `text` = `K/N` with K from 1; all of them without a text."""
        if text is None:
            return self
        try:
            part, count = (int(number) for number in text.split("/"))
        except ValueError:
            part = count = 0
        if not 1 <= part <= count or count < 2:
            raise DataError(f"the fold is `{text}`, it must be K/N, K from 1 to N, N at least 2")
        rest = [fold for number, fold in enumerate(self.folds(count), 1) if number != part]
        return Dataset(self.folder, self.classes, [scene for fold in rest for scene in fold])


def read_classes(folder: Path) -> tuple[list[dict], int]:
    """Class names and colours from `classes.json` of the folder or its parent, and the label value to ignore."""
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
    ignored = content.get("ignore_id", IGNORE)
    if ignored < len(classes) or ignored > IGNORE:
        raise DataError(f"ignore_id is {ignored}, it must not be a class and not exceed {IGNORE}: {path}")
    return [{"name": entry["name"], "colour": [int(c) for c in entry["colour"]]} for entry in classes], ignored


@dataclass(frozen=True)
class Grid:
    """How pixels map to the segmenter's cells; the same arithmetic as the product's `Geometry`.

    All sizes are (height, width): of the grid in cells, of the camera, and of the canvas, which is the camera's image,
    with padding below and right where cells must be whole square blocks (`pad`).
    """

    size: tuple
    camera: tuple
    canvas: tuple

    @classmethod
    def pad(cls, camera: tuple, size: tuple) -> Grid:
        ratio = max(-(-camera[0] // size[0]), -(-camera[1] // size[1]))
        return cls(tuple(size), tuple(camera), (size[0] * ratio, size[1] * ratio))

    @classmethod
    def stretch(cls, camera: tuple, size: tuple) -> Grid:
        """The whole image on the whole grid, whatever its aspect."""
        return cls(tuple(size), tuple(camera), tuple(camera))

    @property
    def ratio(self) -> int:
        """Pixels per cell on the rows; on both axes where cells are whole square blocks."""
        return self.canvas[0] // self.size[0]

    def cells(self) -> tuple[np.ndarray, ...]:
        """The cell row of every pixel row of the camera, and the cell column of every column."""
        return tuple(np.arange(n) * cells // pixels for n, cells, pixels in zip(self.camera, self.size, self.canvas))

    def shrink(self, image: np.ndarray, mean: Sequence[float] | np.ndarray) -> np.ndarray:
        """Area mean per cell over the camera's pixels in it: float32 `[3, rows, columns]`, 0 to 255.

        Cells of padding get `mean`.
        """
        if self.camera == self.canvas == self.size:
            return image.transpose(2, 0, 1).astype(np.float32)
        cells = image.astype(np.float32)
        filled = []
        for axis in (0, 1):
            cells, covered = _area_mean(cells, axis, self.size[axis], self.canvas[axis])
            filled.append(covered)
        cells[~np.outer(*filled)] = np.asarray(mean, np.float32)
        return np.ascontiguousarray(cells.transpose(2, 0, 1))

    def shares(self, label: np.ndarray, classes: int) -> np.ndarray:
        """How much of each cell each class covers: uint8 `[classes, rows, columns]`, 255 = all of it.

        Soft targets keep what a majority vote would hide: a wire through a cell of sky leaves the network unsure.
        Only where cells are whole blocks of pixels.
        """
        ratio = self.ratio
        padded = np.full(self.canvas, IGNORE, np.uint8)
        padded[: label.shape[0], : label.shape[1]] = label
        cells = padded.reshape(self.size[0], ratio, self.size[1], ratio)
        return np.stack(
            [(cells == value).sum((1, 3), dtype=np.uint32) * 255 // ratio**2 for value in range(classes)]
        ).astype(np.uint8)


def _area_mean(image: np.ndarray, axis: int, cells: int, canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact means over `cells` equal stretches of an axis that is `canvas` pixels long with padding.

    Returns the float32 means and which stretches hold any pixel at all.
    """
    pixels = image.shape[axis]
    if canvas % cells == 0 and pixels % (canvas // cells) == 0:  # whole pixels: no fractions to weigh
        ratio, whole = canvas // cells, pixels // (canvas // cells)
        shape = (*image.shape[:axis], whole, ratio, *image.shape[axis + 1 :])
        means = image.reshape(shape).mean(axis + 1, dtype=np.float32)
        missing = [(0, cells - whole if k == axis else 0) for k in range(image.ndim)]
        return np.pad(means, missing), np.arange(cells) < whole
    edges = np.minimum(np.arange(cells + 1) * (canvas / cells), pixels)
    lengths = np.diff(edges)
    sums = np.cumsum(image, axis, dtype=np.float64)
    sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
    low = np.minimum(edges.astype(int), pixels - 1)
    part = np.expand_dims(edges - low, tuple(k for k in range(image.ndim) if k != axis))
    at_edges = sums.take(low, axis) * (1 - part) + sums.take(low + 1, axis) * part
    shape = [-1 if k == axis else 1 for k in range(image.ndim)]
    means = np.diff(at_edges, axis=axis) / np.maximum(lengths, 1e-9).reshape(shape)
    return means.astype(np.float32), lengths > 1e-9


def normalise(image: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """`(x - mean) / std` of a float tensor `[n, 3, h, w]` with values 0 to 255."""
    return (image - image.new_tensor(mean).view(1, 3, 1, 1)) / image.new_tensor(std).view(1, 3, 1, 1)


def photometric(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mild changes of brightness, contrast and colour of `[n, 3, h, w]`, 0 to 255; one draw per image."""
    for one in image:
        gain = rng.uniform(0.85, 1.18) * rng.uniform(0.96, 1.04, 3)
        for plane, factor in zip(one, gain):
            plane.mul_(float(factor))
        one.sub_(128).mul_(rng.uniform(0.9, 1.1)).add_(128 + rng.uniform(-12, 12)).clamp_(0, 255)
    return image
