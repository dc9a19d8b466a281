"""Several rounds of one run: their names, their prompts, their pairs and their page."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

import full
from seva_ray.benchmarks import Benchmarks
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.dpo.config import Train
from seva_ray.pairs.files import lineage
from seva_ray.sources import ToyWorld
from seva_ray.stages.browse import Browse, browse
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.rounds import Rounds, pairs_of_round, prompts_of_rounds, round_name
from seva_ray.stages.rounds_report import report_rounds
from seva_ray.stages.training.training import Training
from seva_ray.vlm.models import Model
from tests.finished_run import finish
from tests.kept import read_pairs
from tests.made_up import ids_of, made_up_pairs, made_up_responses

MODELS = [Model(name=name, directory=f"/models/{name}", fingerprint=name) for name in ("first", "second")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def prompts(store: Store) -> Artifact:
    return prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=9))


def paired(store: Store, model: Model, prompts: Artifact, answers: dict[str, str]) -> Artifact:
    """The pairs of one round: the answer to every prompt is `yes`, and in the noised view it is `answers` or `yes`."""
    clean = dict.fromkeys(ids_of(prompts), "yes")
    chosen, rejected = (
        made_up_responses(store, model, prompts, view, texts)
        for view, texts in (("clean", clean), ("moco", clean | answers))
    )
    return made_up_pairs(store, prompts, chosen, rejected)


def test_the_first_round_has_the_name_of_the_run_so_that_a_run_can_be_continued():
    assert [round_name("toy", number) for number in (1, 2, 3)] == ["toy", "toy-round2", "toy-round3"]


def test_each_round_has_fresh_images_and_its_part_does_not_depend_on_the_number_of_rounds(store, prompts):
    config = Rounds(num_prompts=16)
    parts = prompts_of_rounds(config, store, prompts, 3)
    assert [part.name for part in parts] == [f"prompts/toy-round{number}-of-16" for number in (1, 2, 3)]
    images = [set(ids_of(part, "image_id")) for part in parts]
    assert all(images)
    assert len(set.union(*images)) == sum(map(len, images)), "no image is in two parts"
    for part in parts:
        of_images = [name for name, image in zip(ids_of(prompts), ids_of(prompts, "image_id"), strict=True)
                     if image in set(ids_of(part, "image_id"))]  # fmt: skip
        assert ids_of(part) == of_images, "all questions about an image, in the order of the prompts"
        assert abs(len(of_images) - 16) <= max(Counter(ids_of(prompts, "image_id")).values())
    assert [part.fingerprint for part in prompts_of_rounds(config, store, prompts, 2)] == [
        part.fingerprint for part in parts[:2]
    ]
    assert prompts_of_rounds(Rounds(), store, prompts, 2) == [prompts, prompts]


def test_too_few_prompts_for_fresh_ones_are_one_line(store, prompts):
    there = f"prompts/toy has {prompts.counts['num_prompts']};"
    with pytest.raises(InputError, match=rf"round\.num_prompts 30: 3 rounds need 90 prompts, and {there}"):
        prompts_of_rounds(Rounds(num_prompts=30), store, prompts, 3)


def test_the_union_has_the_pairs_of_all_rounds_and_those_that_came_again_once(store, prompts):
    names = ids_of(prompts)
    rounds = [
        paired(store, MODELS[0], prompts, {names[0]: "no", names[1]: "no", names[-1]: "no"}),
        paired(store, MODELS[1], prompts, {names[1]: "no", names[2]: "no", names[-1]: "never"}),
    ]
    assert pairs_of_round(Rounds(), store, rounds) == rounds[1]
    assert pairs_of_round(Rounds(pairs="union"), store, rounds[:1]) == rounds[0]
    union = pairs_of_round(Rounds(pairs="union"), store, rounds)
    assert union.name == "pairs/second/toy/moco+union"
    found = [(row["prompt_id"], row["rejected"][0]["text"]) for row in read_pairs(union).to_pylist()]
    assert found == [
        (names[0], "no"), (names[1], "no"), (names[-1], "no"), (names[2], "no"), (names[-1], "never"),
    ]  # fmt: skip
    assert union.counts["verdicts"]["kept"] == len(found)
    assert union.counts["verdicts"]["surplus"] == 1
    assert sum(union.counts["verdicts"].values()) == union.counts["num_prompts"] == 2 * len(names)
    assert [item.name for item in lineage(store, union)[2]] == ["responses/second/toy/moco"]
    official = json.loads(Path(union.path("pairs.json")).read_text())
    assert [row["reject"] for row in official] == [text for _, text in found]
    assert pairs_of_round(Rounds(pairs="union"), store, rounds).finished == union.finished, "it is made once"
    with pytest.raises(InputError, match=r"browse .*pairs/first/toy/moco, pairs/second/toy/moco"):
        browse(Browse(to=f"{store.root}/pages"), store, union.name)


def test_the_reference_is_in_the_recipe_only_if_it_is_not_the_model_that_training_starts_from(store, prompts):
    pairs = paired(store, MODELS[1], prompts, {ids_of(prompts)[0]: "no"})
    usual = Training(config=Train(), name="a", model=MODELS[1], pairs=pairs)
    other = replace(usual, reference=MODELS[0])
    assert "reference" not in usual.open(store).recipe["config"]
    assert other.open(store).recipe["config"]["reference"] == MODELS[0].fingerprint
    assert usual.open_logps(store).name == "logps/second/toy/moco/bfloat16"
    assert other.open_logps(store).name == "logps/second/toy/moco/bfloat16-by-first"
    assert other.open_logps(store).recipe["config"]["model"] == MODELS[0].fingerprint


def test_a_job_of_several_rounds_names_them_and_cannot_stop_within_one():
    job = tyro.cli(full.Full, default=full.PRESETS["toy"], args=["--rounds", "3", "--round.pairs", "union"])
    assert job.names() == ["toy", "toy-round2", "toy-round3"]
    assert job.round == Rounds(pairs="union")
    with pytest.raises(ConfigError, match="until pair: a run of several rounds cannot stop there"):
        replace(job, until="pair")
    with pytest.raises(ConfigError, match="rounds 0"):
        replace(job, rounds=0)


def two_rounds(root: Path) -> full.Full:
    """A job of two rounds on two images."""
    benchmarks = Benchmarks(toy_images=3, toy_cameras=("clean",))
    return replace(full.PRESETS["toy"], root=str(root), source=ToyWorld(num_images=2), benchmarks=benchmarks, rounds=2)


class Killed(Exception):
    """Stands for a kill, and for a training that would take minutes."""


def files_in(root: str) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and its bytes."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(root).rglob("*") if path.is_file()}


def test_a_run_that_was_killed_in_the_second_round_goes_on_there_and_writes_nothing_of_the_first_again(
    tmp_path: Path, toy_model: str, monkeypatch: pytest.MonkeyPatch
):
    config = two_rounds(tmp_path)
    store = finish(config, toy_model)
    for unfinished in ("policies/toy-round2", "scores/toy-test-clean-2024-3/toy-round2"):
        Path(store.uri(unfinished), "record.json").unlink()
    before, trained, train = files_in(store.root), [], full.train

    def watched(*arguments: Any) -> Artifact:
        name, start, pairs, reference = arguments[2:]
        if name == "toy":
            return train(*arguments)
        trained.append((name, start.name, pairs.name, reference))
        raise Killed

    monkeypatch.setattr(full, "train", watched)
    with pytest.raises(Killed):
        full.main(config)
    assert trained == [("toy-round2", "toy", f"pairs/toy/toy/{config.views[0]}", None)]
    assert files_in(store.root) == before


def test_a_finished_run_of_two_rounds_only_reuses_and_its_page_has_the_curve(
    tmp_path: Path, toy_model: str, capsys: pytest.CaptureFixture
):
    config = two_rounds(tmp_path)
    store = finish(config, toy_model)
    capsys.readouterr()
    full.main(config)
    said = capsys.readouterr()
    assert "reused: prompts, 8 responses, 4 pairs, 2 policies, 2 scores" in said.err
    page = Path(store.uri("rounds/toy/index.html"))
    assert said.out.splitlines()[-1] == str(page)
    assert [line for line in said.out.splitlines() if "aligned from" in line] == [
        "toy, aligned from toy-1:", "toy-round2, aligned from toy-1:",
    ]  # fmt: skip
    html = page.read_text()
    assert re.search(r"VQA accuracy on toy-test-clean-2024-3: \d+\.\d → \d+\.\d → \d+\.\d<", html)
    assert '<a href="../../reports/toy-round2/index.html">toy-round2</a>' in html
    assert (page.parent / "../../reports/toy-round2/index.html").exists()
    assert html.count("data:image/svg+xml") == 1
    capsys.readouterr()
    report_rounds(store, config.names(), "")
    assert capsys.readouterr().err == f"rounds: {page} (unchanged)\n"
    report_rounds(store, config.names()[:1], "")
    assert "unchanged" not in capsys.readouterr().err
