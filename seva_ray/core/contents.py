"""What files contain, as digests: equal contents have an equal digest, wherever they are stored."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.fingerprints import fingerprint_of
from seva_ray.core.listing import check_can_end, found_in, is_hollow, kind_of, linked_files
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


LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
"""Names of files that an operating system puts beside a user's own. Others begin with a dot, such as .DS_Store."""

REMOTE_BYTES = 2**30
"""Largest size of a remote directory, in bytes, whose files are read for its digest. The digest of a larger one is made
from its store's tags, so that it takes no time; it is another digest than that of the same files on a disk."""


def is_hidden(name: str) -> bool:
    """Whether a file, by its path in a directory, is one that users do not see or did not make."""
    return any(part.startswith(".") or part in LITTER for part in name.split("/"))


def every_file(name: str) -> bool:
    return True


@patient
def contents(uri: str, reads: Callable[[str], bool] = every_file) -> str:
    """A digest of a file's bytes, or of the names and contents of the files in a directory, wherever it is stored.
    Hidden files do not count, nor files of which `reads` is false for their path in the directory.

    Several threads read the files of a local directory as a whole, including images: sizes do not distinguish two
    contents, and times differ between equal copies. Hashing an image takes far less time than decoding it, which comes
    later anyway.
    """
    return Contents(uri, reads).digest()


@patient
def agreed(uri: str, recorded: str | None, reads: Callable[[str], bool] = every_file) -> tuple[str, str]:
    """The digest of the contents for a recipe, and the one that older versions made. If the digest `recorded` in a
    stored recipe is one of the same contents by any rule, the first is that one, so that the recipe stays good."""
    found = Contents(uri, reads)
    now, before = found.digest(), found.digest_before()
    if recorded in (None, now, before):
        return recorded or now, before
    same = any(recorded == digest for digest in found.other_digests())
    return recorded if recorded and same else now, before


class Contents:
    """The contents of a file or directory, of which each file is read at most once."""

    def __init__(self, uri: str, reads: Callable[[str], bool]) -> None:
        self.filesystem, self.path = locate(uri)
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        self.is_directory = kind_of(self.filesystem, self.path) == "directory"
        check_can_end(self.filesystem, self.path, uri)
        self.hashes: dict[tuple[str, str], str] = {}
        if self.is_directory:
            start = len(self.path.rstrip("/")) + 1
            self.listing = {name[start:]: item for name, item in found_in(self.filesystem, self.path).items()}
            self.visible = [name for name in linked_files(self.filesystem, self.path) if not is_hidden(name)]
            self.read = [name for name in self.visible if reads(name)]

    def digest(self) -> str:
        if not self.is_directory:
            return self.hashed([""])[""][:16]
        small = self.is_local or sum(self.listing[name]["size"] for name in self.read) <= REMOTE_BYTES
        return fingerprint_of(self.hashed(self.read) if small else self.tagged(self.read))

    def digest_before(self) -> str:
        """The digest of all files, also the hidden ones. In an object store it was made from tags."""
        if not self.is_directory:
            return self.digest()
        names = list(self.listing)
        return fingerprint_of(self.hashed(names) if self.is_local else self.tagged(names))

    def other_digests(self) -> Iterator[str]:
        """What else the digest of this directory may be in a stored recipe, which was made by an older version, or when
        the files lay elsewhere or had other files beside them."""
        if not self.is_directory:
            return
        for names in (self.read, self.visible, [name for name in self.listing if not is_hidden(name)]):
            yield fingerprint_of(self.hashed(names) if self.is_local else self.tagged(names))
        for names in (self.read, self.visible):
            if self.is_local:  # the tags of files that were written at once, in S3 and in Google Cloud Storage
                sums = {name: bytes.fromhex(digest) for name, digest in self.hashed(names, "md5").items()}
                yield fingerprint_of({name: f'"{digest.hex()}"' for name, digest in sums.items()})
                yield fingerprint_of({name: base64.b64encode(digest).decode() for name, digest in sums.items()})
            else:
                yield fingerprint_of(self.hashed(names))

    def tagged(self, names: Sequence[str]) -> dict[str, str]:
        """The tag that its store gives each file, or its hash if it has none."""
        tags = {name: tag_of(self.listing[name], TAGS) for name in names}
        others = self.hashed([name for name in names if tags[name] is None])
        return {name: tag if tag is not None else others[name] for name, tag in tags.items()}

    def hashed(self, names: Sequence[str], algorithm: str = "sha256") -> dict[str, str]:
        """The hash of each file, or why it has none."""

        def digest(name: str) -> str:
            where = f"{self.path.rstrip('/')}/{name}" if name else self.path
            try:
                if self.is_directory and kind_of(self.filesystem, where) != "file":
                    return "no file"
                if self.is_directory and is_hollow(self.filesystem, where):
                    return "no data"
                return hash_of(self.filesystem, where, algorithm)
            except (FileNotFoundError, PermissionError) as error:  # the rows that need this file will report it
                if not self.is_directory:
                    raise
                return type(error).__name__

        new = [name for name in names if (name, algorithm) not in self.hashes]
        self.hashes |= zip(((name, algorithm) for name in new), read_each(digest, new), strict=True)
        return {name: self.hashes[name, algorithm] for name in names}


@patient
def names_and_sizes(uri: str) -> str:
    """The digest of a directory in recipes of older artifacts, made from names and sizes only."""
    filesystem, path = locate(uri)
    found = found_in(filesystem, path)
    return fingerprint_of({name.removeprefix(path): item["size"] for name, item in found.items()})


def sha256_of(filesystem: Any, path: str) -> str:
    return hash_of(filesystem, path, "sha256")


def hash_of(filesystem: Any, path: str, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with filesystem.open(path, "rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
