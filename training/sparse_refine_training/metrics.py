"""Intersection over union, over whole images and near label edges; the definitions of the product's `eval`."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

BAND_PX = 8


class Confusion:
    """Counts `[true, predicted]`; pixels labelled 255 do not count."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, label: np.ndarray, predicted: np.ndarray, where: np.ndarray | None = None) -> None:
        counted = label < self.classes
        if where is not None:
            counted &= where
        pairs = label[counted].astype(np.int64) * self.classes + predicted[counted]
        self.counts += np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    def iou(self) -> np.ndarray:
        """Per class; NaN where a class is neither present nor predicted."""
        hit = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        return np.divide(hit, union, out=np.full(self.classes, np.nan), where=union > 0)

    def miou(self) -> float:
        return float(np.nanmean(self.iou()))

    def miou_of_present(self) -> float:
        """The mean over the classes that occur in the labels: what few images are scored with."""
        return float(self.iou()[self.counts.sum(1) > 0].mean())


def boundary_band(label: np.ndarray, reach: int = BAND_PX) -> np.ndarray:
    """The `reach` pixels on each side of an edge between 4-neighbours of different value, Chebyshev distance."""
    edge = np.zeros(label.shape, bool)
    across, down = label[:, 1:] != label[:, :-1], label[1:] != label[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    image = torch.from_numpy(edge)[None, None].float()
    side = 2 * reach - 1
    image = F.max_pool2d(image, (1, side), 1, (0, reach - 1))
    return F.max_pool2d(image, (side, 1), 1, (reach - 1, 0))[0, 0].numpy() > 0
