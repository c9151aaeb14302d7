"""The sparse refiner: U-Net, classifier, gate and fuser. Parameter names are the tensor names of docs/bundle.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from . import sparse
from .selection import entropy, softmax

FEATURES = ("rgb", "rgb+probabilities")
GATE_WIDTH = 64
START_SCALE = 1.5  # of the classifier: normalised probabilities have unit variance


class SiteNorm(nn.BatchNorm1d):
    """BatchNorm over active sites. A level with fewer than two sites has no variance: running statistics then."""

    momentum: float  # never None here

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        training = self.training and len(x) > 1
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training, self.momentum, self.eps
        )


class Conv(nn.Module):
    """A 3x3 kernel `[tap, in, out]` without bias."""

    def __init__(self, inputs: int, outputs: int, fan: int | None = None) -> None:
        super().__init__()
        spread = 1 / math.sqrt(9 * (fan or inputs))
        self.weight = nn.Parameter(torch.empty(9, inputs, outputs).uniform_(-spread, spread))


class Residual(nn.Module):
    """`(x, or x P) + conv2(relu(bn2(conv1(relu(bn1(x))))))`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = SiteNorm(inputs), Conv(inputs, outputs)
        self.bn2, self.conv2 = SiteNorm(outputs), Conv(outputs, outputs)
        if inputs != outputs:
            spread = 1 / math.sqrt(inputs)
            self.projection = nn.Parameter(torch.empty(inputs, outputs).uniform_(-spread, spread))

    def forward(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        y = sparse.submanifold(F.relu(self.bn1(x)), self.conv1.weight, table)
        y = sparse.submanifold(F.relu(self.bn2(y)), self.conv2.weight, table)
        return y + (x @ self.projection if hasattr(self, "projection") else x)


class Resample(Conv):
    """BatchNorm of its input and the kernel of a Down or an Up."""

    def __init__(self, inputs: int, outputs: int, fan: int | None = None) -> None:
        super().__init__(inputs, outputs, fan)
        self.bn = SiteNorm(inputs)


class Stage(nn.Module):
    """The blocks of one resolution, and the way to the next coarser one and back."""

    def __init__(self, width: int, coarser: int | None, blocks: int) -> None:
        super().__init__()
        # The type of a ModuleList does not say what it holds.
        self.pre = cast(Sequence[Residual], nn.ModuleList(Residual(width, width) for _ in range(blocks)))
        if coarser is not None:
            self.down = Resample(width, coarser)
            self.up = Resample(coarser, width, fan=width)
            post = nn.ModuleList(Residual(2 * width if k == 0 else width, width) for k in range(blocks))
            self.post = cast(Sequence[Residual], post)


class Head(nn.Module):
    """The last BatchNorm, named `head.bn`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = SiteNorm(width)


class Refiner(nn.Module):
    """Everything a bundle's `refiner.safetensors` holds. `planes`: channels per level, finest first."""

    def __init__(
        self, planes: Sequence[int], blocks: int, classes: int, features: str = "rgb", bound: str = "image"
    ) -> None:
        super().__init__()
        if features not in FEATURES:
            raise ValueError(f"features is `{features}`, it must be one of {', '.join(FEATURES)}")
        self.planes, self.blocks, self.classes = list(planes), blocks, classes
        self.features, self.bound = features, bound
        inputs = 3 if features == "rgb" else 3 + classes
        self.stem = Conv(inputs, planes[0])
        levels = nn.ModuleList(Stage(a, b, blocks) for a, b in zip(planes, [*planes[1:], None]))
        self.levels = cast(Sequence[Stage], levels)
        self.head = Head(planes[0])
        self.classifier = nn.Linear(planes[0], classes)
        self.gate = nn.Sequential(nn.Linear(2 * classes + 2, GATE_WIDTH), nn.ReLU(), nn.Linear(GATE_WIDTH, 2))
        self.fuser = nn.Sequential(nn.Linear(classes, GATE_WIDTH), nn.ReLU(), nn.Linear(GATE_WIDTH, classes))
        if 2 * classes <= GATE_WIDTH:
            start_as_identity(self.fuser, classes)
        if features == "rgb+probabilities" and planes[0] >= classes:
            start_as_coarse(self)

    def pyramid(self, mask: torch.Tensor) -> sparse.Pyramid:
        """Index tables of the selected pixels `[images, rows, columns]`."""
        return sparse.Pyramid(mask, len(self.planes), self.bound)

    def site_features(self, rgb: torch.Tensor, y1: torch.Tensor) -> torch.Tensor:
        """Normalised colours `[sites, 3]`, and the coarse softmax where the network wants it."""
        return rgb if self.features == "rgb" else torch.cat([rgb, softmax(y1)], 1)

    def refine(self, pyramid: sparse.Pyramid, features: torch.Tensor) -> torch.Tensor:
        """Fine logits `y2`, `[sites, classes]`."""
        x = sparse.submanifold(features, self.stem.weight, pyramid.same[0])
        x = self._level(0, x, pyramid)
        return self.classifier(F.relu(self.head.bn(x)))

    def fuse(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixes coarse and fine logits. Returns (out `[sites, classes]`, weight of the coarse ones `[sites]`)."""
        columns = [part for y in (y1, y2) for part in (softmax(y), entropy(y.t()[None]).t())]
        weights = softmax(self.gate(torch.cat(columns, 1)))
        return self.fuser(weights[:, :1] * y1 + weights[:, 1:] * y2), weights[:, 0]

    def forward(
        self, pyramid: sparse.Pyramid, rgb: torch.Tensor, y1: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(y2, out)` at the sites of the pyramid."""
        y2 = self.refine(pyramid, self.site_features(rgb, y1))
        return y2, self.fuse(y1, y2)[0]

    def macs(self, pyramid: sparse.Pyramid) -> int:
        """Multiply-accumulates of the sparse convolutions, existing neighbours only; without head, gate and fuser."""

        def filled(table: torch.Tensor, inputs: int) -> int:
            return int((table < inputs).sum())

        total = filled(pyramid.same[0], pyramid.levels[0].count) * self.stem.weight[0].numel()
        for i, stage in enumerate(self.levels):
            sites = pyramid.levels[i].count
            same = filled(pyramid.same[i], sites)
            for block in [*stage.pre, *getattr(stage, "post", [])]:
                total += same * (block.conv1.weight[0].numel() + block.conv2.weight[0].numel())
                total += sites * (block.projection.numel() if hasattr(block, "projection") else 0)
            if hasattr(stage, "down"):
                total += 2 * filled(pyramid.down[i], sites) * stage.down.weight[0].numel()
        return total

    def _level(self, i: int, x: torch.Tensor, pyramid: sparse.Pyramid) -> torch.Tensor:
        stage, table = self.levels[i], pyramid.same[i]
        for block in stage.pre:
            x = block(x, table)
        if i + 1 == len(self.levels):
            return x
        coarse = sparse.down(F.relu(stage.down.bn(x)), stage.down.weight, pyramid, i)
        coarse = self._level(i + 1, coarse, pyramid)
        fine = sparse.up(F.relu(stage.up.bn(coarse)), stage.up.weight, pyramid, i)
        x = torch.cat([x, fine], 1)
        for block in stage.post:
            x = block(x, table)
        return x


def start_as_identity(fuser: nn.Sequential, classes: int) -> None:
    """`y = relu(y) - relu(-y)`: training starts from the mix of both logits instead of having to find it first."""
    both = torch.cat([torch.eye(classes), -torch.eye(classes)])
    first, last = (cast(nn.Linear, fuser[k]) for k in (0, 2))
    with torch.no_grad():
        first.weight[: 2 * classes] = both
        first.bias[: 2 * classes] = 0
        last.weight.zero_()
        last.weight[:, : 2 * classes] = both.t()
        last.bias.zero_()


def start_as_coarse(model: Refiner) -> None:
    """The fine logits begin as the coarse decision, and every residual branch at zero: training only has to correct.

    The first channels of level 0 carry the coarse probabilities from the stem to the classifier.
    """
    classes, centre = model.classes, 4
    with torch.no_grad():
        model.stem.weight[:, :, :classes] = 0
        model.stem.weight[centre, 3:, :classes] = torch.eye(classes)
        for stage in model.levels:
            for block in [*stage.pre, *getattr(stage, "post", [])]:
                block.conv2.weight.zero_()
                if hasattr(block, "projection"):
                    width = block.projection.shape[1]
                    block.projection[:width] = torch.eye(width)
        model.classifier.weight[:, classes:] = 0
        model.classifier.weight[:, :classes] = START_SCALE * torch.eye(classes)
        model.classifier.bias.zero_()


def bundle_tensors(model: Refiner) -> dict[str, torch.Tensor]:
    """The tensors of `refiner.safetensors` by name."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
