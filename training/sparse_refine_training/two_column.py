"""The two columns of Spatial Sparsity and what joins them; a reconstruction (docs/methods.md says of what).

Both columns are segmenters, so that either can start from a trained one. The coarse column sees the reduced image and
gives scores, features and a weight map; the fine column sees the image itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .segmenter import DECODER, LOGIT_STRIDE, WIDTHS, Block, Segmenter, conv

STRIDE = LOGIT_STRIDE
FUSIONS = ("map", "sum")


class TwoColumn(nn.Module):
    """Both columns, the weight-map head and the cross-column connection, which starts at zero.

    `pool`: side of a tile in cells; its cells share one weight, the mean of their logits.
    `fusion`: one of FUSIONS; with "sum" the weight is 1/2 everywhere, the baseline without a map.
    `removed`: names of residual units that are left out, such as `fine.stage16.1`.
    """

    def __init__(
        self,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        decoder: int = DECODER,
        ratio: int = 2,
        pool: int = 1,
        fusion: str = "map",
        removed: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.classes, self.ratio, self.pool, self.fusion = classes, ratio, pool, fusion
        self.coarse = Segmenter(classes, widths, decoder)
        self.fine = Segmenter(classes, widths, decoder)
        self.map = nn.Sequential(conv(decoder, decoder), nn.Conv2d(decoder, 1, 1))
        self.cross = nn.Conv2d(decoder, decoder, 1, bias=False)
        nn.init.zeros_(self.cross.weight)
        for name in removed:
            self.replace(name, nn.Identity())

    def replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.get_submodule(parent), child, module)

    def units(self) -> list[str]:
        """Names of the residual units that are left."""
        return [name for name, module in self.named_modules() if isinstance(module, Block)]

    def run_coarse(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(features, scores, logits of the weight map) on the cells of the reduced image."""
        return self.outputs_of_coarse(F.avg_pool2d(image, self.ratio))

    def outputs_of_coarse(self, reduced: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`run_coarse` of an image that is reduced already."""
        features = self.coarse.features(reduced)
        logits = self.map(features) if self.fusion == "map" else 0 * features[:, :1]
        logits = self.to_cells(F.avg_pool2d(logits, self.pool))
        return features, self.coarse.head(features), logits

    def to_cells(self, tiles: torch.Tensor) -> torch.Tensor:
        """A map with one value a tile, on the cells."""
        return nearest(tiles, self.pool) if self.pool > 1 else tiles

    def run_fine(self, image: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
        """Scores of the fine column; with `features`, through the cross-column connection."""
        extra = None if features is None else nearest(self.cross(features), self.ratio)
        return self.fine.head(self.fine.features(image, extra))

    def forward(self, image: torch.Tensor, cross: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Every output of whole-image execution: (fine scores, coarse scores, logits of the weight map)."""
        features, scores, logits = self.run_coarse(image)
        return self.run_fine(image, features if cross else None), scores, logits


def nearest(x: torch.Tensor, factor: float) -> torch.Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="nearest")


def bilinear(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Half-pixel centres, clamped."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def fuse(coarse_scores: torch.Tensor, fine_scores: torch.Tensor, gate: torch.Tensor, ratio: int) -> torch.Tensor:
    """`s = (1 - g) up(sC) + g sF` on the fine column's grid; `gate` on the cells."""
    g = nearest(gate, ratio)
    return (1 - g) * bilinear(coarse_scores, ratio) + g * fine_scores


def binary_concrete(logits: torch.Tensor, noise: torch.Tensor, temperature: float = 2 / 3) -> torch.Tensor:
    """A relaxed Bernoulli sample; `noise` is uniform in (0, 1)."""
    return torch.sigmoid((logits + torch.log(noise) - torch.log1p(-noise)) / temperature)


def area_penalty(weights: torch.Tensor, area: float) -> torch.Tensor:
    """`mean over images of max(0, mean of the map - A)^2`."""
    return (weights.mean((1, 2, 3)) - area).clamp(min=0).square().mean()


def binary_entropy(weights: torch.Tensor) -> torch.Tensor:
    """Mean entropy of the map's values as probabilities, in nats."""
    p = weights.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log()).mean()


def bernoulli_kl(weights: torch.Tensor, area: float) -> torch.Tensor:
    """KL(Bernoulli(A) || Bernoulli(mean of the map)), the mean over images."""
    q = weights.mean((1, 2, 3)).clamp(1e-6, 1 - 1e-6)
    a = min(max(area, 1e-6), 1 - 1e-6)
    constant = a * math.log(a) + (1 - a) * math.log(1 - a)
    return (constant - a * q.log() - (1 - a) * (1 - q).log()).mean()


