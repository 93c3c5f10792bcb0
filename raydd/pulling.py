"""`raydd pull`: a distilled set copied to another folder, every byte checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from raydd.distilled import DistilledSet, described, transform_entry, transforms_folder
from raydd.errors import DataError, IntegrityError
from raydd.store import Entry, Folder, commit, read_content, read_entry

# A file that is wanted: where it is, its name there, and what it must be.
_Origin = tuple[Folder, str, Entry]


def pull(url: str, dest: str, progress: Callable[[int, int], None] | None = None) -> str:
    """Copy a distilled set, with the transform it needs, to another folder.

    Files come by way of this machine's cache (`raydd.store.content`); once all are there and right they appear in the folder,
    the manifest last. What was interrupted goes on where it was, in the midst of a large file too.

    Args:
        url: A run, or a distilled set.
        dest: A new or empty folder, one that a pull of the same set was interrupted in, or one with a distilled set, which
            is replaced.
        progress: Is called with the bytes that are here, and all of them.

    Returns:
        The folder's URL.

    Raises:
        DataError: When there is no distilled set at `url`, or `dest` holds something else.
        IntegrityError: When a file is missing or was altered; `dest` is left as it was.
    """
    (source, manifest, recipe), target = described(url), Folder(dest)
    origins = {name: (source, name, entry) for name, entry in manifest.files.items()}
    if recipe.transform_file is not None:
        transforms = transforms_folder(source, recipe.transform_file)
        name, entry = transform_entry(transforms, recipe.transform_file)
        origins.setdefault(f"transforms/{name}", (transforms, name, entry))
    entries = {name: entry for name, (_, _, entry) in origins.items()}
    there = _there(target, entries)
    # All is fetched and checked before anything is replaced: what lies there stays whole if this cannot be.
    fetched = _fetched({name: origin for name, origin in origins.items() if name not in there}, progress)
    DistilledSet.load(source.url)
    for name, data in fetched.items():
        target.write(name, data)
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


def _fetched(origins: dict[str, _Origin], progress: Callable[[int, int], None] | None) -> dict[str, bytes]:
    """Return the contents of files, checked."""
    total, done, fetched = sum(entry.size for _, _, entry in origins.values()), 0, {}
    for name, (folder, source, entry) in origins.items():
        before = done
        fetched[name] = read_content(
            folder, source, entry, None if progress is None else lambda have, b=before: progress(b + have, total)
        )
        done += entry.size
    return fetched
