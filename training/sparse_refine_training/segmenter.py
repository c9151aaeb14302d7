"""The dense segmenter: a small convolutional network whose logits have stride 4.

Residual stages at strides 4, 8 and 16, dilated at the last for context, and a top-down path of additions. Only Conv
(BatchNorm folds into it), Relu, Add and bilinear Resize by 2, which every ONNX runtime in use handles.
The same network serves at low resolution, trained at full resolution as the dense baseline, and as either column of
Spatial Sparsity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

LOGIT_STRIDE = 4
MULTIPLE = 16  # input sides must be multiples: every stage then halves exactly
WIDTHS = (16, 24, 64, 96)
DECODER = 32
DILATIONS = (2, 4)


def conv(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, dilation: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution, BatchNorm and, by default, ReLU."""
    layers = [
        nn.Conv2d(inputs, outputs, size, stride, dilation * (size // 2), dilation, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class Block(nn.Module):
    """Two 3x3 convolutions around an identity."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = conv(width, width, dilation=dilation)
        self.second = conv(width, width, dilation=dilation, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.second(self.first(x)))


class Segmenter(nn.Module):
    """Normalised image `[n, 3, h, w]` to logits `[n, classes, h/4, w/4]`; sides are multiples of 16."""

    def __init__(self, classes: int, widths: Sequence[int] = WIDTHS, decoder: int = DECODER) -> None:
        super().__init__()
        self.classes = classes
        a, b, c, d = widths
        self.stem = conv(3, a, stride=2)
        self.stage4 = nn.Sequential(conv(a, b, stride=2), Block(b))
        self.stage8 = nn.Sequential(conv(b, c, stride=2), Block(c))
        self.stage16 = nn.Sequential(conv(c, d, stride=2), *(Block(d, dilation) for dilation in DILATIONS))
        self.from16, self.from8, self.from4 = (conv(w, decoder, 1, relu=False) for w in (d, c, b))
        self.merge8, self.merge4 = conv(decoder, decoder), conv(decoder, decoder)
        self.head = nn.Conv2d(decoder, classes, 1)

    def features(self, image: torch.Tensor, extra: torch.Tensor | None = None) -> torch.Tensor:
        """What the head reads, `[n, decoder, h/4, w/4]`; `extra`: a map of that shape, added before the last merge."""
        if image.shape[-1] % MULTIPLE or image.shape[-2] % MULTIPLE:
            raise ValueError(f"input is {image.shape[-1]}x{image.shape[-2]}: sides must be multiples of {MULTIPLE}")
        x4 = self.stage4(self.stem(image))
        x8 = self.stage8(x4)
        x16 = self.stage16(x8)
        y = self.merge8(F.relu(double(self.from16(x16)) + self.from8(x8)))
        y = double(y) + self.from4(x4)
        return self.merge4(F.relu(y if extra is None else y + extra))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image))


def double(x: torch.Tensor) -> torch.Tensor:
    """Bilinear, half-pixel centres."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def macs(model: nn.Module, size: tuple) -> int:
    """Multiply-accumulates of the convolutions for an input of (height, width)."""
    total, hooks = 0, []

    def count(module: nn.Conv2d, _: tuple, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0, 0].numel() * module.weight.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(count))
    training = model.training
    model.eval()  # the zeros are no data: running statistics stay
    with torch.no_grad():
        model(torch.zeros(1, 3, *size))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return total
