"""Write the papers' recipes under jobs/configs/, one file for every cell of their main tables, from the tables below.

`python jobs/recipes.py` writes them; with `--check` it fails where a file is not what the tables say. What a recipe
leaves out is the method's own default, which is the paper's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from raydd.config import methods
from raydd.config.methods.dc import ITERATIONS, loops
from raydd.data.names import PARTS

HERE = Path(__file__).parent / "configs"
IPCS = (1, 10, 50)


@dataclass(frozen=True)
class Dataset:
    """A data set of the tables.

    Attributes:
        source: SOURCE, as a user would have it.
        depth: Blocks of a ConvNet for its size.
        size: Pixels that its images are resized to; None where they have their size already.
        classes: Indices of a subset of classes; None for all.
    """

    source: str
    depth: int = 3
    size: int | None = None
    classes: tuple[int, ...] | None = None


DATASETS = {
    "mnist": Dataset("mnist:data/mnist"),
    "fashion-mnist": Dataset("fashion-mnist:data/fashion-mnist"),
    "svhn": Dataset("svhn:data/svhn"),
    "cifar10": Dataset("cifar10:data/cifar10"),
    "cifar100": Dataset("cifar100:data/cifar100"),
    # At 64 pixels the code of DC and DM stays at depth 3 unless asked for 4, as MTT and DC-BENCH ask; FRePo's author advises 4.
    # FRePo's width at 64 pixels is not certain: 128 as at 32, or the 64 of its PyTorch port.
    "tiny-imagenet": Dataset("tiny-imagenet:data/tiny-imagenet-200", depth=4),
    # FRePo made these two from fastai's imagenette2-160 and imagewoof2-160; here they are the same classes of ImageNet itself.
    **{name: Dataset("imagenet:data/imagenet", 5, 128, tuple(PARTS[name])) for name in PARTS},
    "imagenet": Dataset("imagenet:data/imagenet", depth=4, size=64),
    # Known by the names of its class folders, which are to stay as published.
    "cub-200": Dataset("folder:data/cub-200", size=32),
}
CORESETS = ("random", "herding", "kcenter", "forgetting")


def cells(ipcs: tuple[int, ...], *methods: str) -> dict[str, tuple[int, ...]]:
    """Return the same images per class for several methods."""
    return dict.fromkeys(methods, ipcs)


LEARNED = ("dc", "dsa", "dm", "frepo", "rtp")
DD_TABLE = cells((10,), "dd", "kmeans", "optimised") | cells((1,), "average")
# Which cells the papers' main tables have: data set -> method -> images per class.
CELLS: dict[str, dict[str, tuple[int, ...]]] = {
    "mnist": cells(IPCS, *LEARNED, *CORESETS) | DD_TABLE,
    "fashion-mnist": cells(IPCS, *LEARNED, *CORESETS),
    "svhn": cells(IPCS, "dc", "dsa", "rtp", *CORESETS),
    "cifar10": cells(IPCS, *LEARNED, "mmd", *CORESETS) | cells((*IPCS, 100, 200, 500, 1000, 1250), "dm") | DD_TABLE,
    "cifar100": cells(IPCS, "dsa", "dm", "frepo") | cells((1, 10), "dc", "rtp"),
    "tiny-imagenet": cells(IPCS, "dm") | cells((1, 10), "frepo") | cells((1,), "dsa", "rtp"),
    "imagenette": cells((1, 10), "frepo", "random"),
    "imagewoof": cells((1, 10), "frepo", "random"),
    "imagenet": cells((1, 2), "frepo", "random"),
    "cub-200": cells((1, 10), "frepo"),
}
# Data sets whose random images FRePo scored, as it scores its own.
BY_FREPO = ("imagenette", "imagewoof", "imagenet")


@dataclass(frozen=True)
class Variant:
    """A cell that a table has beside the same method's usual one.

    Attributes:
        suffix: Of the recipe's name.
        what: Of the recipe's first line.
        net: Fields of the net section; None for the usual ones.
        method: Further fields of the method section.
        repeats: Networks that score it; None for the usual number.
    """

    suffix: str
    what: str
    net: str | None = None
    method: str = ""
    repeats: int | None = None


_FIXED = "fixed initialisation, scored on the network that it was learned for"
FIXED = Variant("fixed", _FIXED, method=", net_init: fixed", repeats=5)
ONE_STEP = Variant("fixed", f"one step, {_FIXED}", method=", net_init: fixed, inner_epochs: 1", repeats=5)
ALEXCIFARNET = Variant("alexcifarnet", "with AlexCifarNet", net="name: alexcifarnet")
# (data set, method, images per class) -> what stands there besides.
VARIANTS: dict[tuple[str, str, int], Variant] = {
    ("mnist", "dd", 1): ONE_STEP,
    ("mnist", "dd", 10): FIXED,
    ("cifar10", "dd", 10): FIXED,
    ("cifar10", "dc", 1): ALEXCIFARNET,
    ("cifar10", "dc", 10): ALEXCIFARNET,
}
PAPERS = {
    "dd": "Wang et al., 2018",
    "dc": "Zhao, Mopuri & Bilen, ICLR 2021",
    "dsa": "Zhao & Bilen, ICML 2021",
    "dm": "Zhao & Bilen, WACV 2023",
    "mmd": "Zhao & Bilen, WACV 2023, as a baseline",
    "frepo": "Zhou, Nezhadarya & Ba, NeurIPS 2022",
    "rtp": "Deng & Russakovsky, NeurIPS 2022",
}
# Networks that score a set, sets that are scored, and the networks of DD's table.
REPEATS = {"dd": 200, "frepo": 5}
SETS = dict.fromkeys(("dc", "dsa", "dm", "mmd", *CORESETS), 5)
DD_NETS = {"mnist": "lenet", "cifar10": "alexcifarnet"}


# What two cores do in five to ten minutes (RTP: thirty) to see on MNIST what the papers show: a network of width 32 and fewer
# rounds. DC starts from real images where there are ten a class: so few rounds make none of noise. DM's rate makes up for the
# features, 512 in place of 2048, over which its loss sums.
TWO_CORES: dict[str, dict[int, str]] = {
    "dc": {1: "rounds: 1000, real_batch: 128", 10: "rounds: 300, real_batch: 128, init: real"},
    "dsa": {1: "rounds: 1000, real_batch: 128", 10: "rounds: 300, real_batch: 128"},
    "dm": {1: "rounds: 2500, real_batch: 128, lr_syn: 5.0", 10: "rounds: 2500, real_batch: 128, lr_syn: 5.0"},
    "mmd": {1: "rounds: 20000"},
    "frepo": {10: "rounds: 3000, lr_syn: 5.0e-3, lr_syn_final: 0.02, real_batch: 256, models_per_round: 2"},
    "rtp": {
        1: "rounds: 120, inner_steps: 50, inner_batch: 8",
        10: "rounds: 120, inner_steps: 50, inner_batch: 8",
    },
    "dd": {1: "rounds: 600, real_batch: 512, net_init: fixed", 10: "rounds: 600, real_batch: 512"},
    **{name: {1: ""} for name in (*CORESETS, "kmeans", "average", "optimised")},
}


def two_cores(method: str, ipc: int, changes: str) -> str:
    """Return one recipe for two cores as YAML."""
    fields = f"name: {method}, ipc: {ipc}" + (f", {changes}" if changes else "")
    return "\n".join(
        [
            f"# mnist, {ipc} image{'s' if ipc > 1 else ''} per class, at a scale that two cores reach: not the paper's.",
            f"name: mnist-{method}-ipc{ipc}-two-cores",
            "data: {train: 'mnist:data/mnist'}",
            f"net: {{{'name: lenet' if method == 'dd' else 'width: 32'}}}",
            f"method: {{{fields}}}",
            "engine: {workers: 2}",
            "store: runs",
            f"evaluate: {{repeats: 5, baselines: [{'' if method == 'random' else 'random'}]}}",
            "",
        ]
    )


def file_name(method: str, ipc: int, variant: Variant | None = None) -> str:
    """Return the stem of a recipe's file."""
    return f"{method}-ipc{ipc}" + (f"-{variant.suffix}" if variant else "")


