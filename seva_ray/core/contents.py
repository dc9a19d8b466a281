"""What files contain, as digests: equal contents have an equal digest, wherever they are stored."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.fingerprints import fingerprint_of
from seva_ray.core.patience import patient
from seva_ray.core.shards import read_each
from seva_ray.core.storage import locate

TAGS = ("md5Hash", "ETag", "etag", "generation", "version_id", "blob_id", "sha")
"""Names in listings for a value that changes whenever a file is written with other contents: Google Cloud Storage
md5Hash (but not for objects composed of parts), etag and generation, S3 ETag, Azure etag, Hugging Face blob_id, GitHub
sha. The first one that a file has is used."""

TIMES = ("mtime", "modified", "LastModified", "last_modified", "last_write_time", "updated", "created")
"""Names in listings for the time at which a file was written. It differs between writes and between equal copies."""


def tag_of(item: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these entries that a file's listing has, or None if it has none of them."""
    return next((str(item[name]) for name in names if item.get(name)), None)


@patient
def contents(uri: str) -> str:
    """A digest of a file's bytes, or of the names and contents of all files in a directory, wherever it is stored.

    Several threads read the files of a local directory as a whole, including images: sizes do not distinguish two
    contents, and times differ between equal copies. Hashing an image takes far less time than decoding it, which comes
    later anyway. In an object store, where reading costs more, a file's tag is used if the listing has one.
    """
    filesystem, path = locate(uri)
    if not filesystem.isdir(path):
        return sha256_of(filesystem, path)[:16]
    found = filesystem.find(path, detail=True)

    def digest(name: str) -> str:
        tag = None if isinstance(filesystem, LocalFileSystem) else tag_of(found[name], TAGS)
        if tag is not None:
            return tag
        try:
            return sha256_of(filesystem, name) if filesystem.isfile(name) else "no file"
        except (FileNotFoundError, PermissionError) as error:  # the rows that need this file will report it
            return type(error).__name__

    digests = dict(zip(found, read_each(digest, list(found)), strict=True))
    return fingerprint_of({name.removeprefix(path).lstrip("/"): value for name, value in digests.items()})


@patient
def names_and_sizes(uri: str) -> str:
    """The digest of a directory in recipes of older artifacts, made from names and sizes only."""
    filesystem, path = locate(uri)
    found = filesystem.find(path, detail=True)
    return fingerprint_of({name.removeprefix(path): item["size"] for name, item in found.items()})


def sha256_of(filesystem: Any, path: str) -> str:
    digest = hashlib.sha256()
    with filesystem.open(path, "rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
