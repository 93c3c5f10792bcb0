"""What a network sees of an image, and the way back: channel statistics and ZCA whitening.

Shapes in comments: n images, C channels, H x W pixels, d = C*H*W features, of a block where
images are whitened in blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from raydd.data.index import Index
from raydd.errors import ConfigError, DataError

Style = Literal["dc", "frepo"]
Statistic = tuple[tuple[float, ...], tuple[float, ...]]

_IMAGENET: Statistic = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
_CIFAR100: Statistic = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))

#: Channel (mean, std) of pixels in [0, 1] as the papers' code has them, by data set and style. `dc` is DC, DSA and DM
#: (and, for Imagenette and ImageWoof, MTT); `frepo` is FRePo.
STATISTICS: dict[str, dict[Style, Statistic]] = {
    "mnist": {"dc": ((0.1307,), (0.3081,)), "frepo": ((0.1307,), (0.3081,))},
    "fashion-mnist": {"dc": ((0.2861,), (0.3530,)), "frepo": ((0.2861,), (0.3530,))},
    "svhn": {"dc": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))},
    "cifar10": {"dc": (_CIFAR10_MEAN, (0.2023, 0.1994, 0.2010)), "frepo": (_CIFAR10_MEAN, (0.2470, 0.2435, 0.2616))},
    "cifar100": {"dc": _CIFAR100, "frepo": _CIFAR100},
    "tiny-imagenet": {"dc": _IMAGENET, "frepo": ((0.4759, 0.4481, 0.3926), (0.2763, 0.2687, 0.2813))},
    "imagenette": {"dc": _IMAGENET, "frepo": ((0.4626, 0.4588, 0.4251), (0.2790, 0.2745, 0.2973))},
    "imagewoof": {"dc": _IMAGENET, "frepo": ((0.4917, 0.4613, 0.3931), (0.2513, 0.2442, 0.2530))},
    "imagenet": {"frepo": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758))},
    "cub-200": {"frepo": ((0.4810, 0.4964, 0.4245), (0.2129, 0.2084, 0.2468))},
}

BLOCK = 64  # FRePo whitens blocks of this edge where images are larger


def statistics(name: str, style: Style) -> tuple[Tensor, Tensor] | None:
    """Return the published channel (mean, std) of a data set, float32 `(C,)` each, or None where there are none."""
    entry = STATISTICS.get(name, {}).get(style)
    return None if entry is None else (torch.tensor(entry[0]), torch.tensor(entry[1]))


def channel_statistics(index: Index, classes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """Return the exact channel (mean, population std) of some classes' pixels in [0, 1], float32 `(C,)` each.

    No image is read: the index holds the sums.

    Args:
        index: The packed set.
        classes: Positions in `index.classes`; None for all.

    Raises:
        DataError: All pixels of a channel are equal, so that it cannot be scaled.
    """
    rows = list(range(len(index.classes))) if classes is None else list(classes)
    pixels = int(index.counts[rows].sum()) * index.size**2
    sums = [int(v) for v in index.channel_sum[rows].sum(axis=0)]
    squares = [int(v) for v in index.channel_sq[rows].sum(axis=0)]
    # In integers up to here: the difference of squares cancels nothing.
    variances = [(pixels * sq - s * s) / (pixels * 255) ** 2 for s, sq in zip(sums, squares, strict=True)]
    if min(variances) == 0:
        raise DataError(f"{index.name} {index.split}: expected pixels that differ, got a channel of equal ones")
    mean = torch.tensor([s / (pixels * 255) for s in sums])
    return mean, torch.tensor([v**0.5 for v in variances])


@dataclass(frozen=True, eq=False)
class Zca:
    """A whitening of channel-normalised images: `y = (x - mean) W`, per block where images are larger than 64 pixels.

    With a `scale` (variant `rtp`) an image is first brought to mean 0 and norm 1 on its own: `y = W (x - m(x)) / |x - m(x)|`.
    Its brightness and contrast are lost then, and `inverse` gives those of the average training image.

    Attributes:
        variant: Whose recipe it was fitted by: `frepo` or `rtp`.
        mean: float32 `(C, H, W)`, the per-pixel training mean; of `rtp` the mean brightness everywhere.
        whiten: float32 `(d, d)`, symmetric.
        unwhiten: float32 `(d, d)`, its inverse.
        stride: Blocks are the sub-grids of every `stride`-th pixel; 1 whitens the whole image.
        scale: Of `rtp` only, float32 `()`: the mean norm of centred training images.
    """

    variant: str
    mean: Tensor
    whiten: Tensor
    unwhiten: Tensor
    stride: int
    scale: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Whiten float32 `(n, C, H, W)`."""
        x = x - self.mean if self.scale is None else _unit(x)[0]
        return _merge(_blocks(x, self.stride) @ self.whiten, x.shape, self.stride)

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `apply`, up to each image's own brightness and contrast where there is a `scale`."""
        x = _merge(_blocks(y, self.stride) @ self.unwhiten, y.shape, self.stride)
        return (x if self.scale is None else x * self.scale) + self.mean


