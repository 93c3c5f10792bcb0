"""Train an ordinary PyTorch network on a distilled set, and score it on real images.

    raydd distill jobs/configs/quickstart.yaml                        # makes runs/quickstart and shards/digits
    python jobs/downstream/pytorch.py runs/quickstart --test shards/digits/test

Sets and shards lie at any URL, such as s3://bucket/runs/NAME: a set is fetched and checked once, and kept in RAYDD_CACHE.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raydd
from raydd.data.reader import RealData


def network(channels: int, classes: int, width: int = 64) -> nn.Module:
    """Return any network; this one is small, and for images of any size."""
    layers: list[nn.Module] = []
    for inputs in (channels, width, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, classes))


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss that the labels are for, as `ds.recipe.label_convention` says."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)  # classes
    return 0.5 * (logits - labels).square().sum(1).mean()  # FRePo's learned labels, targets of a regression


@torch.no_grad()
def accuracy(net: nn.Module, ds: raydd.DistilledSet, real: RealData) -> float:
    """Return the share of real images that are classified rightly, in percent."""
    net.eval()
    # The network has seen normalised, perhaps whitened images; `ds.transform` makes real ones comparable.
    right = sum(int((net(ds.transform(images)).argmax(1) == labels).sum()) for images, labels in real.stream(500))
    return 100 * right / len(real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", metavar="SET", help="a run, or a distilled set")
    parser.add_argument("--test", required=True, metavar="SHARDS", help="packed test images of the same classes")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--batch", type=int, default=256, help="images an update")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()

    torch.manual_seed(said.seed)
    ds = raydd.load(said.set)
    test = RealData(said.test, classes=list(ds.classes))
    net = network(ds.images.shape[1], len(ds.classes))
    optimiser = torch.optim.Adam(net.parameters(), lr=said.lr)
    # A DataLoader, whose images are augmented as the recipe of the set says.
    batches = ds.loader(said.batch, seed=said.seed)
    for _ in range(said.epochs):
        for images, labels in batches:
            optimiser.zero_grad()
            loss_of(net(images), labels).backward()
            optimiser.step()
    print(f"trained on {len(ds)} images of {ds.recipe.name}: {accuracy(net, ds, test):.1f} % of {len(test)} real ones")


if __name__ == "__main__":
    main()
