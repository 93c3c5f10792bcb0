"""Train a PyTorch network on a distilled set with several workers of Ray Train, and score it on real images.

    raydd distill jobs/configs/quickstart.yaml                        # makes runs/quickstart and shards/digits
    python jobs/downstream/ray_train.py runs/quickstart --test shards/digits/test --workers 2

On a cluster (`ray job submit`, or with RAY_ADDRESS set) give URLs that every node reaches, such as s3://bucket/runs/NAME.
All workers of a node load the set at once, and it is fetched once. `raydd train` does the same with checkpoints.
"""

import argparse
import os
import tempfile
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raydd
from raydd.data.reader import RealData


# Ray sends these functions to the workers as they stand here. One that says both `torch` and `.classes` could not be sent:
# the module `torch.classes` would be taken along.
def network(ds: raydd.DistilledSet, width: int = 64) -> nn.Module:
    """Return any network; this one is small, and for images of any size."""
    layers: list[nn.Module] = []
    for inputs in (ds.images.shape[1], width, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, len(ds.classes)))


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss that the labels are for, as `ds.recipe.label_convention` says."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)  # classes
    return 0.5 * (logits - labels).square().sum(1).mean()  # FRePo's learned labels, targets of a regression


@torch.no_grad()
def accuracy(net: nn.Module, ds: raydd.DistilledSet, test: str, device: torch.device) -> float:
    """Return the share of real images that are classified rightly, in percent."""
    real = RealData(test, classes=list(ds.classes))
    net.eval()
    batches = ((ds.transform(images).to(device), labels.to(device)) for images, labels in real.stream(500))
    return 100 * sum(int((net(images).argmax(1) == labels).sum()) for images, labels in batches) / len(real)


def work(said: dict[str, Any]) -> float:
    """Do what each worker does; Ray Train hands on what the first one returns."""
    rank, device = ray.train.get_context().get_world_rank(), ray.train.torch.get_device()
    torch.manual_seed(said["seed"])
    ds = raydd.load(said["set"])
    net = ray.train.torch.prepare_model(network(ds))
    optimiser = torch.optim.Adam(net.parameters(), lr=said["lr"])
    # A distilled set is small, so every worker holds all of it and draws orders and augmentations of its own; an update
    # sees `batch` images of each, and gradients are averaged.
    batches = ds.loader(said["batch"], seed=said["seed"] + rank)
    for _ in range(said["epochs"]):
        for images, labels in batches:
            optimiser.zero_grad()
            loss_of(net(images.to(device)), labels.to(device)).backward()
            optimiser.step()
    # Every worker has the same network now, and scores it: one alone would wait for the others where there is BatchNorm.
    return accuracy(net, ds, said["test"], device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", metavar="SET", help="a run, or a distilled set")
    parser.add_argument("--test", required=True, metavar="SHARDS", help="packed test images of the same classes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", action="store_true", help="a GPU for each worker")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--batch", type=int, default=256, help="images a worker and an update")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()

    config = vars(said)
    for key in ("set", "test"):
        # Workers stand in folders of their own.
        config[key] = config[key] if "://" in config[key] else os.path.abspath(config[key])
    ray.init()  # the cluster at RAY_ADDRESS, or one of its own
    trainer: Any = ray.train.torch.TorchTrainer  # its annotations are those of an older Ray Train
    with tempfile.TemporaryDirectory() as notes:  # Ray Train's own; for checkpoints it is to be an s3:// URL
        result = trainer(
            work,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(num_workers=said.workers, use_gpu=said.gpus),
            run_config=ray.train.RunConfig(storage_path=notes),
        ).fit()
    print(f"trained by {said.workers} workers: {result.return_value:.1f} % of the real images of {said.test}")


if __name__ == "__main__":
    main()
