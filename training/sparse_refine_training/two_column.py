"""The two columns of Spatial Sparsity and what joins them; a reconstruction (docs/methods.md says of what).

A coarse column on the reduced image gives scores, features and a weight map; a fine column sees the image itself. Both
have stride 8. Only Conv (BatchNorm folds into it), Relu, Add, Sigmoid and nearest Resize, which every ONNX runtime in
use handles.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .segmenter import Block, conv

STRIDE = 8
WIDTHS = (16, 24, 48)
COARSE_UNITS = (1, 2, 4, 8, 1)  # dilations
FINE_UNITS = (1, 1)
HEAD = 64


class Column(nn.Module):
    """Normalised image `[n, 3, h, w]` to features and scores at stride 8; `units`: dilations of its residual units."""

    def __init__(self, classes, widths, units):
        super().__init__()
        a, b, c = widths
        self.stem = conv(3, a, stride=2)
        self.stage4 = nn.Sequential(conv(a, b, stride=2), Block(b))
        self.down = conv(b, c, stride=2)
        self.units = nn.ModuleList(Block(c, dilation) for dilation in units)
        self.head = nn.Conv2d(c, classes, 1)

    def forward(self, image, extra=()):
        """(features, scores); `extra`: maps added before the last units, one each."""
        x = self.down(self.stage4(self.stem(image)))
        for index, unit in enumerate(self.units):
            late = index - (len(self.units) - len(extra))
            x = unit(x + extra[late] if late >= 0 else x)
        return x, self.head(x)


class TwoColumn(nn.Module):
    """Both columns, the weight-map head and the cross-column connections, which start at zero."""

    def __init__(self, classes, widths=WIDTHS, coarse_units=COARSE_UNITS, fine_units=FINE_UNITS, ratio=2):
        super().__init__()
        self.classes, self.ratio = classes, ratio
        self.coarse = Column(classes, widths, coarse_units)
        self.fine = Column(classes, widths, fine_units)
        self.map = nn.Sequential(conv(widths[2], HEAD), nn.Conv2d(HEAD, 1, 1))
        self.cross = nn.ModuleList(nn.Conv2d(widths[2], widths[2], 1, bias=False) for _ in range(2))
        for connection in self.cross:
            nn.init.zeros_(connection.weight)

    def run_coarse(self, image):
        """(features, scores, logits of the weight map) on the cells of the reduced image."""
        features, scores = self.coarse(F.avg_pool2d(image, self.ratio))
        return features, scores, self.map(features)

    def run_fine(self, image, features=None):
        """Scores of the fine column; with `features`, through the cross-column connections."""
        extra = ()
        if features is not None:
            used = self.cross[-len(self.fine.units) :]
            extra = [nearest(connection(features), self.ratio) for connection in used]
        return self.fine(image, extra)[1]

    def forward(self, image, cross=False):
        """Every output of whole-image execution: (fine scores, coarse scores, logits of the weight map)."""
        features, scores, logits = self.run_coarse(image)
        return self.run_fine(image, features if cross else None), scores, logits


def nearest(x, factor):
    return F.interpolate(x, scale_factor=float(factor), mode="nearest")


def bilinear(x, factor):
    """Half-pixel centres, clamped."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def fuse(coarse_scores, fine_scores, gate, ratio):
    """`s = (1 - g) up(sC) + g sF` on the fine column's grid; `gate` on the cells."""
    g = nearest(gate, ratio)
    return (1 - g) * bilinear(coarse_scores, ratio) + g * fine_scores


def binary_concrete(logits, noise, temperature=2 / 3):
    """A relaxed Bernoulli sample; `noise` is uniform in (0, 1)."""
    return torch.sigmoid((logits + torch.log(noise) - torch.log1p(-noise)) / temperature)


def area_penalty(weights, area):
    """`mean over images of max(0, mean of the map - A)^2`."""
    return (weights.mean((1, 2, 3)) - area).clamp(min=0).square().mean()


def binary_entropy(weights):
    """Mean entropy of the map's values as probabilities, in nats."""
    p = weights.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log()).mean()


def bernoulli_kl(weights, area):
    """KL(Bernoulli(A) || Bernoulli(mean of the map)), the mean over images."""
    q = weights.mean((1, 2, 3)).clamp(1e-6, 1 - 1e-6)
    a = min(max(area, 1e-6), 1 - 1e-6)
    constant = a * math.log(a) + (1 - a) * math.log(1 - a)
    return (constant - a * q.log() - (1 - a) * (1 - q).log()).mean()


class Tiles:
    """The product's tiles of a canvas: side `tile`, `halo` around, windows moved into the canvas. All in pixels."""

    def __init__(self, height, width, tile, halo, cell):
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

    def active(self, gate):
        """Indices of the tiles with an open cell; `gate [h, w]` on the cells."""
        cell = self.cell
        cut = ((y // cell, x // cell, -(-h // cell), -(-w // cell)) for y, x, h, w in self.cores)
        return [i for i, (y, x, h, w) in enumerate(cut) if bool((gate[y : y + h, x : x + w] > 0).any())]

    def rho(self, count):
        """Pixels that the fine column computes for so many tiles, as a share of the canvas."""
        return min(1.0, count * self.window[0] * self.window[1] / (self.height * self.width))

    def run(self, model, image, features, chosen):
        """Fine scores `[1, classes, h/8, w/8]` of one image on the chosen tiles, 0 elsewhere."""
        scores = image.new_zeros(1, model.classes, self.height // STRIDE, self.width // STRIDE)
        if not chosen:
            return scores
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
        for one, index in zip(fine, chosen):
            (y, x, h, w), (top, left) = self.cores[index], self.origins[index]
            inside = one[:, (y - top) // 8 : (y - top + h) // 8, (x - left) // 8 : (x - left + w) // 8]
            scores[0, :, y // 8 : (y + h) // 8, x // 8 : (x + w) // 8] = inside
        return scores


def deployed(model, image, tiles, threshold, cross):
    """What the product computes for one image: (scores, coarse scores, weight map, share of computed pixels).

    `threshold` None: every tile, the whole map (ctf, and the non-sparse twin of the others).
    """
    features, coarse, logits = model.run_coarse(image)
    weights = torch.sigmoid(logits)
    gate = weights if threshold is None else weights * (weights > threshold)
    chosen = list(range(len(tiles.cores))) if threshold is None else tiles.active(gate[0, 0])
    fine = tiles.run(model, image, features if cross else None, chosen)
    return fuse(coarse, fine, gate, model.ratio), coarse, weights, tiles.rho(len(chosen))


def prune_unit(model, loss):
    """Removes the residual unit without which `loss()` is lowest; returns (column, index, loss without it)."""
    best = None
    for name in ("coarse", "fine"):
        units = getattr(model, name).units
        if len(units) < 2:
            continue
        for index in range(len(units)):
            kept, units[index] = units[index], nn.Identity()
            with torch.no_grad():
                value = float(loss())
            units[index] = kept
            if best is None or value < best[2]:
                best = (name, index, value)
    if best is None:
        raise ValueError("no residual unit is left to remove")
    column = getattr(model, best[0])
    column.units = nn.ModuleList(unit for i, unit in enumerate(column.units) if i != best[1])
    return best


def macs(model, size, cross=False):
    """(coarse column with its heads, fine column) in multiply-accumulates of the convolutions for a whole (height, width)."""
    counts = {"coarse": 0, "fine": 0}
    hooks = []

    def count(part):
        def hook(module, _, output):
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
