"""`raydd pull`: a distilled set copied to another folder, every byte checked."""

from __future__ import annotations

from collections.abc import Iterator

from raydd.distilled import DistilledSet, artifact_folder, transform_entry, transforms_folder
from raydd.errors import DataError, IntegrityError
from raydd.store import Entry, Folder, commit, load_manifest, read_content, read_entry


def pull(url: str, dest: str) -> str:
    """Copy a distilled set, with the transform it needs, to another folder.

    Files come by way of this machine's cache (`raydd.store.content`); once all are there and right they appear in the folder,
    the manifest last. What was interrupted goes on where it was, in the midst of a large file too.

    Args:
        url: A run, or a distilled set.
        dest: A new or empty folder, one that a pull of the same set was interrupted in, or one with a distilled set, which
            is replaced.

    Returns:
        The folder's URL.

    Raises:
        DataError: When there is no distilled set at `url`, or `dest` holds something else.
        IntegrityError: When a file is missing or was altered; `dest` is left as it was.
    """
    source, target = artifact_folder(url), Folder(dest)
    manifest = load_manifest(source)
    recipe = DistilledSet.load(source.url).recipe
    origins = {name: (source, name, entry) for name, entry in manifest.files.items()}
    if recipe.transform_file is not None:
        transforms = transforms_folder(source, recipe.transform_file)
        name, entry = transform_entry(transforms, recipe.transform_file)
        origins.setdefault(f"transforms/{name}", (transforms, name, entry))
    entries = {name: entry for name, (_, _, entry) in origins.items()}
    _copy(target, origins, there=_there(target, entries))
    commit(target, {}, entries=entries, meta=manifest.meta)
    return target.url


def _there(target: Folder, entries: dict[str, Entry]) -> set[str]:
    """Return the files that need not be written again.

    Raises:
        DataError: When something lies there that is neither theirs nor a distilled set.
    """
    names = target.list()
    right = set(_right(target, {name: entries[name] for name in names if name in entries}))
    if set(names) - right and "manifest.json" not in names:
        raise DataError(
            f"expected an empty folder or a distilled set at {target.url}, got other files; choose another folder"
        )
    return right


def _right(target: Folder, entries: dict[str, Entry]) -> Iterator[str]:
    for name, entry in entries.items():
        try:
            read_entry(target, name, entry)
        except IntegrityError:
            continue
        yield name


def _copy(target: Folder, origins: dict[str, tuple[Folder, str, Entry]], *, there: set[str]) -> None:
    # All is fetched and checked before anything is replaced: what lies there stays whole if this cannot be.
    missing = {name: origin for name, origin in origins.items() if name not in there}
    fetched = {name: read_content(*origin) for name, origin in missing.items()}
    for name, data in fetched.items():
        target.write(name, data)
