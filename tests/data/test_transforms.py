from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raydd.data import transforms
from raydd.data.index import load_index
from raydd.data.pack import pack
from raydd.data.reader import RealData
from raydd.data.transforms import (
    STATISTICS,
    Transform,
    Zca,
    channel_statistics,
    fit_zca_frepo,
    fit_zca_rtp,
    rtp_ridge,
    statistics,
)
from raydd.errors import ConfigError, DataError
from raydd.seeding import generator
from raydd.store import Folder
from tests.data.makers import pixels, small_mnist, write_folder


def noise(n: int, c: int, size: int, key: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, c, size, size), dtype=torch.uint8, generator=generator(0, "test", key))


# channel statistics


def test_published_statistics_by_hand() -> None:
    mean, std = statistics("cifar10", "dc") or pytest.fail("none")
    assert torch.equal(mean, torch.tensor([0.4914, 0.4822, 0.4465]))
    assert torch.equal(std, torch.tensor([0.2023, 0.1994, 0.2010]))
    _, std = statistics("cifar10", "frepo") or pytest.fail("none")
    assert torch.equal(std, torch.tensor([0.2470, 0.2435, 0.2616]))
    assert statistics("svhn", "frepo") is None
    assert statistics("digits", "dc") is None
    assert all(len(m) == len(s) in (1, 3) for styles in STATISTICS.values() for m, s in styles.values())


def test_exact_statistics_of_any_classes(tmp_path: Path) -> None:
    arrays = [pixels(i, 4, 4, 3) // (i + 1) for i in range(5)]
    write_folder(tmp_path / "set", {"a": arrays[:1], "b": arrays[1:3], "c": arrays[3:]})
    index = pack(f"folder:{tmp_path / 'set'}", str(tmp_path / "out"))
    for classes, chosen in ((None, arrays), ([2, 0], [arrays[0], *arrays[3:]])):
        values = np.stack(chosen).astype(np.float64) / 255
        mean, std = channel_statistics(index, classes)
        np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(std, values.std(axis=(0, 1, 2)), rtol=1e-6)


def test_constant_channel_cannot_be_scaled(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {"a": [np.full((4, 4, 3), 255, np.uint8)]})
    index = pack(f"folder:{tmp_path / 'set'}", str(tmp_path / "out"))
    with pytest.raises(DataError, match="expected pixels that differ"):
        channel_statistics(index)


# transforms


def test_transform_by_hand() -> None:
    transform = Transform(torch.tensor([0.5]), torch.tensor([0.25]))
    got = transform(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3))
    torch.testing.assert_close(got, torch.tensor([-2.0, -1.2, 2.0]).view(1, 1, 1, 3))
    torch.testing.assert_close(transform(torch.tensor([[[[0.2]]]], dtype=torch.float64)), torch.tensor([[[[-1.2]]]]))
    assert transform.pixels(torch.tensor([[[[-9.0, -1.2, 9.0]]]])).flatten().tolist() == [0, 51, 255]
    torch.testing.assert_close(transform.inverse(torch.tensor([[[[9.0]]]])), torch.tensor([[[[2.75]]]]))


def test_pixels_come_back_exactly() -> None:
    x = noise(8, 3, 6)
    transform = Transform(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1]))
    assert torch.equal(transform.pixels(transform(x)), x)
    whitened = Transform(transform.mean, transform.std, fit_zca_frepo([x], transform))
    assert torch.equal(whitened.pixels(whitened(x)), x)


# ZCA


def reference_zca(x: torch.Tensor, transform: Transform) -> np.ndarray:
    """FRePo's whitening as methods.md writes it, by numpy's SVD."""
    flat = transform(x).double().numpy().reshape(len(x), -1)
    flat = flat - flat.mean(axis=0)
    dim = flat.shape[1]
    cov = flat.T @ flat / len(x)
    u, s, _ = np.linalg.svd(cov + 0.1 * np.trace(cov) / dim * np.eye(dim))
    roots = s**-0.5
    roots[len(x) :] = 1
    return u @ np.diag(roots) @ u.T


PLAIN = Transform(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1]))


def test_zca_is_the_papers_and_streams() -> None:
    x = noise(200, 3, 4)
    zca = fit_zca_frepo(x.split(64), PLAIN)
    np.testing.assert_allclose(zca.whiten.numpy(), reference_zca(x, PLAIN), atol=2e-5)
    torch.testing.assert_close(zca.mean, PLAIN(x).mean(dim=0))
    identity = torch.eye(48)
    torch.testing.assert_close(zca.whiten @ zca.unwhiten, identity, atol=1e-4, rtol=0)


