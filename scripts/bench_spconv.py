#!/usr/bin/env python3
"""The sparse U-Net of a bundle on spconv (CPU build, from PyPI), on the selection that `cargo bench --bench kernels` uses.

    bench_spconv.py BUNDLE [--threads N] [--runs N] [--size 3840x2160] [--percent 11]

Prints one JSON object: medians of spconv and of this repository's own PyTorch network (training/), milliseconds, index
tables included. Before anything is timed, both are compared on a small mask. Needs spconv and PyTorch.
"""

import argparse
import json
import math
import statistics
import sys
import time
import tomllib
from pathlib import Path

import spconv
import spconv.pytorch as sp
import torch
from spconv.core import ConvAlgo
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from sparse_refine_training import tensors, unet  # noqa: E402

TOLERANCE = 1e-4  # of the largest logit
TRIES = 10
NATIVE = {"bias": False, "algo": ConvAlgo.Native}  # the only algorithm of the CPU build


def bands(size, percent):
    """The mask of benches/kernels.rs: blocks of 4x4 pixels along diagonals."""
    row, column = torch.meshgrid(torch.arange(size[1]), torch.arange(size[0]), indexing="ij")
    return (column // 4 + row // 4 * 3 // 4) % 100 < percent


def load(bundle):
    manifest = tomllib.loads((bundle / "model.toml").read_text())
    spec, classes = manifest["refiner"], len(manifest["classes"])
    model = unet.Refiner(spec["planes"], spec["blocks"], classes, spec["features"], spec["bound"])
    arrays, _ = tensors.load(bundle / spec["file"])
    model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, strict=False)
    return model.eval()


def convolution(kind, weight, **settings):
    """A convolution of spconv with our kernel `[tap, in, out]`, `tap = dr + 3*dc`; spconv's is `[out, row, column, in]`."""
    _, inputs, outputs = weight.shape
    layer = kind(inputs, outputs, 3, **settings, **NATIVE)
    with torch.no_grad():
        layer.weight.copy_(weight.view(3, 3, inputs, outputs).permute(3, 1, 0, 2))
    return layer


def with_features(x, work):
    return x.replace_feature(work(x.features))


class Residual(nn.Module):
    def __init__(self, block, key):
        super().__init__()
        self.bn1, self.bn2, self.projection = block.bn1, block.bn2, getattr(block, "projection", None)
        self.conv1, self.conv2 = (
            convolution(sp.SubMConv2d, conv.weight, padding=1, indice_key=key) for conv in (block.conv1, block.conv2)
        )

    def forward(self, x):
        y = self.conv1(with_features(x, lambda f: F.relu(self.bn1(f))))
        y = self.conv2(with_features(y, lambda f: F.relu(self.bn2(f))))
        skip = x.features if self.projection is None else x.features @ self.projection
        return with_features(y, lambda f: f + skip)


class OnSpconv(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.stem = convolution(sp.SubMConv2d, model.stem.weight, padding=1, indice_key="same0")
        self.pre, self.post, self.down, self.up = (nn.ModuleList() for _ in range(4))
        for i, stage in enumerate(model.levels):
            blocks = (nn.Sequential(*(Residual(b, f"same{i}") for b in getattr(stage, part, []))) for part in ("pre", "post"))
            for part, made in zip((self.pre, self.post), blocks):
                part.append(made)
            if hasattr(stage, "down"):
                self.down.append(convolution(sp.SparseConv2d, stage.down.weight, stride=2, indice_key=f"down{i}"))
                self.up.append(convolution(sp.SparseInverseConv2d, stage.up.weight, indice_key=f"down{i}"))
        self.norms = [(s.down.bn, s.up.bn) for s in model.levels if hasattr(s, "down")]
        self.head, self.classifier = model.head, model.classifier

    def level(self, i, x):
        x = self.pre[i](x)
        if i == len(self.down):
            return x
        before, after = self.norms[i]
        coarse = self.level(i + 1, self.down[i](with_features(x, lambda f: F.relu(before(f)))))
        fine = self.up[i](with_features(coarse, lambda f: F.relu(after(f))))
        return self.post[i](with_features(x, lambda f: torch.cat([f, fine.features], 1)))

    def forward(self, mask, features):
        sites = F.pad(mask.nonzero().int(), (1, 0))
        x = self.level(0, self.stem(sp.SparseConvTensor(features, sites, list(mask.shape), 1)))
        return self.classifier(F.relu(self.head.bn(x.features)))


def median_ms(work, runs):
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times[1:]), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="with more than 1, only how often its logits are wrong")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", default="3840x2160")
    parser.add_argument("--percent", type=int, default=11)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = load(a.bundle)
    width = model.stem.weight.shape[1]
    network = OnSpconv(model).eval()

    def torch_reference(mask, features):
        return model.refine(model.pyramid(mask[None]), features)

    with torch.no_grad():
        small = bands((203, 118), 11)
        features = torch.randn(int(small.sum()), width)
        wanted = torch_reference(small, features)

        def error():
            try:
                return float((wanted - network(small, features)).abs().max() / wanted.abs().max())
            except RuntimeError:  # the sites of two levels do not fit
                return math.inf

        torch.set_num_threads(1)
        alone = error()
        if alone > TOLERANCE:
            sys.exit(f"spconv's logits differ by {alone:.1e} of the largest")
        if a.threads > 1:
            # spconv 2.3.8 then races with itself: its logits differ from run to run.
            torch.set_num_threads(a.threads)
            wrong = sum(error() > TOLERANCE for _ in range(TRIES))
            print(json.dumps({"threads": a.threads, "tries": TRIES, "wrong": wrong}))
            return
        mask = bands([int(n) for n in a.size.split("x")], a.percent)
        features = torch.randn(int(mask.sum()), width)
        print(json.dumps({
            "spconv": spconv.__version__, "torch": torch.__version__, "threads": a.threads, "runs": a.runs,
            "sites": int(mask.sum()), "largest_relative_error": alone,
            "spconv_ms": median_ms(lambda: network(mask, features), a.runs),
            "torch_ms": median_ms(lambda: torch_reference(mask, features), a.runs),
            "gmac": round(model.macs(model.pyramid(mask[None])) / 1e9, 2),
        }))


if __name__ == "__main__":
    main()
