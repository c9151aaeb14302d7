"""The refiner computed densely with PyTorch's own operators, masked again after each: the source of the golden values.

Works in the type of its inputs. Shares no code with sparse.py and unet.py. Images are `[1, channels, rows, columns]`,
masks `[rows, columns]`, kernels `[9, in, out]`; weights come by their names in docs/bundle.md.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def spread(mask: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Site features `[sites, channels]`, row-major, as an image that is zero elsewhere."""
    image = x.new_zeros(*mask.shape, x.shape[1])
    image[mask] = x
    return image.permute(2, 0, 1)[None]


def collect(mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Features of the sites, row-major."""
    return image[0].permute(1, 2, 0)[mask]


def submanifold(image: torch.Tensor, mask: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    weight = kernel.reshape(3, 3, *kernel.shape[1:]).permute(3, 2, 1, 0)  # [dc, dr, in, out] -> [out, in, dr, dc]
    return F.conv2d(image, weight, padding=1) * mask


def down_mask(mask: torch.Tensor, bound: str) -> torch.Tensor:
    if bound == "active":
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        mask = mask[: rows.max() + 1, : columns.max() + 1] if len(rows) else mask[:0, :0]
    # Output o reads inputs 2*o to 2*o + 2, all of which must exist: convolution without padding.
    if min(mask.shape) < 3:
        return torch.zeros(max(0, (mask.shape[0] - 1) // 2), max(0, (mask.shape[1] - 1) // 2), dtype=torch.bool)
    return F.conv2d(mask[None, None].float(), torch.ones(1, 1, 3, 3), stride=2)[0, 0] > 0.5


def down(image: torch.Tensor, coarse_mask: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    height, width = coarse_mask.shape
    if coarse_mask.numel() == 0:
        return image.new_zeros(1, kernel.shape[2], height, width)
    weight = kernel.reshape(3, 3, *kernel.shape[1:]).permute(3, 2, 1, 0)
    return F.conv2d(image[..., : 2 * height + 1, : 2 * width + 1], weight, stride=2) * coarse_mask


def up(coarse: torch.Tensor, mask: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    height, width = mask.shape
    if coarse.numel() == 0:
        return coarse.new_zeros(1, kernel.shape[2], height, width)
    weight = kernel.reshape(3, 3, *kernel.shape[1:]).permute(2, 3, 1, 0)  # [in, out, dr, dc]
    fine = F.conv_transpose2d(coarse, weight, stride=2)[..., :height, :width]
    return F.pad(fine, (0, width - fine.shape[-1], 0, height - fine.shape[-2])) * mask


def norm_relu(image: torch.Tensor, mask: torch.Tensor, weights: dict[str, torch.Tensor], prefix: str) -> torch.Tensor:
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (weights[f"{prefix}.{name}"] for name in names)
    if image.numel() == 0:
        return image
    return F.batch_norm(image, mean, variance, weight, bias, training=False, eps=1e-5).relu() * mask


def residual(image: torch.Tensor, mask: torch.Tensor, weights: dict[str, torch.Tensor], prefix: str) -> torch.Tensor:
    y = submanifold(norm_relu(image, mask, weights, f"{prefix}.bn1"), mask, weights[f"{prefix}.conv1.weight"])
    y = submanifold(norm_relu(y, mask, weights, f"{prefix}.bn2"), mask, weights[f"{prefix}.conv2.weight"])
    projection = weights.get(f"{prefix}.projection")
    if projection is not None:
        image = F.conv2d(image, projection.t()[:, :, None, None])
    return image + y


def unet(
    features: torch.Tensor,
    mask: torch.Tensor,
    weights: dict[str, torch.Tensor],
    planes: list[int],
    blocks: int,
    bound: str,
) -> torch.Tensor:
    """`y2` `[sites, classes]` of site features `[sites, inputs]`."""
    x = submanifold(spread(mask, features), mask, weights["stem.weight"])
    x = _level(0, x, mask, weights, len(planes), blocks, bound)
    x = collect(mask, norm_relu(x, mask, weights, "head.bn"))
    return F.linear(x, weights["classifier.weight"], weights["classifier.bias"])


def _level(
    i: int, x: torch.Tensor, mask: torch.Tensor, weights: dict[str, torch.Tensor], depth: int, blocks: int, bound: str
) -> torch.Tensor:
    name = f"levels.{i}"
    if mask.numel() == 0 or x.shape[-1] == 0:
        return x
    for k in range(blocks):
        x = residual(x, mask, weights, f"{name}.pre.{k}")
    if i + 1 == depth:
        return x
    coarse_mask = down_mask(mask, bound)
    coarse = down(norm_relu(x, mask, weights, f"{name}.down.bn"), coarse_mask, weights[f"{name}.down.weight"])
    coarse = _level(i + 1, coarse, coarse_mask, weights, depth, blocks, bound)
    coarse = norm_relu(coarse, coarse_mask, weights, f"{name}.up.bn")
    x = torch.cat([x, up(coarse, mask, weights[f"{name}.up.weight"])], 1)
    for k in range(blocks):
        x = residual(x, mask, weights, f"{name}.post.{k}")
    return x


def site_entropy(y: torch.Tensor) -> torch.Tensor:
    p = F.softmax(y, 1)
    return -(p * torch.log(torch.clamp(p, min=1e-5))).sum(1)


def gate(
    y1: torch.Tensor, y2: torch.Tensor, weights: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(out, w1, e1) `[sites, classes]`, `[sites]`, `[sites]`."""
    e1, e2 = site_entropy(y1), site_entropy(y2)
    g = torch.cat([F.softmax(y1, 1), e1[:, None], F.softmax(y2, 1), e2[:, None]], 1)
    w = F.softmax(_mlp(g, weights, "gate"), 1)
    return _mlp(w[:, :1] * y1 + w[:, 1:] * y2, weights, "fuser"), w[:, 0], e1


def _mlp(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    hidden = F.linear(x, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"]).relu()
    return F.linear(hidden, weights[f"{name}.2.weight"], weights[f"{name}.2.bias"])
