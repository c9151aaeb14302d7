"""From coarse logits to selected pixels, as the product does it (METHODS 1.1, steps 1 to 3, and 1.6)."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """`-sum p ln(max(p, 1e-5))` in nats over dimension 1."""
    p = logits.softmax(1)
    return -(p * p.clamp(min=1e-5).log()).sum(1)


def softmax(logits: torch.Tensor) -> torch.Tensor:
    """Of the rows `[n, classes]`. A CPU takes a fifth of the time where the dimension summed over is not the last one."""
    return logits.t().softmax(0).t()


def to_grid(logits: torch.Tensor, size: tuple) -> torch.Tensor:
    """Logits `[n, classes, h, w]` upsampled bilinearly (half-pixel centres, clamped) to the grid (height, width)."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def to_pixels(cells: torch.Tensor, ratio: int) -> torch.Tensor:
    """Repeats the last two dimensions: nearest upsampling at an integer ratio, pixel p reads cell p // ratio."""
    return cells.repeat_interleave(ratio, -2).repeat_interleave(ratio, -1)
