"""Artifacts: what is fingerprinted, what survives a crash or a full disk, when results are reused and when refused."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import fsspec
import pyarrow as pa
import pytest

from seva_ray.core import fingerprints, node_cache, provenance
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.contents import contents
from seva_ray.core.directories import write_directory
from seva_ray.core.errors import ConfigError, FingerprintMismatch, InputError
from seva_ray.core.fingerprints import execution, fingerprint_of, identity
from seva_ray.core.node_cache import local_directory
from seva_ray.core.storage import read_bytes, read_table, remove, write_bytes, write_table


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: ClassVar[str] = "Inner"
    rate: float = 0.5
    num_workers: int = execution(2)


@dataclass(frozen=True, kw_only=True)
class Config:
    kind: ClassVar[str] = "Config"
    size: int = 3
    inner: Inner = field(default_factory=Inner)
    batch: int = execution(16)
    cap: int | None = None


@pytest.fixture(autouse=True)
def fields_of_the_first_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are always written into recipes; what became of others is in test_recipes.py."""
    fields = {"Config": {"size": 3, "inner": {}, "cap": None}, "Inner": {"rate": 0.5}, "Other": {"rate": 0.5}}
    monkeypatch.setattr(fingerprints, "FIRST", fields)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def memory() -> Iterator[str]:
    """A root in an object store: files appear whole, and there are no directories."""
    root = "memory://seva-test/runs"
    yield root
    filesystem, path = fsspec.core.url_to_fs(root)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


# Identity and fingerprint


def test_identity_leaves_out_what_only_says_where_and_how_fast():
    assert identity(Config()) == {
        "kind": "Config",
        "size": 3,
        "inner": {"kind": "Inner", "rate": 0.5},
        "cap": None,
    }
    assert identity(Config(batch=1, inner=Inner(num_workers=99))) == identity(Config())


def test_identity_tells_configs_of_two_kinds_apart_even_with_equal_fields():
    @dataclass(frozen=True)
    class Other:
        kind: ClassVar[str] = "Other"
        rate: float = 0.5

    assert identity(Other()) != identity(Inner())


def test_identity_of_containers_is_json_data():
    value = identity({"views": ("a", "b"), "sizes": [1, 2.5, True, None], "inner": Inner()})
    assert value == json.loads(json.dumps(value))
    assert value["views"] == ["a", "b"]


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", Path("x"), lambda: 1, object(), Inner, 1j])
def test_identity_raises_on_what_is_not_data(value):
    with pytest.raises(TypeError, match="cannot be part of a fingerprint"):
        identity({"field": [value]})


def test_identity_raises_on_numbers_that_do_not_equal_themselves():
    with pytest.raises(TypeError, match="cannot be part of a fingerprint"):
        identity(Inner(rate=float("nan")))


def test_a_fingerprint_follows_from_the_content_and_not_from_the_order_of_keys():
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
    assert len(fingerprint_of({"a": 1})) == 16
    different: list[dict[str, object]] = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {}]
    assert len({fingerprint_of(recipe) for recipe in different}) == len(different)


# Files


def test_write_bytes_makes_directories_and_leaves_nothing_but_the_file(tmp_path):
    write_bytes(f"{tmp_path}/a/b/file", b"one")
    write_bytes(f"{tmp_path}/a/b/file", b"two")
    assert os.listdir(tmp_path / "a/b") == ["file"]
    assert read_bytes(f"{tmp_path}/a/b/file") == b"two"


def test_a_full_disk_leaves_the_old_file_and_no_part_and_the_error_names_the_file(tiny_disk):
    path = f"{tiny_disk}/shard.parquet"
    write_bytes(path, b"old")
    with pytest.raises(OSError, match=r"shard\.parquet") as caught:
        write_bytes(path, bytes(2**20))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tiny_disk) == ["shard.parquet"]
    assert read_bytes(path) == b"old"


def test_a_reader_never_sees_half_a_file(tmp_path):
    """The old content stays in place until the new file is whole: a hard link to it does not change."""
    path = tmp_path / "file"
    write_bytes(str(path), b"old" * 1000)
    os.link(path, tmp_path / "link")
    write_bytes(str(path), b"new")
    assert (tmp_path / "link").read_bytes() == b"old" * 1000


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_table_comes_back_as_it_was_and_in_part(place, tmp_path, memory):
    uri = f"{tmp_path if place == 'local' else memory}/table.parquet"
    table = pa.table({"id": ["a", "b"], "ids": [[1, 2], []]})
    write_table(uri, table)
    assert read_table(uri).equals(table)
    assert read_table(uri, columns=["id"]).column_names == ["id"]