@dataclass(frozen=True, eq=False)
class Transform:
    """Pixels in [0, 1] to what networks are trained on, and back: `(x - mean) / std`, then `zca` where there is one.

    Attributes:
        mean: float32 `(C,)`.
        std: float32 `(C,)`, positive.
        zca: Whitening of the normalised images.
    """

    mean: Tensor
    std: Tensor
    zca: Zca | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return what a network sees.

        Args:
            x: `(n, C, H, W)`, uint8, or floating in [0, 1].

        Returns:
            float32 `(n, C, H, W)`.
        """
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        x = (x - self.mean[:, None, None]) / self.std[:, None, None]
        return x if self.zca is None else self.zca.apply(x)

    def inverse(self, x: Tensor) -> Tensor:
        """Return pixels, nominally in [0, 1] but not clamped, of what a network sees; float32 `(n, C, H, W)`."""
        x = x if self.zca is None else self.zca.inverse(x)
        return x * self.std[:, None, None] + self.mean[:, None, None]

    def pixels(self, x: Tensor) -> Tensor:
        """Return uint8 pixels `(n, C, H, W)`, clamped, for looking at."""
        return (self.inverse(x) * 255).round().clamp(0, 255).to(torch.uint8)

    def to(self, device: torch.device | str) -> Transform:
        """Return the same transform with its tensors on `device`."""
        z = self.zca
        if z is not None:
            scale = None if z.scale is None else z.scale.to(device)
            z = Zca(z.variant, z.mean.to(device), z.whiten.to(device), z.unwhiten.to(device), z.stride, scale)
        return Transform(self.mean.to(device), self.std.to(device), z)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are too large for JSON; none without ZCA."""
        z = self.zca
        if z is None:
            return {}
        tensors = {"zca.mean": z.mean, "zca.whiten": z.whiten, "zca.unwhiten": z.unwhiten}
        return tensors if z.scale is None else tensors | {"zca.scale": z.scale}

    def to_json(self) -> dict[str, Any]:
        """Return everything else; floats are the float32 values exactly."""
        zca = None if self.zca is None else {"variant": self.zca.variant, "stride": self.zca.stride}
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "zca": zca}

    @staticmethod
    def from_parts(tensors: Mapping[str, Tensor], json: Mapping[str, Any]) -> Transform:
        """Put together again what `to_tensors` and `to_json` gave.

        Raises:
            DataError: They do not fit, or are not numbers.
        """
        try:
            mean, std = torch.tensor(json["mean"]), torch.tensor(json["std"])
            zca = None
            if json["zca"] is not None:
                m, w, u = (tensors[f"zca.{name}"] for name in ("mean", "whiten", "unwhiten"))
                variant = str(json["zca"]["variant"])
                scale = tensors["zca.scale"] if variant == "rtp" else None
                zca = Zca(variant, m, w, u, int(json["zca"]["stride"]), scale)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"expected a transform's mean, std and zca, got something else ({error!r})") from error
        _check(mean, std, zca)
        return Transform(mean, std, zca)


