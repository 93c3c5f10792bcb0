"""ResNet18 for small images, and its form with average pooling that images are learned with.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the 3x3 stem of the CIFAR variants, as Zhao, Mopuri &
Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, use it (VICO-UoE/DatasetCondensation 53f63a6 is the source
of the facts): `ResNet18`, and `ResNet18_AP`, in which every convolution of stride 2 has stride 1 and a 2x2 average pooling
behind it, and whose last map goes to the classifier unpooled.

Deviations from the authors' networks:

1. The last map of `resnet18` is averaged over all pixels; theirs over 4x4, which is the whole map at 32 and 28 pixels.
2. The classifier of `resnet18_ap` takes the last map that the image's size gives (4x4 at 32 pixels, 3x3 at 28); theirs takes
   3x3 for every grey image.
"""

from __future__ import annotations

import torch
from torch import nn

from raydd.config.net import ResNet18APConfig, ResNet18Config
from raydd.nets.layers import BlockNet, GlobalAverage, check_size, norm, relu

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # width and stride


class ResNet18(BlockNet):
    """ResNet18: 11,173,962 parameters for 10 classes of 3-channel images, whatever their size.

    Args:
        net: See `raydd.nets.build`; its name tells which of the two forms.
        shape: Channels, height, width of an image.
        num_classes: Number of logits.

    Raises:
        ConfigError: Images are smaller than 16 pixels: the last map would be a single pixel, which norms by the image erase.
    """

    init_law = "torch"

    def __init__(self, net: ResNet18Config | ResNet18APConfig, shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        check_size(net, shape, 16)
        average = net.name == "resnet18_ap"
        layers: list[nn.Module] = [
            nn.Conv2d(shape[0], 64, 3, padding=1, bias=False),
            *norm(net.norm, (64, 0, 0)),
            relu(),
        ]
        channels = 64
        for width, stride in _STAGES:
            layers += [
                Residual(channels, width, stride, net.norm, average),
                Residual(width, width, 1, net.norm, average),
            ]
            channels = width
        self.blocks = nn.Sequential(*layers) if average else nn.Sequential(*layers, GlobalAverage())
        pixels = (shape[1] // 8) * (shape[2] // 8) if average else 1
        self.classifier = nn.Linear(channels * pixels, num_classes)


class Residual(nn.Module):
    """Two 3x3 convolutions with norm beside a shortcut, which is a 1x1 convolution where the shape changes.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Of the first convolution and the shortcut.
        name: The norm.
        average: Stride 1 and 2x2 average pooling instead of stride 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, name: str, average: bool):
        super().__init__()
        step = 1 if average else stride
        pooling = [nn.AvgPool2d(2)] if average and stride == 2 else []
        shape = (outputs, 0, 0)
        first = [
            nn.Conv2d(inputs, outputs, 3, stride=step, padding=1, bias=False),
            *norm(name, shape),
            relu(),
            *pooling,
        ]
        second = [nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), *norm(name, shape)]
        self.residual = nn.Sequential(*first, *second)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride=step, bias=False)
            self.shortcut = nn.Sequential(convolution, *pooling, *norm(name, shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output for maps `x` `(N, inputs, H, W)`."""
        return (self.residual(x) + self.shortcut(x)).relu()
