"""Sparse 3x3 convolutions over active pixels, with the index rules of the product (docs/bundle.md, METHODS 1.2).

A level's sites are the true pixels of a mask `[images, rows, columns]` in row-major order; features are
`[sites, channels]`. Kernels are `[9, in, out]` with tap `k = dr + 3*dc`: the row offset runs fastest. Every operator is
a table, `table[output, k]` = number of the input site or, where there is none, the number of inputs; and one
gather-GEMM over it. Images never share a neighbour, so a batch computes what each image computes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

TAPS = [(k % 3, k // 3) for k in range(9)]  # (dr, dc) of each tap
BOUNDS = ("image", "active")
CHUNK = 1 << 12  # outputs whose inputs are gathered at once: they stay in a core's second cache
GPU_CHUNK = 1 << 20  # few launches; a GB at 32 channels


class Level:
    """The active sites of one resolution."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask
        self.sites = mask.nonzero()  # [sites, 3]: image, row, column
        self.count = len(self.sites)
        images, height, width = mask.shape
        # A border of one pixel, so that neighbours outside the image need no test. 32 bits halve what the tables take.
        self._index = torch.full((images, height + 2, width + 2), self.count, dtype=torch.int32)
        self._index[:, 1:-1, 1:-1][mask] = torch.arange(self.count, dtype=torch.int32)

    def around(self, sites: torch.Tensor) -> torch.Tensor:
        """Numbers of the sites in the 3x3 window whose first pixel is (image, row, column), `count` where there is none.

        Taps are columns of the result. Windows may reach one pixel beyond the image.
        """
        _, height, width = self._index.shape
        image, row, column = sites.unbind(1)
        first = (image * height + row + 1) * width + column + 1
        taps = torch.tensor([dr * width + dc for dr, dc in TAPS])
        windows = first[:, None] + taps
        return self._index.view(-1).index_select(0, windows.view(-1)).view(windows.shape)


def submanifold_table(level: Level) -> torch.Tensor:
    """`y[r, c] = sum_k K[k]^T x[r + dr - 1, c + dc - 1]` at the same sites."""
    return level.around(level.sites - torch.tensor([0, 1, 1]))