def fit_zca_frepo(batches: Iterable[Tensor], transform: Transform, *, ridge: float = 0.1) -> Zca:
    """Fit FRePo's whitening on a training split.

    With X the channel-normalised images minus their per-pixel mean, `cov = X^T X / n`, `r = ridge * trace(cov) / d`,
    `cov + r I = U diag(s) U^T` (s descending) and W = U diag(s^-1/2) U^T, where slots beyond n of s are set to 1.
    Images of more than 64 pixels are split into sub-grids of every k-th pixel, k = H / 64, whose covariances are
    averaged: one W serves them all.

    The covariance is accumulated in float64 batch by batch, so its bits depend on the batches' sizes and order.

    Args:
        batches: uint8 `(n, C, H, W)`, the whole split once.
        transform: The channel normalisation; its own `zca` is not applied.
        ridge: The share of the mean eigen-value that is added to every one.

    Raises:
        ConfigError: Images are larger than 64 pixels and no multiple of 64.
        DataError: There is no batch.

    References:
        Zhou et al., Dataset Distillation using Neural Feature Regression, NeurIPS 2022, and its code.
    """
    normalise = Transform(transform.mean, transform.std)
    fit = _moments(normalise(batch).double() for batch in batches)
    mean = fit.total / fit.num
    centres = _blocks(mean[None], fit.stride)
    cov = (fit.square / fit.num - centres.T @ centres) / fit.stride**2
    whiten, unwhiten = _roots(cov, ridge, rank=fit.num)
    return Zca("frepo", mean.float(), whiten.float(), unwhiten.float(), fit.stride)


def rtp_ridge(name: str) -> float:
    """Return the ridge of RTP's whitening for a data set: 0.1, but 100 on SVHN."""
    return 100.0 if name == "svhn" else 0.1


def fit_zca_rtp(batches: Iterable[Tensor], *, ridge: float = 0.1) -> Zca:
    """Fit RTP's whitening on a training split; KIP's is the same.

    With X the images minus their own mean, each divided by its own norm, `X^T X / n = U diag(s) U^T` (not centred by the
    pixel) and W = U diag((s + ridge * mean(s))^-1/2) U^T. It goes with no channel normalisation: mean 0 and std 1.
    Images of more than 64 pixels are whitened in blocks, as in `fit_zca_frepo`; the authors have none.

    Args:
        batches: uint8 `(n, C, H, W)`, the whole split once.
        ridge: The share of the mean eigen-value that is added to every one; see `rtp_ridge`.

    Raises:
        ConfigError: Images are larger than 64 pixels and no multiple of 64.
        DataError: There is no batch.

    References:
        Deng & Russakovsky, Remember the Past, NeurIPS 2022, and its code; Nguyen et al., Dataset Meta-Learning from Kernel
        Ridge-Regression, ICLR 2021.
    """
    levels, norms = [], []

    def unit(batch: Tensor) -> Tensor:
        x, level, norm = _unit(batch.double() / 255)
        levels.append(level.sum())
        norms.append(norm.sum())
        return x

    fit = _moments(unit(batch) for batch in batches)
    whiten, unwhiten = _roots(fit.square / fit.num / fit.stride**2, ridge)
    level, norm = ((torch.stack(sums).sum() / fit.num).float() for sums in (levels, norms))
    return Zca("rtp", level.expand(fit.total.shape).clone(), whiten.float(), unwhiten.float(), fit.stride, norm)


