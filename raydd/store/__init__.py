"""Object storage through fsspec: whole-or-nothing writes, manifests, leases, retries. No torch, no ray."""

from __future__ import annotations

from raydd.store.canonical import from_json, to_json
from raydd.store.content import cache_folder, read_content
from raydd.store.folder import Folder
from raydd.store.kinds import Kind, check_kind, kind_of
from raydd.store.lease import Lease, Sign, sign_of_life, utc
from raydd.store.limits import check_fits
from raydd.store.manifest import Entry, Manifest, commit, digest, load_manifest, read_entry, read_verified, verify

__all__ = [
    "Entry",
    "Folder",
    "Kind",
    "Lease",
    "Manifest",
    "Sign",
    "cache_folder",
    "check_fits",
    "check_kind",
    "commit",
    "digest",
    "from_json",
    "kind_of",
    "load_manifest",
    "read_content",
    "read_entry",
    "read_verified",
    "sign_of_life",
    "to_json",
    "utc",
    "verify",
]
