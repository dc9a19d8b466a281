"""Pairs of several sources, with filters and quotas: every prompt still has one verdict."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import tyro

from pair import PairJob
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, FingerprintMismatch, NothingLeft
from seva_ray.core.records import PAIR_SCHEMA, RESPONSE_SCHEMA, Prompt, Response, table
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import exists, read_bytes, read_table, write_table
from seva_ray.pairs.files import files_of
from seva_ray.pairs.filters import Filters
from seva_ray.pairs.verdicts import OPTIONAL, VERDICTS
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare
from tests.kept import read_pairs

NUM_PROMPTS = 60
LOOP = "a dog and a cat and " * 4


@dataclass(frozen=True)
class TwoSources:
    """Prompts of ocr_vqa and textvqa in turn."""

    kind: ClassVar[str] = "TwoSources"
    image_root: str | None = None

    def prompts(self) -> Iterator[Prompt]:
        for index in range(NUM_PROMPTS):
            source = ("ocr_vqa", "textvqa")[index % 2]
            yield Prompt(prompt_id=f"{source}/{index}", image_id=str(index), question="what?", source=source)


def rejected_text(index: int) -> str:
    """Of every ten answers: one equal, one empty, one in a loop, one long, and six that are good."""
    return {0: f"answer number {index}", 1: "", 2: LOOP, 3: "word " * 3 + "and so on and on"}.get(
        index % 10, f"no {index}"
    )


def answered(store: Store, prompts: Artifact, view: str) -> Artifact:
    artifact = store.open(f"responses/model/{prompts.name.split('/')[1]}/{view}", config=view, inputs=[prompts])
    for number in range(prompts.counts["num_shards"]):
        rows = []
        for prompt_id in read_table(prompts.path(shard_name(number)))["prompt_id"].to_pylist():
            index = int(prompt_id.split("/")[1])
            text = {"diffusion-500": rejected_text(index), "moco": rejected_text(index + 5)}.get(
                view, f"answer number {index}"
            )
            rows.append(Response(prompt_id=prompt_id, text=text.strip(), token_ids=[index], finish_reason="stop"))
        write_table(artifact.path(shard_name(number)), table(rows, RESPONSE_SCHEMA))
    return artifact.finish({})


@dataclass(frozen=True, kw_only=True)
class Answers:
    store: Store
    prompts: Artifact
    chosen: Artifact
    rejected: Artifact

    def pair(self, **config: object) -> Artifact:
        return pair(Pair(**config), self.store, self.prompts, self.chosen, [self.rejected])  # type: ignore[arg-type]

    def verdicts(self, pairs: Artifact) -> dict[str, tuple[str, str]]:
        """prompt_id -> (source, verdict)."""
        rows = [
            row
            for number in range(self.prompts.counts["num_shards"])
            for row in read_table(pairs.path("verdicts", shard_name(number))).to_pylist()
        ]
        return {row["prompt_id"]: (row["source"], row["verdict"]) for row in rows}

    def kept(self, pairs: Artifact) -> set[str]:
        return {prompt_id for prompt_id, (_, verdict) in self.verdicts(pairs).items() if verdict == "kept"}


def make_answers(store: Store, shard_size: int) -> Answers:
    prompts = prepare(Prepare(shard_size=shard_size), store, f"by{shard_size}", TwoSources())
    chosen, rejected = (answered(store, prompts, view) for view in ("clean", "diffusion-500"))
    return Answers(store=store, prompts=prompts, chosen=chosen, rejected=rejected)


@pytest.fixture(scope="module")
def answers(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return make_answers(Store(str(tmp_path_factory.mktemp("runs"))), shard_size=17)


def test_without_filters_only_equal_and_empty_answers_are_dropped(answers: Answers):
    pairs = answers.pair()
    expected = dict.fromkeys(VERDICTS, 0) | {"kept": 48, "equal": 6, "empty": 6}
    assert pairs.counts["verdicts"] == expected
    assert not any(pairs.counts["verdicts"][verdict] for verdict in OPTIONAL)
    assert read_pairs(pairs).schema.equals(PAIR_SCHEMA)


def test_filters_and_quotas_give_each_prompt_one_verdict_and_the_counts_add_up(answers: Answers):
    filters = Filters(repetition=2, length_ratio=(0.5, 2.0))
    pairs = answers.pair(name="cut", filters=filters, max_per_source={"ocr_vqa": 7, "textvqa": 100})
    counts, rows = pairs.counts["verdicts"], answers.verdicts(pairs)
    assert pairs.name == "pairs/model/by17/diffusion-500+cut"
    assert sum(counts.values()) == len(rows) == NUM_PROMPTS
    assert {verdict: count for verdict, count in counts.items() if count} == Counter(v for _, v in rows.values())
    assert (counts["equal"], counts["empty"], counts["repetition"], counts["length_ratio"]) == (6, 6, 6, 6)
    assert Counter(rows.values())["ocr_vqa", "kept"] == 7
    assert Counter(rows.values())["textvqa", "kept"] == 18  # fewer than the quota: all of them
    assert counts["surplus"] == 18 - 7
    assert set(read_pairs(pairs)["prompt_id"].to_pylist()) == answers.kept(pairs)
    assert read_bytes(pairs.path("pairs.json")).count(b'"reject"') == counts["kept"] == 25


def test_a_shard_without_a_kept_pair_has_no_file_but_all_its_verdicts(answers: Answers):
    pairs = answers.pair(name="few", max_per_source={"ocr_vqa": 1, "textvqa": 1})
    kept, num_shards = answers.kept(pairs), answers.prompts.counts["num_shards"]
    assert len(kept) == 2 < num_shards
    assert len(files_of(pairs)) <= 2
    assert set(read_pairs(pairs)["prompt_id"].to_pylist()) == kept
    assert len(answers.verdicts(pairs)) == NUM_PROMPTS
    assert len(json.loads(read_bytes(pairs.path("pairs.json")))) == 2


def test_several_views_of_a_prompt_stay_together_and_each_has_its_verdict(answers: Answers):
    moco = answered(answers.store, answers.prompts, "moco")
    pairs = pair(Pair(name="two"), answers.store, answers.prompts, answers.chosen, [answers.rejected, moco])
    assert pairs.name == "pairs/model/by17/diffusion-500--moco+two"
    assert pairs.counts["views"]["diffusion-500"] == answers.pair().counts["verdicts"]
    by_view: dict[str, set[str]] = {"diffusion-500": set(), "moco": set()}
    for number in range(answers.prompts.counts["num_shards"]):
        for row in read_table(pairs.path("verdicts", shard_name(number))).to_pylist():
            if row["verdict"] == "kept":
                by_view[row["view"]].add(row["prompt_id"])
    assert by_view["moco"] != by_view["diffusion-500"]
    rows = {row["prompt_id"]: row for row in read_pairs(pairs).to_pylist()}
    assert set(rows) == by_view["moco"] | by_view["diffusion-500"]
    for prompt_id, row in rows.items():
        assert [item["view"] for item in row["rejected"]] == [view for view in by_view if prompt_id in by_view[view]]
        assert all(item["text"] != row["chosen"] for item in row["rejected"])
    assert pairs.counts["verdicts"]["kept"] == len(rows)
    assert sum(pairs.counts["verdicts"].values()) == NUM_PROMPTS
    assert read_bytes(pairs.path("pairs.json")).count(b'"reject"') == sum(map(len, by_view.values()))


def test_the_control_of_other_prompts_keeps_the_same_prompts_and_rejects_answers_to_others(answers: Answers):
    plain, control = answers.pair(), answers.pair(name="others", rejected="other_prompt")
    assert answers.kept(control) == answers.kept(plain)
    assert control.counts["verdicts"] == plain.counts["verdicts"]
    for row in read_pairs(control).to_pylist():
        (rejected,) = row["rejected"]
        index = int(row["prompt_id"].split("/")[1])
        assert row["chosen"] == f"answer number {index}"
        assert rejected["text"].startswith("answer number ")
        assert rejected["token_ids"] != row["chosen_token_ids"]
        assert rejected["text"] == f"answer number {rejected['token_ids'][0]}"
    with pytest.raises(ConfigError, match="rejected 'others': must be one of view, other_prompt"):
        Pair(rejected="others")  # type: ignore[arg-type]


def test_one_view_cannot_be_rejected_twice(answers: Answers):
    with pytest.raises(ConfigError, match="views diffusion-500 diffusion-500: each may be given once"):
        pair(Pair(), answers.store, answers.prompts, answers.chosen, [answers.rejected, answers.rejected])


def test_a_control_view_may_leave_no_pair_and_its_counts_are_the_floor(answers: Answers):
    control = answered(answers.store, answers.prompts, "control-batch")
    pairs = pair(Pair(), answers.store, answers.prompts, answers.chosen, [control])
    assert pairs.counts["views"]["control-batch"]["kept"] == 0
    assert pairs.counts["verdicts"]["equal"] == NUM_PROMPTS


def test_the_pairs_within_a_quota_are_nested_and_do_not_depend_on_shards(answers: Answers):
    few, more = (answers.kept(answers.pair(name=f"q{count}", max_per_source={"textvqa": count})) for count in (5, 12))
    assert few < more
    other = make_answers(answers.store, shard_size=4)
    assert other.kept(other.pair(name="q12", max_per_source={"textvqa": 12})) == more


def test_a_quota_for_a_source_that_no_prompt_has_is_one_line(answers: Answers):
    with pytest.raises(
        ConfigError, match="max_per_source ocrvqa: no prompt has this source; the sources are ocr_vqa, text"
    ):
        answers.pair(name="typo", max_per_source={"ocrvqa": 5})


def test_filters_that_leave_no_pair_say_that_it_is_they(answers: Answers):
    with pytest.raises(NothingLeft, match=r"36 length_ratio, 6 edit_distance.*loosen its filters"):
        answers.pair(name="strict", filters=Filters(repetition=2, length_ratio=(2.5, 9.0), edit_distance=(0.0, 0.0)))


def test_responses_that_all_failed_say_why_and_leave_the_name_free(
    answers: Answers, capsys: pytest.CaptureFixture[str]
):
    store = answers.store
    artifact = store.open("responses/model/by17/diffusion-700", config="failed", inputs=[answers.prompts])
    for number in range(answers.prompts.counts["num_shards"]):
        ids = read_table(answers.prompts.path(shard_name(number)))["prompt_id"].to_pylist()
        rows = [Response(prompt_id=key, error=f"image '{key}.png': no such file under image_root") for key in ids]
        write_table(artifact.path(shard_name(number)), table(rows, RESPONSE_SCHEMA))
    failed = artifact.finish({})
    why = "60 failed, such as 'ocr_vqa/0': image 'ocr_vqa/0.png': no such file under image_root"
    with pytest.raises(NothingLeft) as caught:
        pair(Pair(), store, answers.prompts, answers.chosen, [failed])
    shown = "0 kept, 0 equal, 0 empty, 0 truncated, 60 failed"
    assert str(caught.value) == f"pairs/model/by17/diffusion-700: no pair is left ({shown}); {why}"
    assert capsys.readouterr().err.splitlines()[-2:] == [f"pair diffusion-700: {shown}", f"pair diffusion-700: {why}"]
    assert not exists(store.uri("pairs/model/by17/diffusion-700"))


def test_other_rules_under_the_same_name_are_refused_and_a_name_is_not_a_rule(answers: Answers):
    plain = answers.pair()
    with pytest.raises(FingerprintMismatch, match=r"config\.filters\.repetition: null -> 2"):
        answers.pair(filters=Filters(repetition=2))
    assert answers.pair(name="same").fingerprint == plain.fingerprint
    assert exists(answers.store.uri("pairs/model/by17/diffusion-500+same/record.json"))


@pytest.mark.parametrize("count", [-1, 2.5, True])
def test_a_quota_that_is_no_count_is_refused(count: object):
    with pytest.raises(ConfigError, match=f"max_per_source of ocr_vqa {count}: must be a whole number from 0"):
        Pair(max_per_source={"ocr_vqa": count})  # type: ignore[dict-item]


def test_filters_and_quotas_are_set_on_the_command_line():
    words = (
        "--pair.filters.length-ratio 0.5 2 --pair.filters.repetition 3 --pair.max-per-source ocr_vqa 4300 textvqa 6500"
    )
    job = tyro.cli(PairJob, default=PairJob(prompts="p", model="m", views=("moco",)), args=words.split())
    assert job.pair == Pair(
        filters=Filters(length_ratio=(0.5, 2.0), repetition=3), max_per_source={"ocr_vqa": 4300, "textvqa": 6500}
    )
