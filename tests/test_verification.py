"""Files that were cut, changed or lost are made again; so is what was made from inputs that have changed."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from check import CheckJob, main
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.storage import read_columns, read_part, read_schema, read_table, write_bytes, write_table
from seva_ray.core.verification import WHOLE_BYTES, num_rows, whole_shards
from seva_ray.dpo.config import Train
from seva_ray.engines.counts import COUNTS, counts_of, read_counts
from seva_ray.runtime.renewal import check_policy, to_be_made
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import Generate, finish_responses, missing_units, open_responses
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.training.training import Training
from seva_ray.vlm.models import Model
from tests.s3_server import s3_bucket

MODEL = Model(name="m", directory="/data/m", fingerprint="0123456789abcdef")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def prompts(store: Store) -> Artifact:
    """Prompts in three shards."""
    return prepare(Prepare(shard_size=6), store, "p", ToyWorld(num_images=2))


def answered(store: Store, prompts: Artifact, text: str = "yes") -> Artifact:
    """Responses to all prompts that have none yet."""
    artifact = to_be_made(open_responses(Generate(), store, MODEL, prompts, "clean"))
    missing = missing_units(MODEL, prompts, "clean", artifact)
    artifact = artifact.begin()
    for unit in missing:
        ids = read_table(unit.prompts_uri, ["prompt_id"])["prompt_id"].to_pylist()
        rows = [Response(prompt_id=prompt_id, text=text, token_ids=[1], finish_reason="stop") for prompt_id in ids]
        write_table(unit.responses_uri, table(rows, RESPONSE_SCHEMA))
    return finish_responses(prompts, artifact)


def test_responses_that_failed_say_why_on_the_terminal_and_in_the_record(
    store: Store, prompts: Artifact, capsys: pytest.CaptureFixture[str]
):
    answers = answered(store, prompts)
    assert "failures" not in answers.counts
    rows = read_table(str(shard(answers, 0))).to_pylist()
    gone = [f"image '{number}.png': no such file" for number in range(3)]
    for row, error in zip(rows, [*gone, "too long"], strict=False):
        row |= {"finish_reason": "error", "error": error, "token_ids": []}
    write_table(str(shard(answers, 0)), table(rows, RESPONSE_SCHEMA))
    capsys.readouterr()
    again = finish_responses(prompts, answers)
    first, last = rows[0]["prompt_id"], rows[3]["prompt_id"]
    lines = [f"3 failed, such as {first!r}: {gone[0]}", f"1 failed: {last!r}: too long"]
    assert again.counts["failures"] == lines
    assert again.counts["num_error"] == 4
    assert capsys.readouterr().err.splitlines() == [f"generate m/p/clean: {line}" for line in lines]


def shard(artifact: Artifact, number: int) -> Path:
    return Path(artifact.path(f"shard-{number:06d}.parquet"))


def damaged_by(kind: str, responses: Artifact) -> None:
    first, second = shard(responses, 0), shard(responses, 1)
    data = second.read_bytes()
    changed = {"empty": b"", "cut": data[:-9], "foreign": first.read_bytes(), "flipped": data[:9] + b"?" + data[10:]}
    second.unlink()
    if kind != "gone":
        second.write_bytes(changed[kind])


KINDS = ("gone", "empty", "cut", "foreign", "flipped")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_shard_of_a_complete_artifact_is_made_again_and_the_others_stay(
    store: Store, prompts: Artifact, kind: str, capsys: pytest.CaptureFixture[str]
):
    responses = answered(store, prompts)
    content, times = shard(responses, 1).read_bytes(), [shard(responses, n).stat().st_mtime_ns for n in (0, 2)]
    damaged_by(kind, responses)
    opened = open_responses(Generate(), store, MODEL, prompts, "clean")
    assert not opened.complete
    assert [unit.responses_uri for unit in missing_units(MODEL, prompts, "clean", opened)] == [str(shard(responses, 1))]
    again = answered(store, prompts)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("responses/")]
    assert line.startswith("responses/m/p/clean: shard-000001.parquet ")
    assert line.endswith(": this is made again")
    assert shard(again, 1).read_bytes() == content
    assert [shard(again, n).stat().st_mtime_ns for n in (0, 2)] == times
    assert again.contents == responses.contents
    assert open_responses(Generate(), store, MODEL, prompts, "clean").complete


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_damaged_shard_of_an_incomplete_artifact_counts_as_missing(store: Store, prompts: Artifact, kind: str):
    responses = answered(store, prompts)
    os.remove(responses.path("record.json"))
    assert whole_shards(responses.uri, prompts.uri) == {shard(responses, number).name for number in range(3)}
    damaged_by(kind, responses)
    opened = open_responses(Generate(), store, MODEL, prompts, "clean")
    assert [unit.responses_uri for unit in missing_units(MODEL, prompts, "clean", opened)] == [str(shard(responses, 1))]


def line_of(work: Callable[[], Any]) -> str:
    """The line that the work ends with; empty if it succeeds."""
    try:
        work()
    except InputError as error:
        return str(error)
    return ""


def test_a_shard_that_is_cut_or_changed_at_any_byte_is_read_or_is_a_line_with_its_name(store: Store, prompts: Artifact):
    responses = answered(store, prompts)
    file = shard(responses, 1)
    counts = counts_of([Response(prompt_id="p", error="x")], "clean")
    write_table(str(file), read_table(str(file)).replace_schema_metadata({COUNTS: counts.text()}))
    whole, uri = file.read_bytes(), str(file)
    reads: list[Callable[[], Any]] = [
        lambda: read_table(uri).to_pylist(),
        lambda: read_columns(uri, ["prompt_id"])[0].to_pylist(),
        lambda: read_part(uri, 0).to_pylist(),
        lambda: read_counts(uri, "clean"),
        lambda: read_schema(uri),
        lambda: num_rows(uri),
    ]
    for at in range(0, len(whole), 61):
        changed = {
            "cut": whole[:at],
            "another byte": whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :],
            "a hole": whole[:at] + bytes(min(64, len(whole) - at)) + whole[at + 64 :],
        }
        for kind, data in changed.items():
            file.write_bytes(data)
            for number, read in enumerate(reads):
                line = line_of(read)
                assert line.startswith(f"{uri}: cannot be read (") if line else kind != "cut", (kind, at, number)
            there = whole_shards(responses.uri, prompts.uri)
            assert file.name not in there or kind != "cut", at


@pytest.mark.parametrize("name", ["record.json", "recipe.json"])
def test_a_record_or_recipe_that_is_cut_at_any_byte_is_a_line_or_counts_as_missing(
    store: Store, prompts: Artifact, name: str
):
    responses = answered(store, prompts)
    file = Path(responses.path(name))
    whole = file.read_bytes()
    for at in range(0, len(whole) - 2, 101):  # without its last newline, and the bracket before it, it is still cut
        file.write_bytes(whole[:at])
        way_on = "and the same command (makes it again|writes it again)$"
        assert re.search(way_on, line_of(lambda: open_responses(Generate(), store, MODEL, prompts, "clean"))), at
        found = line_of(lambda: store.find(responses.name))
        assert re.search(way_on, found) if name == "record.json" else not found, at


def test_the_record_has_a_digest_and_the_rows_of_each_shard(store: Store, prompts: Artifact):
    record = json.loads(Path(answered(store, prompts).path("record.json")).read_text())
    assert [facts["rows"] for facts in record["files"].values()] == [6, 6, prompts.counts["num_prompts"] - 12]
    assert len({facts["sha256"] for facts in record["files"].values()}) == 3
    assert record["made_from"] == {"prompts/p": prompts.contents}


def test_an_artifact_of_an_older_version_has_no_digests_and_stays_good(store: Store, prompts: Artifact):
    responses = answered(store, prompts)
    record = {key: value for key, value in (responses.record or {}).items() if key not in ("files", "contents")}
    Path(responses.path("record.json")).write_text(json.dumps(record))
    shard(responses, 1).write_bytes(shard(responses, 0).read_bytes())
    assert open_responses(Generate(), store, MODEL, prompts, "clean").complete


def test_a_large_artifact_is_known_by_its_sizes_until_all_of_it_is_asked_for(
    store: Store, prompts: Artifact, monkeypatch: pytest.MonkeyPatch
):
    responses = answered(store, prompts)
    monkeypatch.setattr("seva_ray.core.verification.WHOLE_BYTES", 9)
    damaged_by("flipped", responses)
    assert open_responses(Generate(), store, MODEL, prompts, "clean").complete
    with pytest.raises(InputError, match="1 of 2 artifacts are at fault"):
        main(CheckJob(root=store.root))
    assert WHOLE_BYTES > 9


def test_in_an_object_store_a_replaced_file_is_noticed_by_its_tag(tmp_path: Path):
    with s3_bucket("verification") as uri:
        store = Store(f"{uri}/runs")
        artifact = store.open("a", config=1).begin()
        write_bytes(artifact.path("b.json"), b"[1]")
        artifact.finish({})
        assert store.open("a", config=1).complete
        write_bytes(artifact.path("b.json"), b"[2]")
        assert store.open("a", config=1).damaged == {"b.json": "has other contents than were written"}
        write_bytes(artifact.path("b.json"), b"[1]")
        assert store.open("a", config=1).complete


# Errors that name the file


@pytest.mark.parametrize("read", [read_table, lambda uri: read_columns(uri, ["a"]), lambda uri: read_part(uri, 0)])
@pytest.mark.parametrize("data", [b"", b"PAR1 and no more", None])
def test_a_table_that_cannot_be_read_is_a_line_with_its_name(
    tmp_path: Path, read: Callable[[str], object], data: bytes | None
):
    uri = str(tmp_path / "shard.parquet")
    if data is not None:
        Path(uri).write_bytes(data)
    with pytest.raises(InputError, match=f"^{uri}: (no such file|cannot be read).* makes? it again$") as caught:
        read(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b'{"recipe": {"conf', b"[1]", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["record.json", "recipe.json"])
def test_a_half_written_record_or_recipe_is_a_line_with_the_way_on(
    store: Store, prompts: Artifact, name: str, data: bytes
):
    responses = answered(store, prompts)
    Path(responses.path(name)).write_bytes(data)
    with pytest.raises(InputError) as caught:
        open_responses(Generate(), store, MODEL, prompts, "clean")
    line = str(caught.value)
    assert line.startswith(f"{responses.path(name)}: is not the JSON that was written ({len(data)} bytes); remove ")
    to_remove = line.partition("; remove ")[2].partition(",")[0]
    shutil.rmtree(to_remove) if os.path.isdir(to_remove) else os.remove(to_remove)
    assert answered(store, prompts).contents == responses.contents


def test_an_artifact_that_is_found_with_a_shard_gone_is_a_line(store: Store, prompts: Artifact):
    responses = answered(store, prompts)
    shard(responses, 1).unlink()
    with pytest.raises(InputError, match=f"^{shard(responses, 1)}: is gone; the command that made responses/m/p/clean"):
        store.find(responses.name)


# Inputs that were made anew


def pairs_of(store: Store, responses: Artifact, write: bool = True) -> Artifact:
    artifact = store.open("pairs/m/p/v", config=1, inputs=[responses], later_is_new=True)
    if artifact.complete or not write:
        return artifact
    artifact = to_be_made(artifact).begin()
    rows = read_table(str(shard(responses, 0)), ["prompt_id", "text"])
    write_table(artifact.path("pairs/shard-000000.parquet"), rows)
    return artifact.finish({})


def policy_of(store: Store, pairs: Artifact) -> Artifact:
    return Training(config=Train(), name="p", model=MODEL, pairs=pairs).open(store)


def test_responses_made_anew_make_everything_after_them_stale_and_equal_ones_do_not(
    store: Store, prompts: Artifact, capsys: pytest.CaptureFixture[str]
):
    responses = answered(store, prompts)
    pairs = pairs_of(store, responses)
    policy = policy_of(store, pairs).finish({})
    shutil.rmtree(responses.uri)
    assert pairs_of(store, answered(store, prompts)) == pairs
    shutil.rmtree(responses.uri)
    other = answered(store, prompts, "no")
    assert pairs_of(store, other, write=False).stale == [responses.name]
    write_bytes(pairs.path("pairs/shard-000009.parquet"), b"of the old ones")
    capsys.readouterr()
    again = pairs_of(store, other)
    said = capsys.readouterr().err
    assert said == "pairs/m/p/v: responses/m/p/clean has other contents since it was made: this is made again\n"
    assert set(os.listdir(again.path("pairs"))) == {"shard-000000.parquet"}
    assert pairs_of(store, other) == again
    with pytest.raises(
        InputError, match=r"^policies/p: pairs/m/p/v has other contents since it was made; give the new"
    ):
        check_policy(policy_of(store, again))
    assert store.find(policy.name).complete


def test_a_model_trained_anew_makes_its_responses_stale(store: Store, prompts: Artifact):
    def opened(contents: str) -> Artifact:
        model = Model(name="policy", directory="", fingerprint="same recipe", contents=contents)
        return open_responses(Generate(), store, model, prompts, "clean")

    opened("first").finish({"num_responses": 0})
    assert [opened(contents).complete for contents in ("first", "", "second")] == [True, True, False]
    assert opened("second").stale == ["policy"]


def test_what_was_half_made_of_old_inputs_is_not_continued(store: Store, prompts: Artifact):
    responses = answered(store, prompts)
    half = store.open("logps/a", config=1, inputs=[responses]).begin()
    write_bytes(half.path("shard-000000.parquet"), b"of the old ones")
    shutil.rmtree(responses.uri)
    again = to_be_made(store.open("logps/a", config=1, inputs=[answered(store, prompts, "no")]))
    assert os.listdir(again.uri) == ["recipe.json"]
    assert not store.open("logps/a", config=1, inputs=[store.find(responses.name)]).stale


def test_pairs_of_an_older_version_are_stale_where_responses_were_finished_long_after_them(
    store: Store, prompts: Artifact
):
    responses = answered(store, prompts)
    pairs = pairs_of(store, responses)
    record = {k: v for k, v in (pairs.record or {}).items() if k not in ("files", "contents", "made_from")}
    for before_s, stale in ((0, False), (500, False), (700, True)):
        finished = {"finished": responses.finished - before_s}
        Path(pairs.path("record.json")).write_text(json.dumps(record | finished))
        assert bool(pairs_of(store, responses, write=False).stale) == stale
    policy = policy_of(store, pairs).finish({})
    old = {k: v for k, v in (policy.record or {}).items() if k not in ("files", "contents", "made_from")}
    Path(policy.path("record.json")).write_text(json.dumps(old | {"finished": 0.0}))
    assert policy_of(store, pairs).complete, "nobody knows whether a policy of an older version is stale"


# A whole root


def test_the_check_of_a_root_says_what_to_do_about_each_fault(
    store: Store, prompts: Artifact, capsys: pytest.CaptureFixture[str]
):
    responses = answered(store, prompts)
    pairs_of(store, responses)
    store.open("logps/half", config=1).begin()
    old = store.open("prompts/old", config=1).begin()
    write_table(old.path("shard-000000.parquet"), pa.table({"a": [1]}))
    record = old.finish({}).record or {}
    Path(old.path("record.json")).write_text(json.dumps({k: v for k, v in record.items() if k != "files"}))
    capsys.readouterr()
    main(CheckJob(root=store.root))
    assert capsys.readouterr().out.splitlines() == [
        "logps/half: incomplete: the same command makes what is missing",
        "5 artifacts: 1 incomplete, 3 whole, 1 whole as far as known",
    ]
    damaged_by("cut", responses)
    shard(old, 0).write_bytes(b"")
    Path(prompts.path("recipe.json")).write_bytes(b"{")
    with pytest.raises(InputError, match="3 of 5 artifacts are at fault; the first: prompts/old"):
        main(CheckJob(root=store.root))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines[:-1]] == [
        "logps/half", "prompts/old", "prompts/p", "responses/m/p/clean"
    ]  # fmt: skip
    assert f"{shard(old, 0)}: cannot be read" in lines[1]
    assert (
        f"{prompts.path('recipe.json')}: is not the JSON that was written (1 bytes); remove {prompts.uri}" in lines[2]
    )
    assert lines[3].endswith("were written; remove it, and the same command makes what is missing")


def test_the_check_of_a_root_names_what_is_stale(store: Store, prompts: Artifact, capsys: pytest.CaptureFixture[str]):
    responses = answered(store, prompts)
    pairs_of(store, responses)
    shutil.rmtree(responses.uri)
    answered(store, prompts, "no")
    with pytest.raises(InputError, match="the first: pairs/m/p/v"):
        main(CheckJob(root=store.root))
    assert "responses/m/p/clean was made anew since; the same command makes it again" in capsys.readouterr().out
