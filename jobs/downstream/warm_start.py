"""Start a network on a distilled set, then fine-tune it on few real images: beside one that only saw the real ones.

    raydd distill jobs/configs/quickstart.yaml                        # makes runs/quickstart and shards/digits
    python jobs/downstream/warm_start.py runs/quickstart --train shards/digits/train --test shards/digits/test --real 200

Both begin with the same weights and are fine-tuned by as many updates on the same real images. The second then gets the
updates of the warm start as well, on real images: what is gained is not just longer training.
"""

import argparse
from collections.abc import Iterable
from itertools import chain, islice, repeat
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import raydd
from raydd.data.reader import RealData

Batches = Iterable[tuple[Tensor, Tensor]]


def network(channels: int, classes: int, seed: int, width: int = 64) -> nn.Module:
    """Return any network; this one is small, and for images of any size."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs in (channels, width, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, classes))


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss that the labels are for: real images have classes, a distilled set may have learned labels."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return 0.5 * (logits - labels).square().sum(1).mean()


def train(net: nn.Module, batches: Batches, updates: int, lr: float) -> None:
    """Do so many updates, epoch after epoch."""
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    for images, labels in islice(chain.from_iterable(repeat(batches)), updates):
        optimiser.zero_grad()
        loss_of(net(images), labels).backward()
        optimiser.step()


@torch.no_grad()
def accuracy(net: nn.Module, ds: raydd.DistilledSet, real: RealData) -> float:
    """Return the share of real images that are classified rightly, in percent."""
    net.eval()
    right = sum(int((net(ds.transform(images)).argmax(1) == labels).sum()) for images, labels in real.stream(500))
    return 100 * right / len(real)


def some(real: RealData, number: int, ds: raydd.DistilledSet, seed: int) -> DataLoader:
    """Return batches of a few real images, as many of each class, normalised as the distilled ones are."""
    draw, share = torch.Generator().manual_seed(seed), number // len(ds.classes)
    ids = torch.cat([ids[torch.randperm(len(ids), generator=draw)[:share]] for ids in real.by_class])
    pairs = TensorDataset(ds.transform(real.images(ids)), real.labels[ids])
    return DataLoader(pairs, batch_size=64, shuffle=True, generator=draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", metavar="SET", help="a run, or a distilled set")
    parser.add_argument("--train", required=True, metavar="SHARDS", help="packed real images to fine-tune on")
    parser.add_argument("--test", required=True, metavar="SHARDS", help="packed test images of the same classes")
    parser.add_argument("--real", type=int, default=100, help="real images to fine-tune on, of all classes together")
    parser.add_argument("--updates", type=int, default=300, help="on the distilled set")
    parser.add_argument("--fine-updates", type=int, default=100, help="on the real images")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=3, help="networks, each with a draw of real images of its own")
    said = parser.parse_args()

    ds = raydd.load(said.set)
    real, test = (RealData(url, classes=list(ds.classes)) for url in (said.train, said.test))
    if not len(ds.classes) <= said.real <= min(real.counts) * len(ds.classes):
        parser.error(f"--real must be {len(ds.classes)} to {min(real.counts) * len(ds.classes)}, got {said.real}")
    warm, fine = said.updates, said.fine_updates
    scores: dict[str, list[float]] = {}
    for seed in range(said.repeats):
        few, learned = some(real, said.real, ds, seed), ds.loader(256, seed=seed)
        begun, scratch = (network(ds.images.shape[1], len(ds.classes), seed) for _ in range(2))
        for name, net, batches, updates in (
            (f"{len(ds)} distilled images, {warm} updates", begun, learned, warm),
            (f"then {said.real} real images, {fine} updates", begun, few, fine),
            (f"{said.real} real images from scratch, {fine} updates", scratch, few, fine),
            (f"{said.real} real images from scratch, {fine + warm} updates", scratch, few, warm),
        ):
            train(net, batches, updates, said.lr)
            scores.setdefault(name, []).append(accuracy(net, ds, test))
    for name, each in scores.items():
        print(f"{name:48} {fmean(each):5.1f} %")


if __name__ == "__main__":
    main()