class Tiles:
    """The product's tiles of a canvas: side `tile`, `halo` around, windows moved into the canvas. All in pixels."""

    def __init__(self, height: int, width: int, tile: int, halo: int, cell: int) -> None:
        if tile % cell or halo % cell or height % cell or width % cell:
            raise ValueError(f"tile {tile}, halo {halo} and {width}x{height} must be multiples of a cell of {cell} px")
        self.height, self.width, self.cell = height, width, cell
        self.window = min(tile + 2 * halo, height), min(tile + 2 * halo, width)
        self.cores, self.origins = [], []
        for y in range(0, height, tile):
            for x in range(0, width, tile):
                self.cores.append((y, x, min(tile, height - y), min(tile, width - x)))
                top = min(max(y - halo, 0), height - self.window[0])
                self.origins.append((top, min(max(x - halo, 0), width - self.window[1])))

    def active(self, gate: torch.Tensor) -> list[int]:
        """Indices of the tiles with an open cell; `gate [h, w]` on the cells."""
        cell = self.cell
        cut = ((y // cell, x // cell, -(-h // cell), -(-w // cell)) for y, x, h, w in self.cores)
        return [i for i, (y, x, h, w) in enumerate(cut) if bool((gate[y : y + h, x : x + w] > 0).any())]

    def rho(self, count: int) -> float:
        """Pixels that the fine column computes for so many tiles, as a share of the canvas."""
        return min(1.0, count * self.window[0] * self.window[1] / (self.height * self.width))

    def run(
        self, model: TwoColumn, image: torch.Tensor, features: torch.Tensor | None, chosen: list[int]
    ) -> torch.Tensor:
        """Fine scores `[1, classes, h/4, w/4]` of one image on the chosen tiles, 0 elsewhere."""
        shape = 1, model.classes, self.height // STRIDE, self.width // STRIDE
        if not chosen:
            return image.new_zeros(shape)
        if self.rho(len(chosen)) >= 1:
            return model.run_fine(image, features)
        height, width = self.window
        windows, cut = [], []
        for index in chosen:
            y, x = self.origins[index]
            windows.append(image[:, :, y : y + height, x : x + width])
            if features is not None:
                c = self.cell
                cut.append(features[:, :, y // c : (y + height) // c, x // c : (x + width) // c])
        fine = model.run_fine(torch.cat(windows), torch.cat(cut) if cut else None)
        scores = fine.new_zeros(shape)
        for one, index in zip(fine, chosen):
            (y, x, h, w), (top, left) = self.cores[index], self.origins[index]
            y, x, h, w, top, left = (value // STRIDE for value in (y, x, h, w, top, left))
            scores[0, :, y : y + h, x : x + w] = one[:, y - top : y - top + h, x - left : x - left + w]
        return scores


def deployed(
    model: TwoColumn, image: torch.Tensor, tiles: Tiles, threshold: float | None, cross: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """What the product computes for one image: (scores, coarse scores, weight map, share of computed pixels).

    `threshold` None: every tile, the whole map (ctf, and the non-sparse twin of the others).
    """
    features, coarse, logits = model.run_coarse(image)
    weights = torch.sigmoid(logits)
    gate = weights if threshold is None else weights * (weights > threshold)
    chosen = list(range(len(tiles.cores))) if threshold is None else tiles.active(gate[0, 0])
    fine = tiles.run(model, image, features if cross else None, chosen)
    return fuse(coarse, fine, gate, model.ratio), coarse, weights, tiles.rho(len(chosen))


def prune_unit(model: TwoColumn, loss: Callable[[], torch.Tensor]) -> tuple[str, float]:
    """Removes the residual unit without which `loss()` is lowest; returns (name, loss without it)."""
    best = None
    for name in model.units():
        unit = model.get_submodule(name)
        model.replace(name, nn.Identity())
        with torch.no_grad():
            value = float(loss())
        model.replace(name, unit)
        if best is None or value < best[1]:
            best = name, value
    if best is None:
        raise ValueError("no residual unit is left to remove")
    model.replace(best[0], nn.Identity())
    return best


def macs(model: TwoColumn, size: tuple, cross: bool = False) -> tuple[int, int]:
    """(coarse column with its heads, fine column) in multiply-accumulates of the convolutions for a whole (height, width)."""
    counts = {"coarse": 0, "fine": 0}
    hooks = []

    def count(part: str) -> Callable:
        def hook(module: nn.Conv2d, _: tuple, output: torch.Tensor) -> None:
            counts[part] += output[0, 0].numel() * module.weight.numel()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            part = "fine" if name.startswith(("fine", "cross")) else "coarse"
            hooks.append(module.register_forward_hook(count(part)))
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, *size), cross)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return counts["coarse"], counts["fine"]