@pytest.mark.parametrize("place", ["local", "memory"])
def test_write_directory_replaces_what_was_there(place, tmp_path, memory):
    uri = f"{tmp_path if place == 'local' else memory}/deep/model"
    write_bytes(f"{uri}/shard-3-of-3", b"left from another time")
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "inner/weights").write_bytes(b"1234")
    write_directory(uri, str(made))
    filesystem, path = fsspec.core.url_to_fs(uri)
    names = {name.removeprefix(path) for name in filesystem.find(path)}
    assert names == {"/config.json", "/inner/weights"}
    assert read_bytes(f"{uri}/inner/weights") == b"1234"


def test_a_local_directory_is_used_where_it_is(tmp_path):
    assert local_directory(str(tmp_path)) == str(tmp_path)


def test_a_remote_directory_is_copied_once_and_again_when_it_changed(tmp_path, memory):
    uri, cache = f"{memory}/model", str(tmp_path / "cache")
    write_bytes(f"{uri}/config.json", b"{}")
    write_bytes(f"{uri}/inner/weights", b"1234")
    first = local_directory(uri, cache)
    assert (Path(first) / "inner/weights").read_bytes() == b"1234"
    (Path(first) / "config.json").write_text("touched")
    assert local_directory(uri, cache) == first
    assert (Path(first) / "config.json").read_text() == "touched", "it was copied a second time"
    write_bytes(f"{uri}/config.json", b"{ }")
    second = local_directory(uri, cache)
    assert second != first
    assert (Path(second) / "config.json").read_text() == "{ }"
    assert set(os.listdir(cache)) - {".lock"} == {Path(found).name for found in (first, second)}


def test_whoever_wants_a_remote_directory_waits_for_the_one_that_fetches_it(tmp_path, memory):
    uri, cache = f"{memory}/model", tmp_path / "cache"
    write_bytes(f"{uri}/config.json", b"{}")
    copy = Path(local_directory(uri, str(cache)))
    copy.rename(tmp_path / "fetched")
    with ThreadPoolExecutor(1) as other, open(cache / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = other.submit(local_directory, uri, str(cache))
        with pytest.raises(TimeoutError):
            wanted.result(timeout=0.5)
        (tmp_path / "fetched" / "config.json").write_text("by the other one")
        (tmp_path / "fetched").rename(copy)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert wanted.result(timeout=60) == str(copy)
    assert (copy / "config.json").read_text() == "by the other one"


def test_a_remote_directory_is_not_fetched_a_second_time(tiny_disk, memory):
    """A second copy would not fit."""
    write_bytes(f"{memory}/model/weights", bytes(40_000))
    assert local_directory(f"{memory}/model", str(tiny_disk)) == local_directory(f"{memory}/model", str(tiny_disk))
    node_cache.release()


def test_a_remote_directory_that_is_not_there_is_one_line(tmp_path, memory):
    with pytest.raises(InputError, match="memory://seva-test/runs/nowhere: no such directory"):
        local_directory(f"{memory}/nowhere", str(tmp_path / "cache"))


@pytest.mark.parametrize("place", ["local", "memory"])
def test_contents_of_a_file_change_with_its_bytes(place, tmp_path, memory):
    uri = f"{tmp_path if place == 'local' else memory}/file"
    write_bytes(uri, b"one")
    first = contents(uri)
    assert contents(uri) == first
    write_bytes(uri, b"two")
    assert contents(uri) != first


@pytest.mark.parametrize("place", ["local", "memory"])
def test_contents_of_a_directory_change_with_names_and_sizes_and_not_with_its_place(place, tmp_path, memory):
    root = tmp_path if place == "local" else memory
    for name in ("here", "there"):
        write_bytes(f"{root}/{name}/a.jpg", b"1")
        write_bytes(f"{root}/{name}/deep/b.jpg", b"22")
    first = contents(f"{root}/here")
    assert contents(f"{root}/there") == first
    write_bytes(f"{root}/here/a.jpg", b"111")
    larger = contents(f"{root}/here")
    write_bytes(f"{root}/there/c.jpg", b"1")
    more = contents(f"{root}/there")
    assert len({first, larger, more}) == 3


# The root


def test_a_relative_root_stays_the_same_place_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    monkeypatch.chdir("/")
    assert store.uri("a") == str(tmp_path.resolve() / "runs/a")


def test_a_root_that_can_be_written_is_left_as_it_was(store, memory):
    for each in (store, Store(memory)):
        each.check_writable()
        filesystem, path = fsspec.core.url_to_fs(each.root)
        assert filesystem.find(path) == []


def test_a_root_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(InputError) as caught:
        Store(f"{tmp_path}/file/runs").check_writable()
    assert str(caught.value) == f"root {tmp_path}/file/runs: not writable (Not a directory)"


@pytest.mark.parametrize("root", ["nonsense://bucket/runs", "http://127.0.0.1:9/runs"])
def test_a_root_in_a_store_that_cannot_be_used_is_one_line(root):
    with pytest.raises(InputError, match=f"root {root}: not writable") as caught:
        Store(root).check_writable()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "a/../b", "..", "a/./b", "/a", "a/", "a//b", "a b", "a\nb", "a*", "a?", "a:b", "a\\b", "a\0b", "~/a"]
)
def test_a_name_that_could_leave_the_root_is_refused(store, name):
    with pytest.raises(ConfigError, match="artifact name"):
        store.uri(name)


