"""Networks' numbers in a store: a file each, named by its content, and lists of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import safetensors.torch
from safetensors import SafetensorError

from raydd.errors import DataError, IntegrityError
from raydd.nets.state import NetState
from raydd.store import Folder, digest, to_json

KEPT = 32  # networks in memory


def keep_network(folder: Folder, state: NetState) -> str:
    """Write a network's numbers; return its name, the sha256 of the file `<name>.safetensors`."""
    data = safetensors.torch.save({key: value.cpu().contiguous() for key, value in state.tensors().items()})
    name = digest(data).sha256
    folder.write(f"{name}.safetensors", data)
    return name


def read_network(folder: Folder, name: str) -> NetState:
    """Return a network's numbers, on the CPU.

    Raises:
        IntegrityError: When the file is missing or was altered.
    """
    where = f"{folder.url}/{name}.safetensors"
    try:
        data = folder.read(f"{name}.safetensors")
    except FileNotFoundError:
        raise IntegrityError(f"expected a network at {where}, got no file; do all of it again elsewhere") from None
    if digest(data).sha256 != name:
        raise IntegrityError(f"{where} is not what its name says; do all of it again elsewhere")
    try:
        return NetState.from_tensors(safetensors.torch.load(data))
    except SafetensorError as error:
        raise IntegrityError(f"expected safetensors in {where}, got something else ({error})") from None


def list_networks(folder: Folder, names: Sequence[str]) -> str:
    """Write a list of networks that lie in the folder; return its URL, the same for the same list."""
    body = {"networks": list(names)}
    name = f"list-{digest(to_json(body)).sha256[:16]}.json"
    folder.write_json(name, body)
    return f"{folder.url}/{name}"


class Networks:
    """The networks of a list, on the CPU; each is read when it is asked for, and the last ones are kept.

    Raises:
        DataError: When there is no such list.
        IntegrityError: When one that is asked for is missing or was altered.
    """

    def __init__(self, url: str) -> None:
        parent, _, name = url.rpartition("/")
        folder = Folder(parent or ".")
        try:
            names = folder.record(name).get("networks")
        except FileNotFoundError:
            raise DataError(f"expected a list of networks at {url}, got no file") from None
        if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
            raise DataError(f"expected a list of networks at {url}, got {names!r:.60}")
        self.names = names
        self._read = functools.lru_cache(maxsize=KEPT)(functools.partial(read_network, folder))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> NetState:
        return self._read(self.names[place])
