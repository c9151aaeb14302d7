"""Sparse operators against PyTorch's dense ones on masked images, and the index rules at their edges."""

import pytest
import torch

from sparse_refine_training import dense_reference as dense
from sparse_refine_training import sparse

SIZES = [(1, 1), (2, 5), (3, 3), (8, 8), (9, 12), (17, 10)]


def masks():
    for height, width in SIZES:
        for density in (0.0, 0.3, 1.0):
            yield torch.rand(height, width) < density
        for row, column in ((0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1)):
            corner = torch.zeros(height, width, dtype=torch.bool)
            corner[row, column] = True
            yield corner


@pytest.mark.parametrize("bound", sparse.BOUNDS)
def test_operators_equal_dense_ones(bound):
    for mask in masks():
        pyramid = sparse.Pyramid(mask[None], 2, bound)
        coarse_mask = dense.down_mask(mask, bound)
        coarse = pyramid.levels[1].mask[0]
        assert torch.equal(coarse.nonzero(), coarse_mask.nonzero()), (bound, mask)
        x, y = torch.randn(int(mask.sum()), 3), torch.randn(int(coarse_mask.sum()), 4)
        widen, narrow, same = torch.randn(9, 3, 4), torch.randn(9, 4, 3), torch.randn(9, 3, 3)
        cases = [
            (sparse.submanifold(x, same, pyramid.same[0]), mask, dense.submanifold(dense.spread(mask, x), mask, same)),
            (sparse.down(x, widen, pyramid, 0), coarse_mask, dense.down(dense.spread(mask, x), coarse_mask, widen)),
            (sparse.up(y, narrow, pyramid, 0), mask, dense.up(dense.spread(coarse_mask, y), mask, narrow)),
        ]
        for found, sites, expected in cases:
            torch.testing.assert_close(found, dense.collect(sites, expected), atol=1e-5, rtol=1e-5)


def test_tap_order_runs_down_the_rows_first():
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[0, 1, 1] = mask[0, 2, 1] = True  # the neighbour below is offset dr = 2, dc = 1: tap 5
    weight = torch.arange(9.0).view(9, 1, 1)
    found = sparse.submanifold(torch.tensor([[1.0], [10.0]]), weight, sparse.Pyramid(mask, 1).same[0])
    assert found[:, 0].tolist() == [4 + 50, 3 + 40]


@pytest.mark.parametrize(
    "pixel, empty",
    [((100, 100), 2), ((101, 100), 1), ((126, 126), None)],
)
def test_active_bound_empties_the_levels_that_were_measured(pixel, empty):
    mask = torch.zeros(1, 128, 128, dtype=torch.bool)
    mask[0][pixel] = True
    counts = [level.count for level in sparse.Pyramid(mask, 6, "active").levels]
    assert (counts.index(0) if 0 in counts else None) == empty


def test_image_bound_ignores_the_rest_of_the_mask():
    alone = torch.zeros(1, 64, 64, dtype=torch.bool)
    alone[0, 30:34, 30:34] = True
    joined = alone.clone()
    joined[0, 60:, 60:] = True
    region = (slice(None), slice(10, 20), slice(10, 20))
    for bound, equal in (("image", True), ("active", False)):
        a, b = (sparse.Pyramid(mask, 2, bound).levels[1].mask for mask in (alone, joined))
        size = [min(n, m) for n, m in zip(a.shape, b.shape)]
        same = torch.equal(a[region], b[region]) and a.shape == b.shape
        assert same == equal, (bound, size)


def test_gradients_equal_dense_ones():
    mask = torch.rand(9, 12) < 0.5
    pyramid = sparse.Pyramid(mask[None], 2)
    coarse_mask = pyramid.levels[1].mask[0]
    x = torch.randn(int(mask.sum()), 3, requires_grad=True)
    weights = [torch.randn(9, *shape, requires_grad=True) for shape in ((3, 3), (3, 4), (4, 3))]
    y = sparse.submanifold(x, weights[0], pyramid.same[0])
    y = sparse.up(sparse.down(y, weights[1], pyramid, 0), weights[2], pyramid, 0)
    found = torch.autograd.grad(y.square().sum(), [x, *weights])
    image = dense.submanifold(dense.spread(mask, x), mask, weights[0])
    image = dense.up(dense.down(image, coarse_mask, weights[1]), mask, weights[2])
    expected = torch.autograd.grad(image.square().sum(), [x, *weights])
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_chunks_equal_one_piece(monkeypatch):
    mask = torch.rand(1, 20, 20) < 0.5
    table, weight = sparse.Pyramid(mask, 1).same[0], torch.randn(9, 3, 4)
    x = torch.randn(int(mask.sum()), 3)
    whole = sparse.submanifold(x, weight, table)
    monkeypatch.setattr(sparse, "CHUNK", 7)
    with torch.no_grad():
        torch.testing.assert_close(sparse.submanifold(x, weight, table), whole)


def test_unknown_bound_is_an_error():
    with pytest.raises(ValueError, match="`edge`.*image, active"):
        sparse.Pyramid(torch.zeros(1, 4, 4, dtype=torch.bool), 2, "edge")