def recipe(dataset: str, method: str, ipc: int, variant: Variant | None = None) -> str:
    """Return one recipe as YAML."""
    paper = PAPERS.get(method, "a baseline of the papers") + (f"; {variant.what}" if variant else "")
    more = variant.method if variant else ""
    return "\n".join(
        [
            f"# {dataset}, {ipc} image{'s' if ipc > 1 else ''} per class; {paper}.",
            f"name: {dataset}-{file_name(method, ipc, variant)}",
            f"data: {{{data(dataset, method)}}}",
            f"net: {{{(variant and variant.net) or net(dataset, method)}}}",
            f"method: {{name: {method}, ipc: {ipc}{rounds(dataset, method, ipc)}{more}}}",
            "engine: {workers: 1, gpus_per_worker: 1, cpus_per_worker: 4, checkpoint_every: 1000}",
            "store: runs",
            f"evaluate: {{{evaluate(dataset, method, variant)}}}",
            "",
        ]
    )


def evaluate(dataset: str, method: str, variant: Variant | None) -> str:
    """Return the fields of a recipe's evaluate section."""
    by_frepo = method == "random" and dataset in BY_FREPO
    repeats = (variant and variant.repeats) or REPEATS.get("frepo" if by_frepo else method, 20)
    fields = [f"sets: {SETS[method]}"] if method in SETS else []
    fields.append(f"repeats: {repeats}")
    if by_frepo:
        fields.append("protocol: frepo")
    elif method in DD_TABLE and method != "dd":
        fields.append("protocol: dd")
    fields.append(f"baselines: [{'' if method == 'random' else 'random, random@bytes, whole'}]")
    return ", ".join(fields)