def down_level(level: Level, bound: str) -> Level:
    """Sites at stride 2: any of the 3x3 inputs at `2*o + d` is active, and `0 <= o <= B` on each axis.

    `B = (n - 3) // 2` with the level's size (`image`), or `B = (M - 2) // 2` with the largest active coordinate of the
    whole batch (`active`). Both amount to a max pooling without padding, of the level or of its active part.
    """
    mask = level.mask
    if bound == "active" and level.count:
        mask = mask[:, : level.sites[:, 1].max() + 1, : level.sites[:, 2].max() + 1]
    images, height, width = mask.shape
    if min(height, width) < 3:
        return Level(mask.new_zeros((images, (height - 1) // 2, (width - 1) // 2)))
    return Level(F.max_pool2d(mask[:, None].float(), 3, 2)[:, 0] > 0)


def down_table(fine: Level, coarse: Level) -> torch.Tensor:
    """`y[o] = sum_k K[k]^T x[2*o_r + dr, 2*o_c + dc]`."""
    return fine.around(coarse.sites * torch.tensor([1, 2, 2]))


def up_table(down: torch.Tensor, fine: Level) -> torch.Tensor:
    """The pairs of `down_table` the other way, `y[2*o + d] += K[k]^T x[o]`; a site without a pair gets zero."""
    outputs, taps = down.shape
    table = down.new_full((fine.count + 1, taps), outputs)
    pairs = down.long() * taps + torch.arange(taps)
    numbers = torch.arange(outputs, dtype=down.dtype)[:, None].expand_as(pairs)
    table.view(-1).scatter_(0, pairs.reshape(-1), numbers.reshape(-1))
    return table[: fine.count]  # the row after it took the taps without an input


class Pyramid:
    """Levels and tables of one batch of masks `[images, rows, columns]`, for a network of `depth` levels."""

    def __init__(self, mask: torch.Tensor, depth: int, bound: str = "image") -> None:
        if bound not in BOUNDS:
            raise ValueError(f"bound is `{bound}`, it must be one of {', '.join(BOUNDS)}")
        self.levels = [Level(mask)]
        for _ in range(depth - 1):
            self.levels.append(down_level(self.levels[-1], bound))
        self.same = [submanifold_table(level) for level in self.levels]
        pairs = list(zip(self.levels, self.levels[1:]))
        self.down = [down_table(fine, coarse) for fine, coarse in pairs]
        self.up = [up_table(table, fine) for table, fine in zip(self.down, self.levels)]

    def to(self, device: torch.device) -> Pyramid:
        """With the tables where the features are; the levels stay."""
        for tables in (self.same, self.down, self.up):
            tables[:] = [table.to(device) for table in tables]
        return self


class _GatherConv(torch.autograd.Function):
    """Both directions gather: scattering with repeated rows is slow in PyTorch on a CPU.

    The gathered rows are not kept: a chunk that stays in the cache costs less than the memory for nine times the
    features, and whole 8 MP frames fit. Backwards, the gradients that reach an input by each tap, side by side, serve
    for its own gradient and for the kernel's.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, table: torch.Tensor, reverse: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, reverse)
        out = x.new_empty(len(table), weight.shape[2])
        flat = weight.reshape(-1, weight.shape[2])
        for rows, gathered in _chunks(x, table):
            torch.mm(gathered, flat, out=out[rows])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, None, None]:
        x, weight, reverse = ctx.saved_tensors
        taps, inputs, outputs = weight.shape
        of_weight, of_x = x.new_zeros(inputs, taps * outputs), torch.empty_like(x)
        flat = weight.transpose(1, 2).reshape(-1, inputs)
        for rows, gathered in _chunks(gradient, reverse):
            of_weight.addmm_(x[rows].t(), gathered)
            if ctx.needs_input_grad[0]:
                torch.mm(gathered, flat, out=of_x[rows])
        of_weight = of_weight.view(inputs, taps, outputs).transpose(0, 1)
        return of_x if ctx.needs_input_grad[0] else None, of_weight, None, None


def _convolve(x: torch.Tensor, weight: torch.Tensor, table: torch.Tensor, reverse: torch.Tensor) -> torch.Tensor:
    """`y[o] = sum_k x[table[o, k]] K[k]`; `reverse` is the table of the same pairs from the input's side."""
    return _GatherConv.apply(x, weight, table, reverse)


def _chunks(x: torch.Tensor, table: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """(slice of the table, the rows of `x` it names side by side, `[rows, taps * channels]`), zero where it names none.

    The rows hold until the next chunk is drawn.
    """
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    taps, channels = table.shape[1], padded.shape[1]
    step = CHUNK if padded.device.type == "cpu" else GPU_CHUNK
    buffer = padded.new_empty(min(step, len(table)) * taps, channels)
    for start in range(0, len(table), step):
        part = table[start : start + step]
        gathered = buffer[: part.numel()]
        torch.index_select(padded, 0, part.reshape(-1), out=gathered)
        yield slice(start, start + len(part)), gathered.view(len(part), taps * channels)


def submanifold(x: torch.Tensor, weight: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """3x3 convolution at the input's own sites."""
    # The neighbour at offset d sees this site at -d: tap 8 - k.
    return _convolve(x, weight, table, table.flip(1))


def down(x: torch.Tensor, weight: torch.Tensor, pyramid: Pyramid, level: int) -> torch.Tensor:
    """Stride-2 convolution from `level` to `level + 1`."""
    return _convolve(x, weight, pyramid.down[level], pyramid.up[level])


def up(x: torch.Tensor, weight: torch.Tensor, pyramid: Pyramid, level: int) -> torch.Tensor:
    """Transposed convolution from `level + 1` onto the sites of `level`."""
    return _convolve(x, weight, pyramid.up[level], pyramid.down[level])