@pytest.mark.parametrize("name", ["policies/llava-1.5-7b-hf", "a", "pairs/m/p/diffusion-500", "a=1+b", "..a"])
def test_an_ordinary_name_is_a_place_under_the_root(store, name):
    assert store.uri(name) == f"{store.root}/{name}"


# Opening, finishing, finding


@pytest.fixture(params=["local", "memory"])
def anywhere(request, tmp_path, memory) -> Store:
    return Store(str(tmp_path / "runs") if request.param == "local" else memory)


def test_a_finished_artifact_is_reused(anywhere):
    new = anywhere.open("pairs/a", config=Config())
    assert not new.complete
    done = new.finish({"num_pairs": 7})
    again = anywhere.open("pairs/a", config=Config(batch=1, inner=Inner(num_workers=64)))
    assert again.complete
    assert again.counts == {"num_pairs": 7}
    assert again == done
    assert again.fingerprint == new.fingerprint
    assert again.seconds >= 0
    assert abs(again.finished - done.finished) < 1e-9


def test_a_half_made_artifact_is_continued(anywhere):
    first = anywhere.open("pairs/a", config=Config()).begin()
    write_bytes(first.path("shards", "0.parquet"), b"half of the work")
    second = anywhere.open("pairs/a", config=Config())
    assert not second.complete
    assert second.path("shards", "0.parquet") == f"{second.uri}/shards/0.parquet"
    assert read_bytes(second.path("shards", "0.parquet")) == b"half of the work"


def test_another_recipe_is_refused_with_the_fields_that_differ(anywhere):
    anywhere.open("pairs/a", config=Config()).finish({})
    with pytest.raises(FingerprintMismatch) as caught:
        anywhere.open("pairs/a", config=Config(size=4, inner=Inner(rate=0.25)))
    line = str(caught.value)
    assert line.startswith("pairs/a: made by another recipe (config.inner.rate: 0.5 -> 0.25; config.size: 3 -> 4);")
    assert anywhere.uri("pairs/a") in line
    assert "\n" not in line


def test_another_recipe_is_refused_while_the_artifact_is_half_made(anywhere):
    anywhere.open("pairs/a", config=Config()).begin()
    with pytest.raises(FingerprintMismatch, match=r"config\.size: 3 -> 4"):
        anywhere.open("pairs/a", config=Config(size=4))


def test_other_inputs_are_refused_by_name(anywhere):
    old, new = (anywhere.open(f"prompts/{name}", config=name).finish({}) for name in "ab")
    anywhere.open("pairs/a", config=Config(), inputs=[old]).begin()
    with pytest.raises(FingerprintMismatch) as caught:
        anywhere.open("pairs/a", config=Config(), inputs=[new])
    assert f'inputs.prompts/a: "{old.fingerprint}" -> ' in str(caught.value)
    assert f'inputs.prompts/b: absent -> "{new.fingerprint}"' in str(caught.value)


def test_a_field_that_an_older_recipe_lacks_is_named(anywhere):
    anywhere.open("pairs/a", config={"size": 3}).begin()
    with pytest.raises(FingerprintMismatch, match=r"config\.cap: absent -> null"):
        anywhere.open("pairs/a", config={"size": 3, "cap": None})


def test_a_whole_number_written_as_a_float_is_the_same_recipe(anywhere):
    one = anywhere.open("a", config=Inner(rate=1.0)).finish({})
    assert anywhere.open("a", config=Inner(rate=1)).fingerprint == one.fingerprint


def test_the_recipe_is_written_first_and_the_record_last(anywhere):
    artifact = anywhere.open("pairs/a", config=Config()).begin()
    assert files_of(artifact) == {"recipe.json"}
    with pytest.raises(AssertionError, match="not complete"):
        _ = artifact.counts
    artifact.finish({"num_pairs": 7})
    record = json.loads(read_bytes(artifact.path("record.json")))
    assert record["recipe"] == json.loads(read_bytes(artifact.path("recipe.json")))
    assert record["fingerprint"] == artifact.fingerprint
    assert record["counts"] == {"num_pairs": 7}
    assert record["versions"]["torch"]