def data(name: str, method: str) -> str:
    """Return the fields of a recipe's data section."""
    dataset = DATASETS[name]
    fields = [f"train: '{dataset.source}'"]
    if dataset.size is not None:
        fields.append(f"size: {dataset.size}")
    if dataset.classes is not None:
        fields.append(f"classes: {list(dataset.classes)}")
    if method == "random" and name in BY_FREPO:
        fields.append("zca: frepo")
    return ", ".join(fields)


def net(dataset: str, method: str) -> str:
    """Return the fields of a recipe's net section."""
    if method in DD_TABLE:
        return f"name: {DD_NETS[dataset]}"
    own = "name: frepo_convnet, " if method == "random" and dataset in BY_FREPO else ""
    return f"{own}width: 128, depth: {DATASETS[dataset].depth}"


def rounds(dataset: str, method: str, ipc: int) -> str:
    """Return the number of updates: a default in most cases, but what readers look for."""
    if method in CORESETS or method in ("kmeans", "average", "optimised"):
        return ""
    if method in ("dc", "dsa"):
        outer, _ = (10, 10) if (dataset, method, ipc) == ("cifar100", "dsa", 50) else loops(ipc)
        return f", rounds: {ITERATIONS * outer}"
    if method == "frepo" and dataset == "imagenet":
        return ", rounds: 2000000"
    if method == "dd" and dataset == "mnist":
        return ", rounds: 23600"  # 400 epochs of 60,000 images
    return f", rounds: {methods()[method].config.model_fields['rounds'].default}"


def recipes() -> dict[Path, str]:
    """Return every recipe by its file."""
    papers = {
        HERE / dataset / f"{file_name(method, ipc)}.yaml": recipe(dataset, method, ipc)
        for dataset, row in CELLS.items()
        for method, ipcs in row.items()
        for ipc in ipcs
    }
    variants = {
        HERE / dataset / f"{file_name(method, ipc, variant)}.yaml": recipe(dataset, method, ipc, variant)
        for (dataset, method, ipc), variant in VARIANTS.items()
    }
    return (
        papers
        | variants
        | {
            HERE / "mnist" / "two-cores" / f"{method}-ipc{ipc}.yaml": two_cores(method, ipc, changes)
            for method, row in TWO_CORES.items()
            for ipc, changes in row.items()
        }
    )


def main() -> int:
    """Write or check the files."""
    wrong = {path: text for path, text in recipes().items() if not path.exists() or path.read_text() != text}
    for path, text in wrong.items():
        if "--check" in sys.argv:
            print(f"{path} is not what jobs/recipes.py says; run it")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path}")
    return 1 if wrong and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
