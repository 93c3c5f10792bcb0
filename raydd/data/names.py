"""What the papers' tables call a data set, where its index calls it by the kind of source that it was read from.

ImageNette and ImageWoof are classes of ImageNet, CUB-200 is read as class folders, and so may CIFAR-10 be; each is known by
its classes. So the name follows from the index and the chosen classes alone, wherever images or shards lie and in whatever
order classes are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable

from raydd.data.arrays import CIFAR10

#: Parts of ImageNet-1K that have names of their own: positions of their classes among its sorted wnids, and the wnids.
PARTS: dict[str, dict[int, str]] = {
    "imagenette": {
        0: "n01440764",
        217: "n02102040",
        482: "n02979186",
        491: "n03000684",
        497: "n03028079",
        566: "n03394916",
        569: "n03417042",
        571: "n03425413",
        574: "n03445777",
        701: "n03888257",
    },
    "imagewoof": {
        193: "n02096294",
        182: "n02093754",
        258: "n02111889",
        162: "n02088364",
        155: "n02086240",
        167: "n02089973",
        159: "n02087394",
        273: "n02115641",
        207: "n02099601",
        229: "n02105641",
    },
}
_PARTS = {frozenset(keys): name for name, part in PARTS.items() for keys in (part, part.values())}
_PARTS[frozenset(CIFAR10)] = "cifar10"
# The first and the last of the two hundred class folders, as CUB-200-2011 is published.
_CUB_200 = {"001.Black_footed_Albatross", "200.Common_Yellowthroat"}


def data_name(name: str, classes: Iterable[int | str]) -> str:
    """Return the name that defaults and published numbers are looked up by.

    Args:
        name: As the index has it.
        classes: Names of the classes that are used, or their positions, in any order.
    """
    chosen = frozenset(classes)
    if len(chosen) == 200 and chosen >= _CUB_200:
        return "cub-200"
    return _PARTS.get(chosen, name)
