"""From coarse logits to selected pixels, as the product does it (METHODS 1.1, steps 1 to 3, and 1.6)."""

from torch.nn import functional as F


def entropy(logits):
    """`-sum p ln(max(p, 1e-5))` in nats over dimension 1."""
    p = logits.softmax(1)
    return -(p * p.clamp(min=1e-5).log()).sum(1)


def to_grid(logits, size):
    """Logits `[n, classes, h, w]` upsampled bilinearly (half-pixel centres, clamped) to the grid (height, width)."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def to_pixels(cells, ratio):
    """Repeats the last two dimensions: nearest upsampling at an integer ratio, pixel p reads cell p // ratio."""
    return cells.repeat_interleave(ratio, -2).repeat_interleave(ratio, -1)
