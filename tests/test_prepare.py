"""prepare: whose contents are in the recipe, and what is left of a try that failed."""

import base64
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from prepare import PrepareJob, main
from seva_ray.core import contents as core_contents
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.contents import agreed, contents
from seva_ray.core.errors import FingerprintMismatch, InputError
from seva_ray.core.fingerprints import fingerprint_of, identity, place
from seva_ray.core.records import Prompt
from seva_ray.core.storage import write_bytes
from seva_ray.runtime import cli as job
from seva_ray.sources import Folder, Table, ToyWorld
from seva_ray.stages.prepare import SHARD_BYTES, Prepare, batches, prepare

DIGEST_OF_OLD = "74508370e643cda1"
"""What the version that named a directory's files by their sizes wrote for `table_in` of one red question."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


def table_in(folder: Path, questions: Sequence[str] = ("Is it red?",)) -> Table:
    """A directory with one file of questions."""
    folder.mkdir(exist_ok=True)
    rows = [{"question": question, "image": "a.png"} for question in questions]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Table(path=str(folder), image_root=str(folder))


# The recipe


def test_a_directory_whose_question_was_edited_is_another_recipe(store: Store, tmp_path: Path):
    prepare(Prepare(), store, "x", table_in(tmp_path / "data"))
    with pytest.raises(FingerprintMismatch, match=r"prompts/x: made by another recipe \(config\.contents"):
        prepare(Prepare(), store, "x", table_in(tmp_path / "data", ["Is it fox?"]))


def test_prompts_of_an_older_version_are_good_while_names_and_sizes_are_the_same(store: Store, tmp_path: Path):
    source = table_in(tmp_path / "data")
    made_before(store, "x", source, {"contents": DIGEST_OF_OLD})
    again = prepare(Prepare(), store, "x", source)
    assert again.complete
    assert again.recipe["config"]["contents"] == DIGEST_OF_OLD
    with pytest.raises(FingerprintMismatch, match=r"config\.contents"):
        prepare(Prepare(), store, "x", table_in(tmp_path / "data", ["Is it reddish?"]))


def test_contents_of_a_directory_that_moved_are_the_same(store: Store, tmp_path: Path):
    made = prepare(Prepare(), store, "x", table_in(tmp_path / "data"))
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    moved = Table(path=str(tmp_path / "moved"), image_root=str(tmp_path / "moved"))
    again = prepare(Prepare(), store, "y", moved)
    assert again.recipe["config"]["contents"] == made.recipe["config"]["contents"]


LITTER = (".DS_Store", "Thumbs.db", "__MACOSX/a.jsonl", ".ipynb_checkpoints/a.jsonl")


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"a new {name}")


def test_files_that_the_source_does_not_read_may_come_and_go(store: Store, tmp_path: Path):
    (tmp_path / "images").mkdir()
    source = replace(table_in(tmp_path / "data"), image_root=str(tmp_path / "images"))
    made = prepare(Prepare(), store, "x", source)
    put(tmp_path / "data", *LITTER, "README.md", "_SUCCESS")
    assert prepare(Prepare(), store, "x", source) == made
    folder = tmp_path / "folder"
    put(folder, "a.png")
    made = prepare(Prepare(), store, "y", Folder(path=str(folder)))
    put(folder, *LITTER, "README.md")
    assert prepare(Prepare(), store, "y", Folder(path=str(folder))) == made
    put(folder, "b.png")
    with pytest.raises(FingerprintMismatch, match=r"config\.contents"):
        prepare(Prepare(), store, "y", Folder(path=str(folder)))


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A source whose file is in a field of another name than those here have."""

    kind: ClassVar[str] = "Sheet"
    sheet: str = place()
    image_root: str | None = None

    def prompts(self) -> Iterator[Prompt]:
        for number, line in enumerate(Path(self.sheet).read_text().splitlines()):
            yield Prompt(prompt_id=str(number), image_id="i", question=line, source="sheet", image_bytes=b"1")