def _unit(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (n, C, H, W) brought to mean 0 and norm 1 each (one of equal pixels to 0), their means and norms."""
    level = x.mean((1, 2, 3), keepdim=True)
    centred = x - level
    norm = centred.square().sum((1, 2, 3), keepdim=True).sqrt()
    # A uniform image's rounding errors are not to be blown up to norm 1.
    flat = norm <= 1e-6 * x.shape[1:].numel() ** 0.5
    return torch.where(flat, 0, centred / torch.where(flat, 1, norm)), level, norm


@dataclass(frozen=True, slots=True)
class _Moments:
    """Sums over images: their number, themselves (C, H, W), and the products of their blocks' pixels (d, d)."""

    num: int
    stride: int
    total: Tensor
    square: Tensor


def _moments(batches: Iterable[Tensor]) -> _Moments:
    """Sum up float64 images, batch by batch.

    Raises:
        DataError: There is no batch.
    """
    num, stride = 0, 1
    total, square = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    for x in batches:
        if num == 0:
            stride = _stride(x.shape[-1])
            dim = x.shape[1:].numel() // stride**2
            total, square = torch.zeros(x.shape[1:], dtype=x.dtype), torch.zeros(dim, dim, dtype=x.dtype)
        num += len(x)
        total += x.sum(dim=0)
        flat = _blocks(x, stride)
        square += flat.T @ flat
    if num == 0:
        raise DataError("expected images to fit a ZCA whitening on, got none")
    return _Moments(num, stride, total, square)


def _roots(cov: Tensor, ridge: float, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Return W and its inverse of a covariance, float64 (d, d); FRePo sets eigen-values beyond the `rank` to 1."""
    dim = len(cov)
    cov = cov + ridge * cov.trace() / dim * torch.eye(dim, dtype=cov.dtype)
    # The SVD of a symmetric positive definite matrix is its eigen-decomposition; eigh gives it ascending.
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    values, vectors = values.flip(0).clone(), vectors.flip(1)
    values[dim if rank is None else rank :] = 1
    return (vectors * values.rsqrt()) @ vectors.T, (vectors * values.sqrt()) @ vectors.T


def _stride(edge: int) -> int:
    if edge <= BLOCK:
        return 1
    if edge % BLOCK:
        raise ConfigError(
            f"data.zca needs images of at most 64 pixels or a multiple of 64, got {edge}: pack with --size"
        )
    return edge // BLOCK


def _blocks(x: Tensor, stride: int) -> Tensor:
    """Bring (n, C, H, W) to (n*stride^2, d): the sub-grids of every stride-th pixel, flattened."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // stride, stride, w // stride, stride)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n * stride**2, -1)


def _merge(flat: Tensor, shape: torch.Size, stride: int) -> Tensor:
    """Undo `_blocks`."""
    n, c, h, w = shape
    x = flat.reshape(n, stride, stride, c, h // stride, w // stride)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c, h, w)


def _check(mean: Tensor, std: Tensor, zca: Zca | None) -> None:
    good = mean.ndim == 1 and mean.shape == std.shape and len(mean) in (1, 3) and bool((std > 0).all())
    if not good or not bool(torch.isfinite(torch.stack([mean, std])).all()):
        raise DataError(
            f"expected finite channel means and positive deviations, got {mean.tolist()} and {std.tolist()}"
        )
    if zca is None:
        return
    dim = zca.mean.numel() // max(zca.stride, 1) ** 2
    shapes = [tuple(t.shape) for t in (zca.mean, zca.whiten, zca.unwhiten)]
    if zca.stride < 1 or zca.mean.ndim != 3 or len(zca.mean) != len(mean) or shapes[1:] != [(dim, dim)] * 2:
        raise DataError(f"expected a whitening's mean and two square matrices that fit it, got shapes {shapes}")
    if zca.scale is not None and not (zca.scale.ndim == 0 and bool(zca.scale > 0)):
        raise DataError(f"expected a whitening's scale to be one positive number, got {zca.scale.tolist()}")
