"""Windows of full-resolution scenes with what the frozen segmenter says about them: the refiner's training batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from . import augment
from .coarse import Frozen
from .data import IGNORE, normalise

PLACES = 4000  # candidate window centres kept per scene and class


@dataclass
class CoarseScene:
    """A scene in memory with what the frozen segmenter says about it."""

    image: np.ndarray  # uint8 [h, w, 3] in the network's order of channels
    label: np.ndarray  # uint8 [h, w]
    logits: np.ndarray  # float16 [channels, grid rows, grid columns]
    selected: np.ndarray  # bool [grid rows, grid columns]
    rows: np.ndarray  # cell row of each pixel row
    columns: np.ndarray
    frozen: Frozen  # whom the logits are from
    places: dict = field(default_factory=dict)  # class: flat pixel numbers of some of its selected pixels
    pixels: np.ndarray = field(init=False)  # selected pixels of each class


def prepare(
    image: np.ndarray,
    label: np.ndarray,
    frozen: Frozen,
    alpha: float,
    classes: int,
    rng: np.random.Generator,
    path: Path | None = None,
) -> CoarseScene:
    """`CoarseScene` with the places of `window`."""
    view = frozen.look(image, path)
    selected = view.entropy() > alpha
    logits = view.logits[0].numpy().astype(np.float16)
    scene = CoarseScene(frozen.ordered(image), label, logits, selected, view.rows, view.columns, frozen=frozen)
    flat = np.flatnonzero(view.to_pixels(selected))
    labels = label.reshape(-1)[flat]
    scene.pixels = np.bincount(labels, minlength=IGNORE + 1)[:classes]
    for value in scene.pixels.nonzero()[0]:
        found = flat[labels == value]
        scene.places[int(value)] = rng.choice(found, min(PLACES, len(found)), replace=False)
    return scene


def changed(scene: CoarseScene, alpha: float, kind: str, span: tuple, rng: np.random.Generator) -> CoarseScene:
    """The scene after random changes, with what the segmenter says about the changed picture.

    It is less certain of such a picture than of one that it was trained on, as it will be of new ones.
    """
    image, label = augment.scene(scene.frozen.ordered(scene.image), scene.label, span, rng)
    planes = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
    image = augment.colours(planes, kind, rng)[0].round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return prepare(image, label, scene.frozen, alpha, len(scene.pixels), rng)


def window(scene: CoarseScene, extent: tuple, step: int, rng: np.random.Generator) -> tuple:
    """Origin (row, column), a multiple of `step`, of `extent` pixels around a selected one.

    The pixel's class is drawn with the square root of how often it is selected, so that wires and poles are seen often.
    """
    shape = scene.label.shape
    ways = [max(0, n - m) // step + 1 for n, m in zip(shape, extent)]
    values = list(scene.places)
    if not values:
        return tuple(step * int(rng.integers(n)) for n in ways)
    chances = np.sqrt(scene.pixels[values].astype(np.float64))
    place = rng.choice(scene.places[values[rng.choice(len(values), p=chances / chances.sum())]])
    origin = []
    for centre, side, count in zip(divmod(int(place), shape[1]), extent, ways):
        start = centre - int(rng.integers(side // 4, 3 * side // 4 + 1))
        origin.append(step * min(max(round(start / step), 0), count - 1))
    return tuple(origin)


def cut(scene: CoarseScene, crop: tuple, step: int, span: tuple, rng: np.random.Generator) -> tuple:
    """One window: (mask `[h, w]`, picture float32 `[3, h, w]`, logits `[sites, channels]`, labels `[sites]`).

    Scenes smaller than the crop leave the rest of it unselected. Windows are enlarged by a random factor of `span`: labels
    and logits from the nearest pixel, colours bilinearly.
    """
    scale = augment.factor(span, rng)
    extent = crop if scale == 1 else tuple(int(np.ceil(side / scale)) for side in crop)
    origin = window(scene, extent, step, rng)
    lines = []
    for first, side, size in zip(origin, crop, scene.label.shape):
        line = first + ((np.arange(side) + 0.5) / scale).astype(int)
        lines.append(line[line < size])
    rows, columns = lines
    height, width = len(rows), len(columns)
    picture, mask = np.zeros((3, *crop), np.float32), np.zeros(crop, bool)
    part = scene.image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].transpose(2, 0, 1)
    if scale == 1:
        picture[:, :height, :width] = part
    else:
        small = torch.from_numpy(part.astype(np.float32))[None]
        options: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": scale < 1}
        picture[:, :height, :width] = F.interpolate(small, (height, width), **options)[0].numpy()
    mask[:height, :width] = scene.selected[scene.rows[rows]][:, scene.columns[columns]]
    if rng.random() < 0.5:
        mask, picture = mask[:, ::-1].copy(), picture[..., ::-1].copy()
        found_rows, found_columns = mask.nonzero()
        from_rows, from_columns = rows[found_rows], columns[crop[1] - 1 - found_columns]
    else:
        found_rows, found_columns = mask.nonzero()
        from_rows, from_columns = rows[found_rows], columns[found_columns]
    logits = scene.logits[:, scene.rows[from_rows], scene.columns[from_columns]].T
    return mask, picture, logits, scene.label[from_rows, from_columns]


def batch(scenes: list, crop: tuple, step: int, kind: str, span: tuple, rng: np.random.Generator) -> tuple:
    """A window of each: (mask `[n, h, w]`, colours `[sites, 3]`, coarse logits `[sites, channels]`, labels `[sites]`)."""
    parts = [cut(scene, crop, step, span, rng) for scene in scenes]
    masks, pictures, logits, labels = zip(*parts)
    mask = torch.from_numpy(np.stack(masks))
    image = augment.colours(torch.from_numpy(np.stack(pictures)), kind, rng)
    image = normalise(image, scenes[0].frozen.mean, scenes[0].frozen.std)
    y1 = torch.from_numpy(np.concatenate(logits).astype(np.float32))
    return mask, image.permute(0, 2, 3, 1)[mask], y1, torch.from_numpy(np.concatenate(labels).astype(np.int64))