def test_every_field_that_names_files_has_its_contents_in_the_recipe(store: Store, tmp_path: Path):
    put(tmp_path, "a.txt")
    made = prepare(Prepare(), store, "x", Sheet(sheet=str(tmp_path / "a.txt")))
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert prepare(Prepare(), store, "x", Sheet(sheet=str(tmp_path / "b.txt"))) == made
    put(tmp_path, "b.txt")
    with pytest.raises(FingerprintMismatch, match=r"config\.contents of sheet"):
        prepare(Prepare(), store, "x", Sheet(sheet=str(tmp_path / "b.txt")))


def test_an_image_beside_the_table_is_a_part_of_its_contents(store: Store, tmp_path: Path):
    source = table_in(tmp_path / "data")
    put(tmp_path / "data", "a.png")
    prepare(Prepare(), store, "x", source)
    (tmp_path / "data" / "a.png").write_text("another image")
    with pytest.raises(FingerprintMismatch, match=r"config\.contents"):
        prepare(Prepare(), store, "x", source)


def digest_before(folder: Path) -> str:
    """The digest of a version that counted all files of a local directory, and followed no links to others."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()]
    hashes = {path: sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file" for path in files}
    return fingerprint_of({str(path.relative_to(folder)): digest for path, digest in hashes.items()})


@pytest.mark.parametrize("later", [(), (".DS_Store",)])
@pytest.mark.parametrize("beside", [(), ("README.md", "inner/notes.txt"), (".hidden/a", "README.md")])
def test_prompts_of_a_version_that_counted_all_files_are_good(
    store: Store, tmp_path: Path, beside: Sequence[str], later: Sequence[str]
):
    source = table_in(tmp_path / "data")
    put(tmp_path / "data", *beside)
    old = made_before(store, "x", source, {"contents": digest_before(tmp_path / "data")})
    put(tmp_path / "data", *later)
    if later and any(name.startswith(".") for name in beside):
        with pytest.raises(FingerprintMismatch):  # which of the hidden files were there is not known
            prepare(Prepare(), store, "x", source)
    else:
        assert prepare(Prepare(), store, "x", source) == old
    (tmp_path / "data" / "a.jsonl").write_text('{"question": "Is it reddish?", "image": "a.png"}\n')
    with pytest.raises(FingerprintMismatch, match=r"config\.contents"):
        prepare(Prepare(), store, "x", source)


def test_prompts_of_a_version_that_followed_no_links_are_good(store: Store, tmp_path: Path):
    source = table_in(tmp_path / "data")
    (tmp_path / "there").mkdir()
    put(tmp_path / "there", "b.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "there")
    old = made_before(store, "x", source, {"contents": digest_before(tmp_path / "data")})
    assert prepare(Prepare(), store, "x", source) == old


def test_a_directory_has_the_same_contents_in_a_store_as_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path, "inner/a.png", "b.png")
    here, there = tmp_path, f"memory://{tmp_path.name}-same"
    for name in ("inner/a.png", "b.png"):
        write_bytes(f"{there}/{name}", (here / name).read_bytes())
    assert contents(there) == contents(str(here))
    md5 = {name: hashlib.md5((here / name).read_bytes()).digest() for name in ("inner/a.png", "b.png")}
    tags = {
        "ETag": {name: f'"{digest.hex()}"' for name, digest in md5.items()},
        "md5Hash": {name: base64.b64encode(digest).decode() for name, digest in md5.items()},
    }
    on_disk = contents(str(here))
    for key, of_files in tags.items():
        tagged = fingerprint_of(of_files)
        assert agreed(str(here), tagged)[0] == tagged, f"from {key} to the disk"
    assert agreed(there, on_disk)[0] == on_disk
    assert agreed(str(here), "another")[0] == on_disk
    find = MemoryFileSystem.find

    def find_tagged(self: MemoryFileSystem, path: str, **kwargs: Any) -> Any:
        found = find(self, path, **kwargs)
        tag = {name: tags["ETag"][name[len(path.rstrip("/")) + 1 :]] for name in found}
        return {name: found[name] | {"ETag": tag[name]} for name in found} if kwargs.get("detail") else found

    monkeypatch.setattr(MemoryFileSystem, "find", find_tagged)
    assert contents(there) == on_disk, "small files are read in a store too"
    assert agreed(there, fingerprint_of(tags["ETag"])) == (fingerprint_of(tags["ETag"]),) * 2
    monkeypatch.setattr(core_contents, "REMOTE_BYTES", 1)
    assert contents(there) == fingerprint_of(tags["ETag"])
    assert agreed(there, on_disk)[0] == on_disk, "large ones are read if another digest is recorded"


def test_a_path_through_a_link_is_the_same_source(store: Store, tmp_path: Path):
    source = table_in(tmp_path / "data")
    (tmp_path / "data" / "images").mkdir()
    put(tmp_path / "data" / "images", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    made = prepare(Prepare(), store, "x", replace(source, image_root=str(tmp_path / "data" / "images")))
    for path, image_root in (("link", "data"), ("data", "link"), ("link", "link")):
        same = Table(path=str(tmp_path / path), image_root=str(tmp_path / image_root / "images"))
        assert prepare(Prepare(), store, f"{path}-{image_root}", same).fingerprint == made.fingerprint


def made_before(store: Store, name: str, source: Table, contents: dict[str, str]) -> Artifact:
    """Prompts as older versions wrote them, with the places of files in the recipe."""
    made = prepare(Prepare(), store, name, source)
    config = identity({"prepare": Prepare(), "source": source}, places=True) | contents
    recipe = {"config": config, "inputs": {}}
    counts = {key: value for key, value in made.counts.items() if key != "images"}
    record = {**(made.record or {}), "recipe": recipe, "fingerprint": fingerprint_of(recipe), "counts": counts}
    record.pop("former", None)
    for file, data in (("recipe.json", recipe), ("record.json", record)):
        Path(made.path(file)).write_text(json.dumps(data, indent=1) + "\n")
    return store.find(f"prompts/{name}")


# Files that moved


def moved(source: Table, to: Path) -> Table:
    """The same source with equal copies of its files at another place."""
    shutil.copytree(Path(source.path).parent, to)
    return Table(path=str(to / Path(source.path).name), image_root=str(to / "images"))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """One file of three questions, and images beside it, of which one is missing."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "data" / "images" / f"{name}.png").write_bytes(b"image " + name.encode())
    rows = [{"question": f"Is it {name}?", "image": f"{name}.png"} for name in "abc"]
    (tmp_path / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Table(path=str(tmp_path / "data" / "rows.jsonl"), image_root=str(tmp_path / "data" / "images"))


def test_a_source_with_images_that_moved_is_the_same_recipe_and_its_images_are_found(
    store: Store, tmp_path: Path, table: Table, capsys: pytest.CaptureFixture[str]
):
    made = prepare(Prepare(), store, "x", table)
    there = moved(table, tmp_path / "there")
    assert prepare(Prepare(), store, "y", there).fingerprint == made.fingerprint
    shutil.rmtree(tmp_path / "data")
    again = prepare(Prepare(), store, "x", there)
    assert (again.fingerprint, again.finished) == (made.fingerprint, made.finished)
    assert capsys.readouterr().err.splitlines()[-1] == f"prepare x: its images have moved to {there.image_root}"
    assert store.find("prompts/x").counts["image_root"] == there.image_root
    prepare(Prepare(), store, "x", there)
    assert "moved" not in capsys.readouterr().err


def test_a_source_whose_images_are_others_at_the_new_place_is_another_recipe(
    store: Store, tmp_path: Path, table: Table
):
    prepare(Prepare(), store, "x", table)
    there = moved(table, tmp_path / "there")
    (tmp_path / "there" / "images" / "b.png").write_bytes(b"image B")
    with pytest.raises(FingerprintMismatch, match=rf"image_root: {table.image_root} -> .*; b.png is another image"):
        prepare(Prepare(), store, "x", there)
    (tmp_path / "there" / "images" / "b.png").unlink()
    with pytest.raises(FingerprintMismatch, match=r"b\.png is not readable there"):
        prepare(Prepare(), store, "x", there)
    assert prepare(Prepare(), store, "z", there).fingerprint != store.find("prompts/x").fingerprint
    assert prepare(Prepare(), store, "x", table).complete


def test_images_that_appear_later_leave_the_recipe_as_it_was(store: Store, tmp_path: Path, table: Table):
    made = prepare(Prepare(), store, "x", table)
    (tmp_path / "data" / "images" / "c.png").write_bytes(b"image c")
    assert prepare(Prepare(), store, "x", table) == made


def test_a_place_without_a_readable_image_is_in_the_recipe_itself(store: Store, tmp_path: Path, table: Table):
    shutil.rmtree(tmp_path / "data" / "images")
    (tmp_path / "data" / "images").mkdir()
    made = prepare(Prepare(), store, "x", table)
    assert made.recipe["config"]["image_root"] == table.image_root
    with pytest.raises(FingerprintMismatch, match=r"config\.image_root"):
        prepare(Prepare(), store, "x", moved(table, tmp_path / "there"))


def test_prompts_of_an_older_version_are_good_at_a_new_place_while_the_images_can_be_compared(
    store: Store, tmp_path: Path, table: Table
):
    old = made_before(store, "x", table, {"contents": contents(table.path)})
    assert prepare(Prepare(), store, "x", table) == old
    there = moved(table, tmp_path / "there")
    (tmp_path / "there" / "images" / "a.png").write_bytes(b"image A")
    with pytest.raises(FingerprintMismatch, match=r"a\.png is another image there"):
        prepare(Prepare(), store, "x", there)
    (tmp_path / "there" / "images" / "a.png").write_bytes(b"image a")
    again = prepare(Prepare(), store, "x", there)
    assert (again.fingerprint, again.counts["image_root"]) == (old.fingerprint, there.image_root)
    shutil.rmtree(tmp_path / "there" / "images")
    with pytest.raises(FingerprintMismatch, match=r"no image under .*/there/images can be read any more"):
        prepare(Prepare(), store, "x", table)


def test_a_directory_known_by_sizes_alone_is_good_at_its_old_place_only(store: Store, tmp_path: Path):
    made_before(store, "x", table_in(tmp_path / "data"), {"contents": DIGEST_OF_OLD})
    with pytest.raises(FingerprintMismatch, match=r"config\.contents"):
        prepare(Prepare(), store, "x", table_in(tmp_path / "there"))


def test_prompts_made_again_by_this_version_fit_what_an_older_one_made_from_them(store: Store, table: Table):
    old = made_before(store, "x", table, {"contents": contents(table.path)})
    store.open("responses/m/x/clean", config=1, inputs=[old]).finish({})
    shutil.rmtree(old.uri)
    made = prepare(Prepare(), store, "x", table)
    for prompts in (made, store.find("prompts/x")):
        assert prompts.fingerprint != old.fingerprint
        assert store.open("responses/m/x/clean", config=1, inputs=[prompts]).complete


def test_an_edited_file_at_a_new_place_is_another_recipe(store: Store, tmp_path: Path, table: Table):
    prepare(Prepare(), store, "x", table)
    there = moved(table, tmp_path / "there")
    Path(there.path).write_text(Path(there.path).read_text().replace("Is it a?", "Is it A?"))
    with pytest.raises(FingerprintMismatch, match=r"made by another recipe \(config\.contents: [^;]*\);"):
        prepare(Prepare(), store, "x", there)


# What failed


@dataclass(frozen=True, kw_only=True)
class Rows:
    """As many prompts as `errors`; where one is text it is that prompt's error, or what the source raises."""

    kind: ClassVar[str] = "Rows"
    errors: tuple[str | None, ...]
    raises: bool = False
    image_root: str | None = None

    def prompts(self) -> Iterator[Prompt]:
        for number, error in enumerate(self.errors):
            if error and self.raises:
                raise InputError(error)
            yield Prompt(prompt_id=f"p{number}", image_id="i", question="what?", source="rows", error=error)


def left_in(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in Path(store.root).rglob("*") if path.is_file())


@pytest.mark.parametrize("place", [0, 5])
def test_a_source_that_cannot_be_read_leaves_nothing_and_the_name_free(store: Store, place: int):
    broken = Rows(errors=(None,) * place + ("row 5: the disk is gone",), raises=True)
    with pytest.raises(InputError, match="the disk is gone"):
        prepare(Prepare(shard_size=2), store, "x", broken)
    assert left_in(store) == []
    assert prepare(Prepare(), store, "x", Rows(errors=(None,))).counts["num_prompts"] == 1


def test_prompts_that_are_all_unusable_are_one_line_with_the_most_frequent_reason_and_leave_nothing(store: Store):
    errors = (
        "row 0: no image",
        "row 1: 'a' is no image",
        "row 2: 'b' is no image",
        "row 3: no image",
        "row 4: no image",
    )
    with pytest.raises(InputError) as caught:
        prepare(Prepare(shard_size=2), store, "x", Rows(errors=errors))
    assert str(caught.value) == (
        "source of x: none of its 5 prompts can be used; 3 failed, such as 'p0': row 0: no image"
    )
    assert left_in(store) == []
    assert prepare(Prepare(), store, "x", Rows(errors=(None,))).counts["num_prompts"] == 1


def test_what_an_earlier_run_of_the_same_recipe_had_made_stays_when_the_source_fails(store: Store):
    source = Rows(errors=(None, None, "row 2: the disk is gone"), raises=True)
    half = store.open(
        "prompts/x", config={"prepare": Prepare(shard_size=2), "source": source, "contents": None}
    ).begin()
    write_bytes(half.path("shard-000000.parquet"), b"made before the machine went down")
    with pytest.raises(InputError, match="the disk is gone"):
        prepare(Prepare(shard_size=2), store, "x", source)
    assert left_in(store) == ["prompts/x/recipe.json", "prompts/x/shard-000000.parquet"]


def test_the_reasons_of_unusable_prompts_are_said_most_frequent_first_and_three_at_most(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    numbers = {"the question is empty": 4, "column 'image': no image": 3, "column 'text': no text": 2, "odd": 1}
    errors = [f"row {number}: {reason}" for reason, count in numbers.items() for number in range(count)]
    prepare(Prepare(), store, "x", Rows(errors=(None, *errors)))
    assert capsys.readouterr().err.splitlines() == [
        "prepare x: 11 prompts, 10 unusable",
        "prepare x: 4 failed, such as 'p1': row 0: the question is empty",
        "prepare x: 3 failed, such as 'p5': row 0: column 'image': no image",
        "prepare x: 2 failed, such as 'p8': row 0: column 'text': no text",
    ]


def test_prompts_of_an_older_version_of_which_none_can_be_used_are_refused(store: Store):
    source = Rows(errors=("row 0: no image",))
    recipe = {"prepare": Prepare(), "source": source, "contents": None}
    store.open("prompts/x", config=recipe).finish({"num_prompts": 1, "num_failed": 1, "num_shards": 1})
    with pytest.raises(InputError, match=f"prompts/x: none of its prompts can be used; remove {store.root}/prompts/x"):
        prepare(Prepare(), store, "x", source)


def test_the_job_ends_with_2_and_the_corrected_command_under_the_same_name_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "vqa.jsonl").write_text('{"text": "Is it red?", "image_path": "a.png"}\n' * 12)
    words = ["--name", "v", "--root", str(tmp_path / "runs"), "source:table", "--source.path"]
    words += [str(tmp_path / "vqa.jsonl"), "--source.image-root", str(tmp_path)]

    def run(*more: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["prepare.py", *words, *more])
        job.run(main, {"toy": PrepareJob(name="toy", source=ToyWorld())}, "test")
        return capsys.readouterr().err.splitlines()

    with pytest.raises(SystemExit) as exit_:
        run()
    assert exit_.value.code == 2
    first_line = f"prepare v: root {tmp_path / 'runs'}"
    assert capsys.readouterr().err.splitlines() == [
        first_line,
        "error: source of v: none of its 12 prompts can be used; 12 failed, such as '0': row 0: no column "
        "'image'; the row has text, image_path",
    ]
    columns = ("--source.question-column", "text", "--source.image-column", "image_path")
    assert run(*columns) == [first_line, "prepare v: 12 prompts, 0 unusable"]


def test_a_shard_ends_early_if_its_images_are_large_and_no_row_is_lost():
    large = bytes(SHARD_BYTES // 4)
    rows = [
        Prompt(prompt_id=str(n), image_id="i", question="q", source="s", image_bytes=large if n < 6 else b"x")
        for n in range(20)
    ]
    shards = list(batches(iter(rows), 8))
    assert [len(shard) for shard in shards] == [4, 8, 8]
    assert [row.prompt_id for shard in shards for row in shard] == [row.prompt_id for row in rows]
