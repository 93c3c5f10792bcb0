"""The small classics that sets are learned with and scored on: MLP, LeNet, AlexNet, AlexCifarNet, VGG11.

As Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, and Wang et al., "Dataset Distillation",
2018 (LeNet, AlexCifarNet), use them; the authors' code (VICO-UoE/DatasetCondensation 53f63a6, ssnl/dataset-distillation
98e4894) is the source of the facts.

Deviations from the authors' networks:

1. Images of 28 pixels are padded to 32 by the first convolution of LeNet, AlexNet and VGG11 whatever their channels are;
   the authors pad every grey image, and then have a classifier of the wrong size at other resolutions.
2. VGG11 averages its last map over all pixels, so that its classifier takes 512 features at every size. At 32 pixels the
   map is a single pixel, and nothing differs.
3. AlexNet's and AlexCifarNet's classifiers take what is left of the image at its size; at 32 pixels, the authors' numbers.
"""

from __future__ import annotations

from torch import nn

from raydd.config.net import AlexCifarNetConfig, AlexNetConfig, LeNetConfig, MLPConfig, VGG11Config
from raydd.nets.layers import BlockNet, GlobalAverage, LocalResponseNorm, check_size, norm, pad28, relu

Shape = tuple[int, int, int]

_POOLINGS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class MLP(BlockNet):
    """Two hidden layers with ReLU on the flattened image. Arguments as in `raydd.nets.build`."""

    init_law = "torch"

    def __init__(self, net: MLPConfig, shape: Shape, num_classes: int):
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.blocks = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, net.width), relu(), nn.Linear(net.width, net.width), relu()
        )
        self.classifier = nn.Linear(net.width, num_classes)


class LeNet(BlockNet):
    """LeNet-5 with ReLU and max pooling: 61,706 parameters for 10 classes of 1x28x28. Arguments as in `raydd.nets.build`.

    Raises:
        ConfigError: Images are smaller than 16 pixels.
    """

    init_law = "torch"

    def __init__(self, net: LeNetConfig, shape: Shape, num_classes: int):
        super().__init__()
        check_size(net, shape, 16)
        pad = pad28(shape)
        height, width = (((edge + 2 * pad - 4) // 2 - 4) // 2 for edge in shape[1:])
        convolutions = [nn.Conv2d(shape[0], 6, 5, padding=pad), relu(), nn.MaxPool2d(2)]
        convolutions += [nn.Conv2d(6, 16, 5), relu(), nn.MaxPool2d(2)]
        linear = [nn.Linear(16 * height * width, 120), relu(), nn.Linear(120, 84), relu()]
        self.blocks = nn.Sequential(*convolutions, nn.Flatten(), *linear)
        self.classifier = nn.Linear(84, num_classes)


class AlexNet(BlockNet):
    """DC's AlexNet for small images: 1,872,202 parameters for 10 classes of 3x32x32 without norm.

    DC's AlexNet has no norm, its AlexNetBN batch norm; RTP's has instance norm and average pooling. Arguments as in
    `raydd.nets.build`.

    Raises:
        ConfigError: Images are smaller than 8 pixels.
    """

    init_law = "torch"

    def __init__(self, net: AlexNetConfig, shape: Shape, num_classes: int):
        super().__init__()
        check_size(net, shape, 8)
        pad = pad28(shape)
        channels, height, width = shape[0], shape[1] + 2 * pad, shape[2] + 2 * pad
        layers: list[nn.Module] = []
        for outputs, kernel, pooled in (
            (128, 5, True),
            (192, 5, True),
            (256, 3, False),
            (192, 3, False),
            (192, 3, True),
        ):
            padding = kernel // 2 + (0 if layers else pad)
            layers.append(nn.Conv2d(channels, outputs, kernel, padding=padding))
            layers += [*norm(net.norm, (outputs, height, width)), relu()]
            channels = outputs
            if pooled:
                layers.append(_POOLINGS[net.pool](2))
                height, width = height // 2, width // 2
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * height * width, num_classes)


class AlexCifarNet(BlockNet):
    """DD's network for CIFAR10, with local response normalisation: 1,756,426 parameters for 10 classes of 3x32x32.

    Xavier-normal weights and zero biases, as in DD. Arguments as in `raydd.nets.build`.
    """

    init_law = "xavier"

    def __init__(self, net: AlexCifarNetConfig, shape: Shape, num_classes: int):
        super().__init__()
        height, width = ((edge + 3) // 4 for edge in shape[1:])  # twice halved, rounded up
        first = [nn.Conv2d(shape[0], 64, 5, padding=2), relu(), nn.MaxPool2d(3, 2, padding=1), _response()]
        second = [nn.Conv2d(64, 64, 5, padding=2), relu(), _response(), nn.MaxPool2d(3, 2, padding=1)]
        linear = [nn.Linear(64 * height * width, 384), relu(), nn.Linear(384, 192), relu()]
        self.blocks = nn.Sequential(*first, *second, nn.Flatten(), *linear)
        self.classifier = nn.Linear(192, num_classes)


def _response() -> nn.Module:
    return LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1.0)


class VGG11(BlockNet):
    """VGG11 with one linear layer: 9,231,114 parameters for 10 classes of 3x32x32 with norm. Arguments as in `raydd.nets.build`.

    Raises:
        ConfigError: Images are smaller than 32 pixels, 28 apart.
    """

    init_law = "torch"

    def __init__(self, net: VGG11Config, shape: Shape, num_classes: int):
        super().__init__()
        pad = pad28(shape)
        channels, height, width = shape[0], shape[1] + 2 * pad, shape[2] + 2 * pad
        check_size(net, (channels, height, width), 32)
        layers: list[nn.Module] = []
        for stage in _VGG11:
            for outputs in stage:
                layers.append(nn.Conv2d(channels, outputs, 3, padding=1 + (0 if layers else pad)))
                layers += [*norm(net.norm, (outputs, height, width)), relu()]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        self.blocks = nn.Sequential(*layers, GlobalAverage())
        self.classifier = nn.Linear(channels, num_classes)
