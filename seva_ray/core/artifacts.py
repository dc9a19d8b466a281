"""Named, fingerprinted results on disk or in an object store, which make a run resumable and a sweep cheap.

An artifact is a directory `<root>/<name>`. `recipe.json` (everything that its numbers depend on) is written first, then
its files, and last `record.json` (recipe, counts, versions, seconds, the submitted job). So a complete artifact is
reused, an incomplete one is continued, and one that was made by another recipe is refused. Opening an artifact writes
nothing. `begin` takes its name when the first file is ready, so that an earlier failure leaves the name free. If
several jobs begin the same name with different recipes, only one of them gets it. The root is a local path or any
fsspec URI, such as `s3://bucket/runs`.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seva_ray.core.checks import check_artifact_name
from seva_ray.core.errors import FingerprintMismatch, InputError, suggestion
from seva_ray.core.fingerprints import differences, fingerprint_of, identity, with_absent_fields, without_places
from seva_ray.core.patience import StorageUnavailable, first_contact
from seva_ray.core.provenance import git_commit, versions
from seva_ray.core.recipe_files import MADE_FROM, RECIPE, RECORD, found_recipe, made_anew, parsed, same_inputs
from seva_ray.core.storage import (
    SETTLING_S,
    exists,
    files_in,
    read_bytes,
    remove,
    remove_files,
    write_bytes,
    write_new,
)
from seva_ray.core.submission import check_lasts, current_submission
from seva_ray.core.verification import contents_of, damage, described


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
    made_from: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """The contents of the inputs now, by name, where they are known."""
    stale: Sequence[str] = dataclasses.field(default=(), compare=False)
    """Names of the inputs that were made anew since this artifact was. Then it is not complete."""
    damaged: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """What has happened to each file that is not as it was recorded. Then the artifact is not complete."""
    former: str = dataclasses.field(default="", compare=False)
    """The fingerprint by which older versions, which wrote the places of files into recipes, knew this artifact. It is
    empty if that was the same one."""

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

    @property
    def contents(self) -> str:
        """A digest of the results, by which later stages see that they were made anew; empty if it is not known."""
        return (self.record or {}).get("contents", "")

    def path(self, *parts: str) -> str:
        return "/".join([self.uri, *parts])

    def begin(self) -> "Artifact":
        """Take the name, before the first file is written. Jobs with the same recipe may share the name.

        Raises: FingerprintMismatch if another recipe has taken the name.
        """
        if self.begun:
            return self
        beside = {MADE_FROM: self.made_from} if self.made_from else {}
        ours, uri, text = False, self.path(RECIPE), (json.dumps({**self.recipe, **beside}, indent=1) + "\n").encode()
        if found_recipe(self.uri) is None:
            ours = write_new(uri, text)
            if not ours and found_recipe(self.uri) is None:  # an older version left a recipe without other files
                write_bytes(uri, text)
                time.sleep(SETTLING_S)
                ours = read_bytes(uri) == text
        return dataclasses.replace(self.taken_by(found_recipe(self.uri)), ours=ours)

    def taken_by(self, found: Any, equal: bool = False) -> "Artifact":
        """The artifact with the recipe that was found in the store. It must be this recipe, unless it is known to mean
        the same (`equal`).

        Raises: FingerprintMismatch if it is another recipe; InputError if it is None.
        """
        if found is None:
            raise InputError(f"{self.name}: {self.path(RECIPE)} was removed while this job was running; start it again")
        found = {key: value for key, value in found.items() if key != MADE_FROM}
        if not equal and found != self.recipe:
            raise FingerprintMismatch(
                f"{self.name}: made by another recipe ({'; '.join(differences(found, self.recipe))}); "
                f"choose another name, or remove {self.uri}"
            )
        return dataclasses.replace(self, recipe=found, begun=True)  # 1 equals 1.0, but gives another fingerprint

    def discard(self) -> None:
        """Remove all files of the artifact, the recipe last, but only if this process began it."""
        if self.ours:
            remove_files(self.uri, last=RECIPE)

    def renewed(self) -> "Artifact":
        """The artifact without what is stale or damaged, which can now be made again."""
        if not self.stale and not self.damaged:
            return self
        artifact = dataclasses.replace(self, stale=(), damaged={})
        for name in (RECORD, *self.damaged):
            remove(self.path(name))
        if not self.stale:
            return artifact
        remove_files(self.uri, last=RECIPE)
        return dataclasses.replace(artifact, begun=False).begin()

    def reopened(self) -> "Artifact":
        """The complete artifact without its record, because some of its results are about to be made again."""
        remove(self.path(RECORD))
        return dataclasses.replace(self, record=None)

    def with_counts(self, **changes: Any) -> "Artifact":
        """The complete artifact with other values for some of its counts, in the store too. They must be counts that
        nothing was made from, such as the place where images lie now."""
        assert self.record is not None, f"{self.name} is not complete"
        record = {**self.record, "counts": {**self.counts, **changes}}
        write_bytes(self.path(RECORD), json.dumps(record, indent=1).encode())
        return dataclasses.replace(self, record=record)

    def finish(self, counts: Mapping[str, Any], lasting: bool = True) -> "Artifact":
        """Write the record, after all files are written, and return the complete artifact. `lasting` files are
        described in the record: they never change again.

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
        files = described(self.uri) if lasting else {}
        if files:
            record |= {"files": files, "contents": contents_of(files)}
        if self.made_from:
            record[MADE_FROM] = self.made_from
        if self.former:
            record["former"] = self.former
        write_bytes(self.path(RECORD), json.dumps(record, indent=1).encode())
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
        object.__setattr__(self, "root", str(self.root))
        check_lasts("root", self.root)
        if "://" not in self.root:
            object.__setattr__(self, "root", str(Path(self.root).expanduser().resolve()))

    def uri(self, name: str) -> str:
        check_artifact_name(name)
        return f"{self.root.rstrip('/')}/{name}"

    def check_writable(self) -> None:
        """Raises: InputError if a file cannot be written under the root."""
        probe = f"{self.root.rstrip('/')}/.writable"
        try:
            with first_contact():
                write_bytes(probe, b"")
            remove(probe)
        except StorageUnavailable:
            raise
        except Exception as error:  # each store raises the errors of its own client
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"root {self.root}: not writable ({reason})") from None

    def open(
        self,
        name: str,
        *,
        config: Any,
        inputs: Sequence[Artifact] = (),
        older: Sequence[Any] = (),
        made_from: Mapping[str, str] | None = None,
        later_is_new: bool = False,
    ) -> Artifact:
        """The artifact `name` made from `config` and `inputs`: complete, incomplete or new. `older` has the same config
        as older versions wrote it; an artifact with such a config is still valid, with the same places of files.
        `made_from` has the contents of what it is made from besides `inputs`, by name; empty if they are not known.
        `later_is_new` is for what is quickly made again: without recorded contents, the inputs' times decide.

        Raises: FingerprintMismatch if another recipe has taken the name; the message lists the fields that differ.
        """
        recipe = {"config": identity(config), "inputs": {item.name: item.fingerprint for item in inputs}}
        formerly = [identity(each, places=True) for each in (*older, config)]
        former = {"config": formerly[0], "inputs": {item.name: item.former or item.fingerprint for item in inputs}}
        artifact = Artifact(
            name=name,
            uri=self.uri(name),
            recipe=recipe,
            submission=self.submission,
            made_from={item.name: item.contents for item in inputs if item.contents}
            | {name: contents for name, contents in (made_from or {}).items() if contents},
            former="" if former == recipe else fingerprint_of(former),
        )
        found = found_recipe(artifact.uri)
        if found is None:
            return artifact
        known = {item.name: (item.fingerprint, item.former) for item in inputs}
        shown = found if found["config"] in formerly else found | {"config": without_places(found["config"], config)}
        equal = with_absent_fields(shown["config"], config) == with_absent_fields(recipe["config"], config)
        same = (equal or shown["config"] in formerly) and same_inputs(found["inputs"], known)
        artifact = artifact.taken_by(found if same else shown, equal=same)
        record = self.record(name)
        finished = {item.name: item.finished for item in inputs if item.contents and later_is_new}
        stale = made_anew(record or found, artifact.made_from, finished)
        damaged = damage(artifact.uri, record["files"]) if record and not stale and "files" in record else {}
        whole = record if not stale and not damaged else None
        return dataclasses.replace(artifact, record=whole, stale=stale, damaged=damaged)

    def record(self, name: str) -> Any:
        """The record of the artifact `name`; None if it does not exist or is incomplete."""
        uri = f"{self.uri(name)}/{RECORD}"
        if not exists(uri):
            return None
        return parsed(uri, read_bytes(uri), f"remove {uri}, and the same command writes it again")

    def find(self, name: str) -> Artifact:
        """The complete artifact `name`. Raises: InputError if it does not exist or is incomplete."""
        record = self.record(name)
        if record is None:
            kind, _, rest = name.partition("/")
            known = [] if "://" in self.root else [each.partition("/")[2] for each in self.names(kind)]
            near = suggestion(rest, known)
            raise InputError(f"{name}: not in {self.root}, or not complete{near}")
        uri = self.uri(name)
        if changes := damage(uri, record.get("files", {}), sizes_only=True):
            file, what = next(iter(changes.items()))
            raise InputError(f"{uri}/{file}: {what}; the command that made {name} makes it again")
        former = record.get("former", "")
        return Artifact(name=name, uri=uri, recipe=record["recipe"], record=record, former=former)

    def names(self, prefix: str) -> list[str]:
        """Sorted names of the complete artifacts whose name begins with `prefix` and a slash."""
        found = files_in(f"{self.root.rstrip('/')}/{prefix}")
        return sorted(f"{prefix}/{name.removesuffix(f'/{RECORD}')}" for name in found if name.endswith(f"/{RECORD}"))
