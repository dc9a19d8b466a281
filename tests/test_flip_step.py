"""Noise ladders as a view of pairs: the first step at which the answer differs, without asking at stronger ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import full
from seva_ray.augmentations import parse_view
from seva_ray.augmentations.diffusion import Diffusion
from seva_ray.augmentations.ladder import Ladder, plain_view, views_below
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.records import Response
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table
from seva_ray.engines import FakeEngine, Request
from seva_ray.engines.config import Generate
from seva_ray.engines.encoded import encode, encoded_of
from seva_ray.engines.units import answer
from seva_ray.pairs.hardness import Select
from seva_ray.sources import ToyWorld
from seva_ray.stages import generate as stage
from seva_ray.stages.pair import ANY, Pair, Sides, open_pairs, pair_shard
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.select_pairs import select_pairs
from seva_ray.vlm.models import Model
from seva_ray.vlm.rows import PIXELS
from seva_ray.vlm.views import Viewer
from tests.kept import read_pairs
from tests.made_up import made_up_pairs

VIEW, STEPS = "ladder-100:900:200", (100, 300, 500, 700, 900)
MODEL = Model(name="model", directory="/models/model", fingerprint="0")
CONFIG = Generate(engine=FakeEngine(), system="")


class Judge:
    """An engine that answers by how far the pixels are from 0: more noise changes the answer, sooner or later."""

    num_unanswered = 0

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.encoder = CONFIG.engine.encoder("", "")

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        self.asked += [request.prompt_id for request in requests]
        return [
            Response(
                prompt_id=request.prompt_id,
                text=f"about {np.abs(self.encoder.finished(request.row).features[PIXELS]).mean():.1f}",
                token_ids=[1],
                finish_reason="stop",
            )
            for request in requests
        ]

    def switch(self, directory: str) -> None:
        raise NotImplementedError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def prompts(store: Store) -> Artifact:
    return prepare(Prepare(shard_size=16), store, "toy", ToyWorld(num_images=4))


def answered(store: Store, prompts: Artifact, view: str, engine: Judge) -> Artifact:
    """One view, answered in this process."""
    artifact = stage.open_responses(CONFIG, store, MODEL, prompts, view)
    encoder = CONFIG.engine.encoder(MODEL.directory, "")
    viewer = Viewer(encoder=encoder, image_root=None, max_pixels=10**8)
    for unit in stage.units_of(MODEL, prompts, view, artifact):
        (encoded,) = encoded_of(*encode([unit], viewer))
        answer(encoded, engine)
    return stage.finish_responses(prompts, stage.open_responses(CONFIG, store, MODEL, prompts, view))


def texts_of(prompts: Artifact, responses: Artifact) -> dict[str, str]:
    return {row.prompt_id: row.text for row in stage.read_responses(prompts, responses)}


def test_a_ladder_has_the_steps_of_its_label_and_its_answers_are_those_of_plain_views():
    ladder = Ladder.of(VIEW)
    assert ladder
    assert tuple(ladder.steps) == STEPS
    assert parse_view(VIEW) == Diffusion(noise_step=900)
    assert (plain_view(VIEW), plain_view("moco")) == ("diffusion-900", "moco")
    assert views_below(VIEW) == ["diffusion-100", "ladder-100:300:200", "ladder-100:500:200", "ladder-100:700:200"]
    assert views_below("diffusion-100") == []


@pytest.mark.parametrize("label", ["ladder-900:100:200", "ladder-100:100:200", "ladder-100:900:300"])
def test_a_ladder_that_never_reaches_its_last_step_is_one_line(label: str):
    with pytest.raises(ConfigError, match=rf"view '{label}': must be ladder-<first step>:<last step>:<stride>"):
        parse_view(label)


@pytest.mark.parametrize("label", ["ladder-100:1900:200", "ladder-100:900", "ladder-0100:900:200"])
def test_other_labels_are_no_ladders(label: str):
    with pytest.raises(ConfigError):
        parse_view(label)


def test_a_ladders_answer_is_the_first_that_differs_and_what_has_flipped_is_not_asked_again(store, prompts, capsys):
    whole = {
        step: texts_of(prompts, answered(store, prompts, view, Judge()))
        for step, view in [(None, "clean"), *((step, f"diffusion-{step}") for step in STEPS)]
    }
    first = {
        name: next((step for step in STEPS if whole[step][name] != text), None) for name, text in whole[None].items()
    }
    assert {100, 500} <= set(first.values()), f"a test of both early and late flips: {first}"
    for view in views_below(VIEW)[1:]:
        engine, last = Judge(), int(plain_view(view).removeprefix("diffusion-"))
        answered(store, prompts, view, engine)
        assert set(engine.asked) == {name for name, step in first.items() if step is None or step >= last}
    capsys.readouterr()
    made = answered(store, prompts, VIEW, Judge())
    late = [name for name, step in first.items() if step is None or step == 900]
    assert made.counts["num_asked"] == len(late)
    saved = len(first) - len(late)
    assert f"{len(late)} prompts were asked at the last step, {saved} passes saved" in capsys.readouterr().err
    for row in stage.read_responses(prompts, made):
        step = first[row.prompt_id] or 900
        assert (row.view, row.text) == (f"diffusion-{step}", whole[step][row.prompt_id])
    names = [read_table(item.path(shard_name(0)))["prompt_id"].to_pylist() for item in (prompts, made)]
    assert names[0] == names[1]


def test_a_pair_names_the_step_at_which_its_answer_flipped(store, prompts):
    chosen, *_, rejected = [answered(store, prompts, view, Judge()) for view in ("clean", *views_below(VIEW), VIEW)]
    pairs = open_pairs(Pair(), store, prompts, chosen, [rejected])
    assert pairs.name == f"pairs/model/toy/{VIEW}"
    counts, _ = pair_shard(
        Pair(), Sides(prompts=prompts, chosen=chosen, rejected={VIEW: rejected}), pairs.begin(), {}, shard_name(0)
    )
    views = {row.prompt_id: row.view for row in stage.read_responses(prompts, rejected)}
    rows = read_pairs(pairs).to_pylist()
    assert len(rows) == counts[VIEW]["kept"] == counts[ANY]["kept"] > 0
    assert {row["prompt_id"]: row["rejected"][0]["view"] for row in rows}.items() <= views.items()
    assert len({row["rejected"][0]["view"] for row in rows}) > 1
    with pytest.raises(ConfigError, match="a noise ladder is the only view of its pairs"):
        open_pairs(Pair(), store, prompts, chosen, [rejected, answered(store, prompts, "diffusion-200", Judge())])


def test_pairs_of_a_ladder_can_be_selected_by_their_own_steps(store, prompts):
    chosen, *_, rejected = [answered(store, prompts, view, Judge()) for view in ("clean", *views_below(VIEW), VIEW)]
    steps = [
        row["rejected"][0]["view"] for row in read_pairs(made_up_pairs(store, prompts, chosen, rejected)).to_pylist()
    ]
    middle = f"diffusion-{STEPS[2]}"
    assert middle in steps
    some = select_pairs(Select(name="a", flip_step=(STEPS[2], STEPS[2])), store, f"model/toy/{VIEW}")
    kept = [row["rejected"][0]["view"] for row in read_pairs(some).to_pylist()]
    assert kept == [view for view in steps if view == middle]


def test_answers_that_failed_are_carried_on_as_failed(store, prompts):
    class Fails(Judge):
        def generate(self, requests):
            first, *others = super().generate(requests)
            return [Response(prompt_id=first.prompt_id, error="out of luck"), *others]

    answered(store, prompts, "clean", Judge())
    answered(store, prompts, "diffusion-100", Fails())
    engine = Judge()
    made = answered(store, prompts, "ladder-100:300:200", engine)
    failed = [row for row in stage.read_responses(prompts, made) if row.error]
    assert len(failed) == prompts.counts["num_shards"]
    assert not {row.prompt_id for row in failed} & set(engine.asked)


def test_a_step_whose_plain_view_is_there_is_made_without_an_engine(store, prompts):
    for view in ("clean", "diffusion-100", "diffusion-300"):
        answered(store, prompts, view, Judge())
    view = "ladder-100:300:200"
    (made,) = stage.generated(CONFIG, store, [(MODEL, prompts, view)])
    clean, first, second = (
        texts_of(prompts, stage.open_responses(CONFIG, store, MODEL, prompts, plain))
        for plain in ("clean", "diffusion-100", "diffusion-300")
    )
    assert texts_of(prompts, made) == {
        name: first[name] if first[name] != text else second[name] for name, text in clean.items()
    }


def test_the_work_of_a_ladder_is_done_step_by_step_and_other_work_at_once(store, prompts):
    steps = list(stage.steps_of([(MODEL, prompts, view) for view in ("clean", "moco", "ladder-100:500:200")]))
    assert [[view for *_, view in tasks] for tasks in steps] == [
        ["clean", "moco", "diffusion-100", "clean"], ["ladder-100:300:200"], ["ladder-100:500:200"],
    ]  # fmt: skip
    assert list(stage.steps_of([(MODEL, prompts, "moco")])) == [[(MODEL, prompts, "moco")]]


def test_the_main_job_takes_a_ladder():
    job = full.Full(name="a", model="toy", source=ToyWorld(), views=(VIEW,))
    assert job.views == (VIEW,)
