"""Evaluation protocols as data: how a network is trained on a set before it is scored.

dc     Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021. As dsa, but 300 epochs (and one more)
       without augmentation; on MNIST 1000, and every image is cropped, scaled or rotated. A network that a set was distilled
       with is trained with instance norm instead of BatchNorm, as in their main tables. A ConvNet that is varied to have
       BatchNorm (`--grid norm=batch`, their ablation) is trained as their code has it: 1000 epochs, every image cropped
       or with a little noise, on any data set.
dd     Wang et al., "Dataset Distillation", 2018. Exactly the learned steps with the learned step sizes on networks drawn by
       Xavier's normal law (or the one network that the set is for): `evaluate/steps.py`. Real images, which have no such
       steps, are trained on for 300 epochs of SGD 0.01 with momentum 0.9.
dsa    Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021; also DM's. 1000 epochs
       and one more, as the authors' code counts them; SGD 0.01, momentum 0.9, weight decay 5e-4; the rate falls to a
       tenth at the end of epoch 1000 // 2 + 1, where the optimiser starts anew; batch 256, shuffled; cross entropy on
       hard labels; one DSA operation a batch with parameters an image.
fair   raydd's own, for numbers that compare across methods. What differs between the published protocols is made the same
       for every set: the network (DC's ConvNet of width 128 with instance norm unless others are asked for; batch norm
       becomes instance norm), 1000 updates of SGD with momentum 0.9 and weight decay 5e-4 under a cosine to zero, batch
       min(n, 256), shuffled, weights drawn by the network's own law. The length is counted in updates, since epochs would
       train an addressed memory of 1150 images a hundred times as long as the ten images whose bytes it takes; a thousand
       is what the sets of ten images get from every published protocol, and with batches of 256 still fifty epochs of
       5000 images. Every set and every baseline is trained on with DSA's augmentation and without any: two results,
       since sets that were learned with an augmentation need it and others may suffer by it. For each of the two, the
       rate is the best of RATES by the accuracy on the validation part of the training split, since methods were
       published each at the rate that suited it; the test split is read after the last choice. Labels are the set's
       own: hard ones and probabilities are trained on by cross entropy, other soft ones (FRePo's, which are targets of a
       regression) by half the summed squared error, and they count in the set's bytes. The whole set, a ceiling rather than
       a competitor, is trained on for its own length at the rate of 0.01.
frepo  Zhou et al., "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, and the authors' final
       evaluation. Adam 3e-4, 500 updates of linear warm-up, then cosine to 1 %; number of updates by size of the set;
       batch min(n, 500) in the set's own order; half the summed squared error on soft labels; FRePo's augmentation; a
       network without norm.
rtp    Deng & Russakovsky, "Remember the Past", NeurIPS 2022. 300 epochs over all recalled images, SGD 0.01, momentum 0.9,
       no weight decay, no decay of the rate, batch 640. On CIFAR images are mirrored or rotated up to 15 degrees, one
       operation a batch with parameters an image.

Where the originals choose what they report on the test set (FRePo's best checkpoint), here nothing is chosen: what is
scored is the set given and the last update of each network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from raydd.augment import per_image
from raydd.config import NetConfig
from raydd.config.methods.rtp import CIFAR
from raydd.functional.losses import scaled_labels
from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import Augment

WHOLE_BATCH = 256
WHOLE_LEAST_UPDATES = 1000
RATES = (0.001, 0.005, 0.02, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How sets are scored.

    Attributes:
        name: As in `evaluate.protocol`.
        summary: One line for people.
        training: The training of a network, apart from its length where `updates` decides that.
        updates: Pairs of (images in the set, updates), ascending; a set between two entries gets those of the larger
            one, a set above all of them those of the last.
        labels: `hard` (int64 class indices), `soft` (float32 rows), or `own`, whichever a set has; see `fitted`.
        family: Whose augmentation it is.
        augmentation: Its operations, or None; `flip` is left out where mirroring changes the class.
        norms: What each norm of a network is replaced by.
        variants: What the protocol is instead on some data sets, by their names; see `on`.
        batch_norm: What it is instead, on any data set, for a ConvNet with BatchNorm.
        learned_steps: A distilled set is trained on by exactly the steps that were learned with it; `training` is then for
            what has no such steps, the baselines.
        init: The law that networks start by; None for their own.
        net_name: The network that is trained unless others are asked for; None for the one that the set was distilled with.
        usual_net: The kind of network that its authors train; a result of another kind, unless that was asked for, says so.
            None where any will do.
        rates: Learning rates of which one is chosen on the validation part of the training split; none where it is fixed.
        both: Whether sets are trained on with and without the augmentation, instead of with it only.
    """

    name: str
    summary: str
    training: TrainRecipe
    updates: tuple[tuple[int, int], ...] = ()
    labels: Literal["hard", "soft", "own"]
    family: Literal["dc", "dsa", "frepo"]
    augmentation: str | None
    norms: dict[str, str]
    variants: dict[str, Protocol] = field(default_factory=dict)
    batch_norm: Protocol | None = None
    learned_steps: bool = False
    init: Literal["xavier"] | None = None
    net_name: str | None = None
    usual_net: str | None = None
    rates: tuple[float, ...] = ()
    both: bool = False

    def on(self, data: str, net: Mapping[str, Any] | None = None) -> Protocol:
        """Return the protocol as it is on a data set, for a network.

        Args:
            data: The data set's name, as defaults are looked up by it (`raydd.data.names`).
            net: The network's config as plain data; None for one that no protocol treats differently.
        """
        if self.batch_norm is not None and net and (net.get("name"), net.get("norm")) == ("convnet", "batch"):
            return self.batch_norm
        return self.variants.get(data, self)

    def fitted(self, labels: Tensor | None = None, *, lr: float | None = None, augment: bool = True) -> Protocol:
        """Return the protocol as it is for one set.

        Args:
            labels: Those of the set, int64 (n,) or float32 (n, classes); None for hard ones. Where a protocol takes a set's
                own labels they decide its loss: cross entropy for hard ones and for probabilities, FRePo's squared error
                for any other rows.
            lr: The learning rate that was chosen; None for the protocol's.
            augment: False leaves the augmentation out.
        """
        training = self.training if lr is None else replace(self.training, lr=lr)
        augmentation = self.augmentation if augment else None
        if self.labels != "own":
            return replace(self, training=training, augmentation=augmentation)
        soft = labels is not None and labels.ndim == 2
        kind: Literal["hard", "soft"] = "soft" if soft else "hard"
        if labels is not None and soft and not _are_probabilities(labels):
            training = replace(training, loss="mse")
        return replace(self, training=training, augmentation=augmentation, labels=kind)

    def recipe(self, n: int) -> TrainRecipe:
        """Return the training of a network on a set of `n` >= 1 images."""
        batch = min(n, self.training.batch)
        if not self.updates:
            return replace(self.training, batch=batch)
        updates = next((updates for most, updates in self.updates if n <= most), self.updates[-1][1])
        return replace(self.training, batch=batch, updates=updates, epochs=None)

    def whole_recipe(self, n: int, epochs: int) -> TrainRecipe:
        """Return the training of a network on a whole set of `n` real images.

        Loss, optimiser and its rate are the protocol's; the batch is 256 and the rate ends at zero by a cosine after
        `epochs` epochs, or 1000 updates where those are more.
        """
        updates = max(WHOLE_LEAST_UPDATES, -(-n * epochs // WHOLE_BATCH))
        return replace(
            self.training,
            batch=WHOLE_BATCH,
            shuffle=True,
            epochs=None,
            updates=updates,
            schedule="cosine",
            final=0.0,
            drop_epoch=None,
        )

    def steady(self, n: int, updates: int, batch: int) -> TrainRecipe:
        """Return the training of a network on `n` >= 1 images by so many updates, so that it can be looked at on its way.

        Loss, optimiser and its rate are the protocol's; batches are shuffled, and the rate stays as it is.
        """
        return replace(
            self.training,
            batch=min(n, batch),
            shuffle=True,
            epochs=None,
            updates=updates,
            schedule="constant",
            warmup=0,
            final=1.0,
            drop_epoch=None,
        )

    def net(self, net: NetConfig) -> NetConfig:
        """Return the network that is trained where `net` is asked for: the same one, with the protocol's norm."""
        return net.renormed(self.norms)

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return labels as the protocol's loss wants them.

        Args:
            labels: int64 (n,) hard or float32 (n, num_classes) soft.
            num_classes: C.

        Returns:
            For hard labels int64 (n,), the strongest class of soft ones. For soft labels float32 (n, C): soft ones as
            they are, hard ones as (onehot - 1/C) / sqrt(C / 10), where FRePo's labels start.
        """
        assert self.labels != "own", "`fitted` comes first"
        if self.labels == "hard":
            return labels.argmax(1) if labels.ndim == 2 else labels
        return labels if labels.ndim == 2 else scaled_labels(labels, num_classes)

    def operations(self, *, handwritten: bool) -> str | None:
        """Return whose augmentation and which operations, such as `dsa:color_crop`; None where there is none.

        Args:
            handwritten: Whether mirroring would change what an image shows.
        """
        if self.augmentation is None:
            return None
        kept = [op for op in self.augmentation.split("_") if not (handwritten and op == "flip")]
        return f"{self.family}:{'_'.join(kept)}"

    def augment(self, *, handwritten: bool) -> Augment | None:
        """Return the augmentation of a training batch; see `operations`."""
        operations = self.operations(handwritten=handwritten)
        return None if operations is None else per_image(operations)


def _are_probabilities(labels: Tensor) -> bool:
    return bool((labels >= 0).all() and ((labels.sum(1) - 1).abs() <= 1e-3).all())


DSA = Protocol(
    name="dsa",
    summary="DSA and DM: 1000 epochs, SGD 0.01, DSA augmentation, hard labels, instance norm",
    training=TrainRecipe(
        optimiser="sgd",
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        epochs=1001,
        batch=256,
        schedule="drop",
        drop_epoch=1000 // 2 + 2,
        final=0.1,
        loss="cross_entropy",
    ),
    labels="hard",
    family="dsa",
    augmentation="color_crop_cutout_flip_scale_rotate",
    norms={"batch": "instance"},
    usual_net="convnet",
)
_DC_MNIST = Protocol(
    name="dc",
    summary="DC on MNIST: 1000 epochs, SGD 0.01, every image cropped, scaled or rotated, hard labels, instance norm",
    training=DSA.training,
    labels="hard",
    family="dc",
    augmentation="crop_scale_rotate",
    norms={"batch": "instance"},
    usual_net="convnet",
)
DC = replace(
    _DC_MNIST,
    summary="DC: 300 epochs (MNIST: 1000, augmented), SGD 0.01, no augmentation, hard labels, instance norm",
    training=replace(DSA.training, epochs=301, drop_epoch=300 // 2 + 2),
    augmentation=None,
    variants={"mnist": _DC_MNIST},
    batch_norm=replace(
        _DC_MNIST,
        summary="DC for a ConvNet with BatchNorm: 1000 epochs, SGD 0.01, every image cropped or with noise, hard labels",
        augmentation="crop_noise",
        norms={},
    ),
)
FREPO = Protocol(
    name="frepo",
    summary="FRePo: 1000 to 40000 updates by size of the set, Adam 3e-4, FRePo's augmentation, soft labels, no norm",
    training=TrainRecipe(
        optimiser="adam",
        lr=3e-4,
        updates=1000,
        batch=500,
        shuffle=False,
        schedule="cosine",
        warmup=500,
        final=0.01,
        loss="mse",
    ),
    updates=((10, 1000), (100, 2000), (200, 20_000), (500, 5000), (1000, 10_000), (5000, 40_000)),
    labels="soft",
    family="frepo",
    augmentation="flip_color_crop_rotate_translate_cutout",
    norms=dict.fromkeys(("batch", "layer", "instance", "group"), "none"),
    usual_net="frepo_convnet",
)
FREPO = replace(FREPO, variants={"fashion-mnist": replace(FREPO, augmentation="color_crop_rotate_translate_cutout")})
RTP = Protocol(
    name="rtp",
    summary="RTP: 300 epochs, SGD 0.01, batch 640, no decay, hard labels; on CIFAR mirrored or rotated images",
    training=TrainRecipe(optimiser="sgd", lr=0.01, momentum=0.9, epochs=300, batch=640),
    labels="hard",
    family="dsa",
    augmentation=None,
    norms={},
    usual_net="convnet",
)
RTP = replace(RTP, variants=dict.fromkeys(CIFAR, replace(RTP, augmentation="flip_rotate")))
DD = Protocol(
    name="dd",
    summary="DD: exactly the learned steps with the learned step sizes, Xavier-normal networks, nothing else",
    # As RTP's, but for the batch: the paper searches rate and epochs of its baselines, and does not name what it found.
    training=TrainRecipe(optimiser="sgd", lr=0.01, momentum=0.9, epochs=300, batch=256),
    labels="hard",
    family="dsa",
    augmentation=None,
    norms={},
    learned_steps=True,
    init="xavier",
)
FAIR = Protocol(
    name="fair",
    summary="the same for every set: 1000 updates, SGD, cosine, augmented and not, the rate chosen on validation images",
    training=TrainRecipe(
        optimiser="sgd",
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        updates=1000,
        batch=256,
        schedule="cosine",
        final=0.0,
    ),
    labels="own",
    family="dsa",
    augmentation="color_crop_cutout_flip_scale_rotate",
    norms={"batch": "instance"},
    net_name="convnet",
    rates=RATES,
    both=True,
)
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (DC, DD, DSA, FAIR, FREPO, RTP)}
