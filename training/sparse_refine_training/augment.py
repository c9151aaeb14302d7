"""Changes of the pictures in training."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from .data import IGNORE, photometric

KINDS = ("none", "mild", "strong")
SCALES = {"none": (1, 1), "mild": (1, 1), "strong": (0.5, 2)}  # METHODS 1.4 for `strong`
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 36  # hue in degrees


def colours(image: torch.Tensor, kind: str, rng: np.random.Generator) -> torch.Tensor:
    """Changes `[n, 3, h, w]`, 0 to 255, in place; one draw per image."""
    if kind == "mild":
        return photometric(image, rng)
    if kind == "strong":
        for one in image:
            one.copy_(distort(one, rng))
    return image


def distort(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The photometric distortion of METHODS 1.4; each change happens in half of the pictures."""
    if rng.random() < 0.5:
        image = image + rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    if rng.random() < 0.5:
        image = image * rng.uniform(*CONTRAST)
    image = image.clamp(0, 255)
    if rng.random() < 0.5:  # saturation of HSV: distance to the largest channel
        top = image.amax(0, keepdim=True)
        image = (top - (top - image) * rng.uniform(*SATURATION)).clamp(0, 255)
    if rng.random() < 0.5:
        image = torch.einsum("ij,jhw->ihw", _hue_rotation(np.radians(rng.uniform(-HUE, HUE))), image).clamp(0, 255)
    return image


def factor(span: tuple, rng: np.random.Generator) -> float:
    """By how much to enlarge a picture, between the two numbers of `span`."""
    low, high = span
    return float(low if low == high else rng.uniform(low, high))


def scene(image: np.ndarray, label: np.ndarray, span: tuple, rng: np.random.Generator) -> tuple:
    """A picture uint8 `[h, w, 3]` and its labels enlarged by a factor of `span`, at a random place in their own size.

    What lies beyond the picture is black and not labelled.
    """
    scale = factor(span, rng)
    if scale == 1:
        return image, label
    height, width = label.shape
    size = (round(width * scale), round(height * scale))
    big = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    big_label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    out, out_label = np.zeros_like(image), np.full_like(label, IGNORE)
    ours, theirs = zip(*(_overlap(side, other, rng) for side, other in zip(label.shape, big_label.shape)))
    out[ours], out_label[ours] = big[theirs], big_label[theirs]
    return out, out_label


def _overlap(side: int, other: int, rng: np.random.Generator) -> tuple:
    """Where a stretch of `other` pixels, laid at random, lies in one of `side` pixels: both slices."""
    start = int(rng.integers(abs(side - other) + 1))
    length = min(side, other)
    ours, theirs = (start, 0) if other < side else (0, start)
    return slice(ours, ours + length), slice(theirs, theirs + length)


def _hue_rotation(angle: float) -> torch.Tensor:
    """Turns colours about the grey axis."""
    cosine, sine = np.cos(angle), np.sin(angle) / np.sqrt(3)
    mean = (1 - cosine) / 3
    rows = [[cosine + mean, mean - sine, mean + sine]]
    rows += [rows[0][-k:] + rows[0][:-k] for k in (1, 2)]
    return torch.tensor(rows, dtype=torch.float32)