def test_zca_with_fewer_images_than_pixels_sets_the_rest_to_one() -> None:
    x = noise(20, 3, 4)
    zca = fit_zca_frepo([x], PLAIN)
    values = torch.linalg.eigvalsh(zca.whiten.double())
    assert int((values - 1).abs().lt(1e-5).sum()) == 28
    # Twenty centred images span 19 dimensions: where the twentieth slot's vector points is arbitrary, so compare on them.
    centred = (PLAIN(x) - zca.mean).flatten(1).double().numpy()
    np.testing.assert_allclose(centred @ zca.whiten.numpy(), centred @ reference_zca(x, PLAIN), atol=1e-4)


def test_zca_whitens() -> None:
    x = noise(4000, 1, 3)
    mixed = (x.float() * 0.3 + x.float().roll(1, dims=-1) * 0.6).to(torch.uint8)
    transform = Transform(torch.tensor([0.4]), torch.tensor([0.2]))
    whitened = fit_zca_frepo([mixed], transform, ridge=1e-6).apply(transform(mixed)).flatten(1)
    torch.testing.assert_close(whitened.T @ whitened / 4000, torch.eye(9), atol=2e-3, rtol=0)


def test_zca_of_large_images_shares_one_matrix_over_checkerboard_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "BLOCK", 2)
    x = noise(300, 1, 4)
    plain = Transform(torch.tensor([0.5]), torch.tensor([0.3]))
    zca = fit_zca_frepo([x], plain)
    assert (zca.stride, zca.whiten.shape, zca.mean.shape) == (2, (4, 4), (1, 4, 4))
    y = plain(x).double() - plain(x).double().mean(dim=0)
    grids = [y[:, 0, i::2, j::2].reshape(300, 4) for i in (0, 1) for j in (0, 1)]
    cov = torch.stack([g.T @ g / 300 for g in grids]).mean(dim=0)
    values, vectors = torch.linalg.eigh(cov + 0.1 * cov.trace() / 4 * torch.eye(4, dtype=torch.float64))
    expected = (vectors * values**-0.5) @ vectors.T
    torch.testing.assert_close(zca.whiten, expected.float(), atol=1e-5, rtol=0)
    # Pixels of different sub-grids do not mix.
    got = zca.apply(plain(x))
    torch.testing.assert_close(got[:, 0, 1::2, 0::2].reshape(300, 4), (grids[2] @ expected).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(zca.inverse(got), plain(x), atol=1e-4, rtol=0)


def test_zca_of_sizes_that_are_no_multiple() -> None:
    with pytest.raises(ConfigError, match="at most 64 pixels or a multiple of 64, got 96"):
        fit_zca_frepo([noise(1, 1, 96)], Transform(torch.tensor([0.5]), torch.tensor([0.3])))


def test_zca_of_nothing() -> None:
    with pytest.raises(DataError, match="expected images to fit"):
        fit_zca_frepo([], PLAIN)


def test_zca_from_packed_data(tmp_path: Path) -> None:
    images, _ = small_mnist(tmp_path / "mnist")
    pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"))
    index = load_index(Folder(str(tmp_path / "out")))
    transform = Transform(*channel_statistics(index))
    data = RealData(str(tmp_path / "out"))
    zca = fit_zca_frepo((x for x, _ in data.stream(7)), transform)
    expected = transform(torch.from_numpy(images)[:, None]).mean(dim=0)
    torch.testing.assert_close(zca.mean, expected, atol=1e-5, rtol=1e-5)


# ZCA of RTP

BARE = Transform(torch.zeros(3), torch.ones(3))


def unit_rows(x: torch.Tensor) -> np.ndarray:
    """Images as RTP normalises them, from raw bytes by numpy: each minus its own mean, over its own norm."""
    flat = x.numpy().reshape(len(x), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.mark.parametrize("ridge", [0.1, 100.0])
def test_rtp_zca_is_the_papers_and_streams(ridge: float) -> None:
    x = noise(200, 3, 4)
    zca = fit_zca_rtp(x.split(64), ridge=ridge)
    rows = unit_rows(x)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    expected = vectors @ np.diag((values + ridge * values.mean()) ** -0.5) @ vectors.T
    np.testing.assert_allclose(zca.whiten.numpy(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(zca.whiten @ zca.unwhiten, torch.eye(48), atol=1e-4, rtol=0)
    got = Transform(BARE.mean, BARE.std, zca)(x)
    np.testing.assert_allclose(got.flatten(1).numpy(), rows @ expected, rtol=1e-3, atol=1e-4)


def test_rtp_zca_whitens() -> None:
    x = noise(4000, 1, 3)
    mixed = (x.float() * 0.3 + x.float().roll(1, dims=-1) * 0.6).to(torch.uint8)
    zca = fit_zca_rtp([mixed], ridge=1e-9)
    whitened = zca.apply(mixed.float()).flatten(1)
    # Without the direction of equal pixels, which every image's own mean took away, the covariance is the identity.
    expected = torch.eye(9) - torch.full((9, 9), 1 / 9)
    torch.testing.assert_close(whitened.T @ whitened / 4000, expected, atol=2e-3, rtol=0)


def test_rtp_zca_forgets_brightness_and_contrast_only() -> None:
    x = noise(100, 3, 4)
    transform = Transform(BARE.mean, BARE.std, fit_zca_rtp([x]))
    pixels = x[:5].float() / 255
    torch.testing.assert_close(transform(pixels * 0.3 + 0.4), transform(pixels), atol=1e-4, rtol=1e-4)
    # The inverse has the direction of the image, and brightness and contrast of the average one.
    back = transform.inverse(transform(pixels))
    flat = x.float().flatten(1) / 255
    norms = (flat - flat.mean(1, keepdim=True)).norm(dim=1)
    np.testing.assert_allclose(unit_rows(back), unit_rows(pixels), atol=1e-4)
    torch.testing.assert_close(back.mean((1, 2, 3)), flat.mean().expand(5), atol=1e-4, rtol=0)
    contrast = (back - back.mean((1, 2, 3), keepdim=True)).flatten(1).norm(dim=1)
    torch.testing.assert_close(contrast, norms.mean().expand(5), rtol=1e-3, atol=0)


def test_rtp_zca_looks_right() -> None:
    """Pixels come back as they were but for brightness and contrast: here nearly those of the average image."""
    x = noise(500, 3, 8)
    transform = Transform(BARE.mean, BARE.std, fit_zca_rtp([x]))
    gap = (transform.pixels(transform(x)).int() - x.int()).abs()
    assert gap.float().mean() < 6
    assert gap.max() < 40


def test_rtp_zca_of_a_uniform_image_is_finite() -> None:
    x = torch.cat([noise(20, 3, 4), torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)])
    zca = fit_zca_rtp([x])
    transform = Transform(BARE.mean, BARE.std, zca)
    assert zca.whiten.isfinite().all()
    assert transform(x)[-1].abs().max() == 0
    assert transform.inverse(transform(x))[-1].unique().numel() == 1


def test_rtp_zca_of_large_images_shares_one_matrix_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "BLOCK", 2)
    x = noise(300, 1, 4)
    zca = fit_zca_rtp([x])
    y = torch.from_numpy(unit_rows(x)).view(300, 4, 4)
    grids = [y[:, i::2, j::2].reshape(300, 4) for i in (0, 1) for j in (0, 1)]
    cov = torch.stack([g.T @ g / 300 for g in grids]).mean(dim=0)
    values, vectors = torch.linalg.eigh(cov)
    expected = (vectors * (values + 0.1 * values.mean()) ** -0.5) @ vectors.T
    torch.testing.assert_close(zca.whiten, expected.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(zca.apply(x.float())[:, 0, 1::2, ::2].reshape(300, 4), (grids[2] @ expected).float())


def test_rtp_ridges() -> None:
    assert (rtp_ridge("svhn"), rtp_ridge("cifar10")) == (100.0, 0.1)


def test_rtp_zca_of_nothing() -> None:
    with pytest.raises(DataError, match="expected images to fit"):
        fit_zca_rtp([])


# parts


def test_parts_round_trip() -> None:
    x = noise(50, 3, 3)
    for zca in (None, fit_zca_frepo([x], PLAIN), fit_zca_rtp([x])):
        transform = Transform(PLAIN.mean, PLAIN.std, zca)
        again = Transform.from_parts(transform.to_tensors(), transform.to_json())
        assert torch.equal(again(x), transform(x))
        assert torch.equal(again.to("cpu")(x), transform(x))
        assert torch.equal(again.to("cpu").inverse(transform(x)), transform.inverse(transform(x)))
    assert PLAIN.to_tensors() == {}


def test_parts_that_do_not_fit() -> None:
    zca = Zca("frepo", torch.zeros(1, 2, 2), torch.eye(4), torch.eye(4), 1)
    transform = Transform(torch.tensor([0.5]), torch.tensor([0.3]), zca)
    tensors, json = transform.to_tensors(), transform.to_json()
    bad = [
        ({}, json),
        (tensors, json | {"mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0]}),
        (tensors, json | {"std": [0.0]}),
        (tensors, json | {"std": [float("nan")]}),
        (tensors, json | {"mean": "x"}),
        (tensors, {"mean": [0.5]}),
        (tensors, json | {"zca": {"variant": "frepo", "stride": 2}}),
        (tensors, json | {"zca": {"variant": "frepo", "stride": 0}}),
        (tensors | {"zca.whiten": torch.eye(3)}, json),
        (tensors, json | {"zca": {"variant": "rtp", "stride": 1}}),
        (tensors | {"zca.scale": torch.tensor(0.0)}, json | {"zca": {"variant": "rtp", "stride": 1}}),
        (tensors | {"zca.scale": torch.ones(2)}, json | {"zca": {"variant": "rtp", "stride": 1}}),
    ]
    for parts in bad:
        with pytest.raises(DataError, match="expected"):
            Transform.from_parts(*parts)
