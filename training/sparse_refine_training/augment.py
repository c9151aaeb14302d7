"""Changes of the pictures in training."""

from __future__ import annotations

import numpy as np
import torch

from .data import photometric

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


def scale(kind: str, rng: np.random.Generator) -> float:
    """Factor by which a picture is enlarged."""
    low, high = SCALES[kind]
    return 1.0 if low == high else float(rng.uniform(low, high))


def _hue_rotation(angle: float) -> torch.Tensor:
    """Turns colours about the grey axis."""
    cosine, sine = np.cos(angle), np.sin(angle) / np.sqrt(3)
    mean = (1 - cosine) / 3
    rows = [[cosine + mean, mean - sine, mean + sine]]
    rows += [rows[0][-k:] + rows[0][:-k] for k in (1, 2)]
    return torch.tensor(rows, dtype=torch.float32)