def files_of(artifact: Artifact) -> set[str]:
    filesystem, path = fsspec.core.url_to_fs(artifact.uri)
    return {name.removeprefix(path).lstrip("/") for name in filesystem.find(path)}


def test_to_open_an_artifact_writes_nothing_so_that_a_try_that_fails_leaves_the_name_free(anywhere):
    first = anywhere.open("pairs/a", config=Config())
    assert files_of(first) == set()
    other = anywhere.open("pairs/a", config=Config(size=4)).begin()
    with pytest.raises(FingerprintMismatch, match=r"config\.size: 4 -> 3"):
        first.begin()
    assert json.loads(read_bytes(other.path("recipe.json"))) == other.recipe


def test_jobs_of_one_recipe_share_the_name_and_only_the_first_may_take_it_back(anywhere):
    first, second = (anywhere.open("pairs/a", config=Config()) for _ in range(2))
    first, second = first.begin(), second.begin()
    write_bytes(second.path("pairs", "0.parquet"), b"0")
    write_bytes(anywhere.uri("pairs/a/within/recipe.json"), b"an artifact of its own")
    second.discard()
    assert files_of(first) == {"recipe.json", "pairs/0.parquet", "within/recipe.json"}
    first.discard()
    assert files_of(first) == {"within/recipe.json"}
    assert not anywhere.open("pairs/a", config=Config(size=4)).begun


def test_a_record_is_refused_where_the_recipe_is_no_longer_its_own(anywhere):
    artifact = anywhere.open("pairs/a", config=Config()).begin()
    remove(artifact.path("recipe.json"))
    with pytest.raises(InputError, match=r"pairs/a: .*/recipe.json was removed while this job was running; start it"):
        artifact.finish({})
    anywhere.open("pairs/a", config=Config(size=4)).begin()
    with pytest.raises(FingerprintMismatch, match=r"pairs/a: made by another recipe \(config\.size: 4 -> 3\)"):
        artifact.finish({})
    assert files_of(artifact) == {"recipe.json"}


def test_a_recipe_that_an_older_version_left_alone_takes_no_name_and_one_with_files_does(anywhere):
    taken = json.dumps({"config": "another", "inputs": {}}, indent=1).encode()  # without a new line at the end
    write_bytes(anywhere.uri("pairs/a/recipe.json"), taken)
    write_bytes(anywhere.uri("pairs/b/recipe.json"), taken)
    write_bytes(anywhere.uri("pairs/b/verdicts/0.parquet"), b"0")
    done = anywhere.open("pairs/a", config=Config()).finish({})
    assert anywhere.open("pairs/a", config=Config()) == done
    with pytest.raises(FingerprintMismatch, match="pairs/b: made by another recipe"):
        anywhere.open("pairs/b", config=Config())


def test_find_gives_complete_artifacts_only(anywhere):
    with pytest.raises(InputError, match=r"pairs/a: not in .*, or not complete"):
        anywhere.find("pairs/a")
    half = anywhere.open("pairs/a", config=Config()).begin()
    with pytest.raises(InputError, match="not complete"):
        anywhere.find("pairs/a")
    done = half.finish({"num_pairs": 7})
    assert anywhere.find("pairs/a") == done


def test_a_name_that_is_nearly_there_is_named(store):
    for name in ("policies/toy", "policies/other", "pairs/toy-1/toy/moco"):
        store.open(name, config=Config()).finish({})
    with pytest.raises(InputError, match=r"policies/toyy: not in .*, or not complete; perhaps you meant toy$"):
        store.find("policies/toyy")
    with pytest.raises(InputError, match=r"or not complete$"):
        store.find("policies/strange")


def test_names_lists_complete_artifacts_under_a_prefix(anywhere):
    for name in ("pairs/m/b", "pairs/m/a", "pairs/z", "pairs2/a", "scores/a"):
        anywhere.open(name, config=Config()).finish({})
    anywhere.open("pairs/half", config=Config()).begin()
    assert anywhere.names("pairs") == ["pairs/m/a", "pairs/m/b", "pairs/z"]
    assert anywhere.names("policies") == []


def test_a_root_whose_name_has_brackets_is_an_ordinary_root(tmp_path):
    store = Store(str(tmp_path / "runs [1] *"))
    store.open("pairs/a", config=Config()).finish({})
    assert store.names("pairs") == ["pairs/a"]
    assert store.find("pairs/a").complete


def test_the_record_says_which_source_made_it(store):
    record = store.open("a", config=1).finish({}).record
    assert record["git_commit"] == provenance.git_commit()


def test_equality_of_artifacts_does_not_depend_on_when_they_were_opened():
    make = [Artifact(name="a", uri="/a", recipe={}, opened=opened) for opened in (1.0, 2.0)]
    assert make[0] == make[1]
